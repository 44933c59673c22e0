"""Code that changes while workflows are under way: what is executed again, and what `ctx.patched` answers."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from pgqrs import (
    Admin,
    InvalidNameError,
    JsonCodec,
    PyWorkflow,
    StepMismatchError,
    TransientError,
    Worker,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.engine.step_runner import ALWAYS_REPLAY
from pgqrs.testing import crash_everywhere
from tests.support.families import is_waiting
from tests.support.recorded import steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, Killed

pytest_plugins = ("pytest_pgqrs",)

ASK = "?"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "changing-code.md"


class Code:
    """A workflow whose code is a list of steps, which can be changed; `?` asks for the patch `new`."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.answers: list[bool] = []

    def step(self, name: str, body=None):
        @step(id=name)
        async def each(ctx: PyWorkflow) -> str:
            self.executed.append(name)
            return name if body is None else await body(ctx)

        return each

    def of(self, *lines: str, then: BaseException | None = None):
        """Return the workflow that executes these lines, and raises an error at the end."""

        @workflow(name="wf")
        async def code(ctx: PyWorkflow) -> list:
            answers = []
            for each in lines:
                if each == ASK:
                    answers.append(await ctx.patched("new"))
                else:
                    await self.step(each)(ctx)
            if then is not None:
                raise then
            return answers

        return code


@pytest.fixture
def code():
    return Code()


@pytest.fixture
def deploy(admin, code):
    """Run a workflow by old code until it dies, and return what new code returns, executed and has recorded."""

    async def run(old, new):
        ctx = await admin.create_workflow("wf")
        with pytest.raises(Killed):
            await old(ctx)
        code.executed.clear()
        async with no_hang():
            return await new(await admin.get_workflow(ctx.id()))

    return run


# --- the table of docs/changing-code.md ---

CHANGES = {
    "a step is added at the end": ("a b", "a b c", "c"),
    "a step is added before recorded steps": ("a b", "new a b", "new"),
    "steps are reordered": ("a b", "b a", ""),
    "a step is removed": ("a b", "b", ""),
    "a step is renamed": ("a b", "a renamed", "renamed"),
    "a step is replaced by two": ("a b", "a b1 b2", "b1 b2"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_change_of_steps_executes_what_the_table_says(code, deploy, change):
    old, new, executed = (each.split() for each in CHANGES[change])
    await deploy(code.of(*old, then=Killed()), code.of(*new))
    assert code.executed == executed


ANSWERS = {
    "nothing is recorded": ("", "? a", True),
    "the workflow has come as far as this place": ("a", "a ? b", True),
    "the workflow has passed this place": ("a b", "a ? b", False),
    "the first line": ("a", "? a", False),
    "a step is added before this place": ("a", "new a ? b", True),
    "a step is added behind this place": ("a b", "a ? new b", False),
    "steps before this place are reordered": ("a b", "b a ? c", True),
    "steps behind this place are reordered": ("a b c", "a ? c b", False),
    "a step before this place is removed": ("a b", "b ? c", True),
    "a step before this place is renamed": ("a b", "renamed b ? c", True),
    "the last step is removed": ("a b", "a ? c", False),
    "the last step is renamed": ("a b", "a renamed ? c", False),
    "a step is moved behind this place": ("a b", "b ? a", True),
    "a step is moved before this place": ("a b", "b a ?", True),
}


@pytest.mark.parametrize("change", ANSWERS)
async def test_answer_of_a_patch_is_that_of_the_table(code, deploy, change):
    old, new, answer = ANSWERS[change]
    assert await deploy(code.of(*old.split(), then=Killed()), code.of(*new.split())) == [answer]


def test_table_of_the_documentation_is_that_of_the_tests():
    rows = [
        line.split("|") for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| ") and "?" in line
    ]
    told = {
        (recorded.strip(" `").replace("nothing", ""), code, answer.strip() == "True")
        for _, recorded, codes, answer, *_ in rows
        for code in codes.strip().strip("`").split("`, `")
    }
    assert told >= {each for name, each in ANSWERS.items() if name != "a step is moved before this place"}


async def test_step_that_new_code_has_added_proves_nothing(admin, code):
    ctx = await admin.create_workflow("wf")
    for lines in ("a b", "a new"):
        with pytest.raises(Killed):
            await code.of(*lines.split(), then=Killed())(ctx)
    assert await code.of("a", "new", ASK, "b")(ctx) == [False]


# --- the answer is recorded, and the same everywhere ---


@pytest.mark.parametrize("old", ["", "a"])
async def test_answer_is_the_same_in_later_runs(admin, sql, code, old):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await code.of(*old.split(), then=Killed())(ctx)
    for lines in ("? a", "? a b ?", "a b ? c ?"):
        with pytest.raises(Killed):
            await code.of(*lines.split(), then=Killed())(ctx)
    assert await code.of(*["a", "?", "b", "?", "c", "?"])(ctx) == [not old] * 3
    assert (await steps(sql, ctx))["patch/new"] == "SUCCESS"


async def test_answer_in_a_loop_is_that_of_the_first_pass(admin, code):
    def loop(*, is_old, passes):
        @workflow(name="wf")
        async def looping(ctx: PyWorkflow) -> list:
            done = []
            for each in range(passes):
                is_new = not is_old and await ctx.patched("loop")
                done.append(await code.step(f"{'new' if is_new else 'old'} {each}")(ctx))
            if is_old:
                raise Killed
            return done

        return looping

    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await loop(is_old=True, passes=2)(ctx)
    assert await loop(is_old=False, passes=3)(ctx) == ["old 0", "old 1", "old 2"]
    assert await loop(is_old=False, passes=2)(await admin.create_workflow("wf")) == ["new 0", "new 1"]


async def test_call_of_a_patch_can_be_deleted(admin, sql, code, caplog):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await code.of("a", ASK, "b", then=Killed())(ctx)
    code.executed.clear()
    with pytest.raises(Killed):
        await code.of("a", "b", then=Killed())(ctx)

    @workflow(name="wf")
    async def other(ctx: PyWorkflow) -> bool:
        await code.step("a")(ctx)
        await code.step("b")(ctx)
        return await ctx.patched("another")

    assert await other(ctx) is True  # the row that nothing asks for does not count
    assert code.executed == []
    assert "did not use" not in caplog.text
    assert (await steps(sql, ctx))["patch/new"] == "SUCCESS"


async def test_two_patches_at_one_place_are_independent(admin):
    @workflow(name="wf")
    async def first(ctx: PyWorkflow) -> None:
        assert await ctx.patched("one")
        raise Killed

    @workflow(name="wf")
    async def second(ctx: PyWorkflow) -> list:
        return [await ctx.patched("two"), await ctx.patched("one")]

    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await first(ctx)
    assert await second(ctx) == [True, True]


@pytest.mark.parametrize("name", ["", "a\0b", "n" * 513, 7])
async def test_invalid_name_of_a_patch_is_refused(admin, name):
    @workflow
    async def bad(ctx: PyWorkflow) -> None:
        await ctx.patched(name)

    with pytest.raises(InvalidNameError):
        await admin.run(bad)


async def test_name_with_a_slash_and_a_colon_is_a_name(admin):
    @workflow
    async def odd(ctx: PyWorkflow) -> list:
        return [await ctx.patched("a/b:c"), (await admin.list_steps(ctx.id()))[0].step_id]

    assert await admin.run(odd) == [True, "patch/a%2Fb%3Ac"]


async def test_outcome_of_another_step_is_no_answer(admin):
    @workflow
    async def mixed(ctx: PyWorkflow) -> None:
        found = await ctx.acquire_step("patch/new")
        if found.guard is not None:
            await found.guard.success("yes")
        with pytest.raises(StepMismatchError):
            await ctx.patched("new")

    await admin.run(mixed)


# --- what counts as recorded ---


async def test_time_and_message_behind_the_place_count(admin, code, deploy):
    def of(*, asks, kind):
        @workflow(name="wf")
        async def waiting(ctx: PyWorkflow) -> bool:
            is_new = asks and await ctx.patched("new")
            if kind == "now":
                await ctx.now()
            elif kind == "sleep":
                await ctx.sleep(0)
            elif kind == "receive":
                await ctx.receive("paid", timeout=0, default=None)
            else:
                await ctx.set_event("status", 1)
            if not asks:
                raise Killed
            return is_new

        return waiting

    for kind in ("now", "sleep", "receive", "event"):
        assert await deploy(of(asks=False, kind=kind), of(asks=True, kind=kind)) is False


async def test_time_before_the_place_does_not_count(admin, deploy):
    def of(*, asks):
        @workflow(name="wf")
        async def waiting(ctx: PyWorkflow) -> bool:
            await ctx.now()
            await ctx.sleep(0)
            await ctx.receive("paid", timeout=0, default=None)
            await ctx.set_event("status", 1)
            if not asks:
                raise Killed
            return await ctx.patched("new")

        return waiting

    assert await deploy(of(asks=False), of(asks=True)) is True


def failing(*, asks, first):
    """Return a workflow whose step fails once and is retried; `first` says that the patch comes before it."""
    failures = [TransientError("busy", retry_after=0.5)] if not asks else []

    @step(retry=3)
    async def flaky(ctx: PyWorkflow) -> None:
        if failures:
            raise failures.pop()

    @workflow(name="wf")
    async def wf(ctx: PyWorkflow) -> bool:
        is_new = asks and first and await ctx.patched("new")
        await flaky(ctx)
        return is_new or (asks and not first and await ctx.patched("new"))

    return wf


@pytest.mark.parametrize("first", [True, False])
async def test_step_that_is_retried_behind_the_place_counts(admin, sql, first):
    ctx = await admin.create_workflow("wf")
    run = asyncio.create_task(failing(asks=False, first=first)(ctx))
    async with no_hang():
        await until(lambda: sql.fetchval("SELECT failures = 1 FROM pgqrs_workflow_steps"))
        run.cancel()
        await asyncio.wait([run])
        assert await failing(asks=True, first=first)(await admin.get_workflow(ctx.id())) is not first


async def test_failed_step_of_a_resumed_workflow_does_not_count(admin, code):
    @step
    async def broken(ctx: PyWorkflow) -> None:
        raise ValueError("a bug")

    @workflow(name="wf")
    async def old(ctx: PyWorkflow) -> None:
        await code.step("a")(ctx)
        await broken(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(ValueError, match="a bug"):
        await old(ctx)
    assert await code.of("a", ASK, "broken")(await admin.resume_workflow(ctx.id())) == [True]
    assert code.executed == ["a", "broken"]


# --- steps that call steps ---


def nesting(code, *, together, then):
    """Return a workflow whose steps call steps, one after the other or together."""

    async def inner(ctx):
        return await code.step("inner")(ctx)

    async def other(ctx):
        return await code.step("other inner")(ctx)

    outers = code.step("outer", inner), code.step("other outer", other)

    @workflow(name="wf")
    async def wf(ctx: PyWorkflow) -> list:
        if together:
            await asyncio.gather(*(each(ctx) for each in outers))
        else:
            for each in outers:
                await each(ctx)
        if then is not None:
            raise then
        return [await ctx.patched("new"), await code.step("last")(ctx)]

    return wf


@pytest.mark.parametrize("together", [False, True])
async def test_steps_within_replayed_steps_do_not_count(code, deploy, together):
    old, new = nesting(code, together=together, then=Killed()), nesting(code, together=together, then=None)
    assert await deploy(old, new) == [True, "last"]
    assert code.executed == ["last"]


async def test_answer_within_a_step_is_that_of_the_workflow(admin, code):
    @step
    async def asking(ctx: PyWorkflow) -> bool:
        return await ctx.patched("new")

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return [await asking(ctx), await ctx.patched("new")]

    assert await admin.run(wf) == [True, True]


# --- concurrent tasks ---


def branches(code, *, asks, passed, gate=None, reverse=False):
    """Return a workflow with two branches; those in `passed` execute a step behind the place of the patch."""

    @workflow(name="wf")
    async def wf(ctx: PyWorkflow) -> list:
        async def branch(number: int) -> bool | None:
            await code.step(f"before {number}")(ctx)
            is_new = await ctx.patched("new") if asks else None
            if asks or number in passed:
                await code.step(f"behind {number}")(ctx)
            return is_new

        numbers = [2, 1] if reverse else [1, 2]
        answers = await asyncio.gather(*map(branch, numbers))
        if not asks:
            raise Killed
        return answers

    return wf


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("passed", [(), (1,), (2,), (1, 2)])
async def test_gathered_branches_get_the_same_answer(code, deploy, passed, reverse):
    old = branches(code, asks=False, passed=passed)
    new = branches(code, asks=True, passed=passed, reverse=reverse)
    assert await deploy(old, new) == [not passed] * 2


async def test_branch_that_is_slow_to_replay_is_waited_for(code, deploy):
    def of(*, asks):
        @workflow(name="wf")
        async def wf(ctx: PyWorkflow) -> list:
            async def first() -> bool:
                return asks and await ctx.patched("new")

            async def second() -> None:
                for each in range(3):
                    await asyncio.sleep(0.001)
                    await code.step(f"slow {each}")(ctx)

            answer, _ = await asyncio.gather(first(), second())
            if not asks:
                raise Killed
            return answer

        return wf

    assert await deploy(of(asks=False), of(asks=True)) is True


async def test_child_task_gets_the_answer_of_the_body(admin, code):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.patched("new")) for _ in range(5)]
        return [await ctx.patched("new"), *(each.result() for each in tasks)]

    assert await admin.run(wf) == [True] * 6


# --- parked workflows, crashes, codecs, costs ---


@pytest.mark.parametrize("first", [True, False])
async def test_workflow_that_old_code_has_parked_gets_the_answer(admin, sql, first):
    @workflow(name="wf")
    async def old(ctx: PyWorkflow) -> str:
        return await ctx.receive("paid")

    @workflow(name="wf")
    async def new(ctx: PyWorkflow) -> list:
        answers = [await ctx.patched("new")] if first else []
        return [await ctx.receive("paid"), *(answers or [await ctx.patched("new")])]

    async with no_hang():
        async with Worker(admin, [old]):
            handle = await admin.enqueue(old)
            await until(lambda: is_waiting(sql, handle.id))
        await handle.send("paid", "yes")
        async with Worker(admin, [new]):
            assert await handle.result() == ["yes", not first]


@workflow
async def patched_twice(ctx: PyWorkflow) -> list:
    first = await ctx.patched("one")
    await ctx.sleep(2)
    return [first, await ctx.patched("two"), await ctx.patched("one")]


async def test_patch_survives_a_crash_at_each_write(kit):
    assert await crash_everywhere(patched_twice, admin=kit) == [True, True, True]


CODECS = [JsonCodec(), PydanticCodec(), FernetCodec([base64.urlsafe_b64encode(b"k" * 32)])]


@pytest.mark.parametrize("codec", CODECS, ids=["json", "pydantic", "fernet"])
@pytest.mark.parametrize("old", ["", "a"])
async def test_answer_is_readable_in_each_codec(admin, dsn, schema, codec, old):
    code = Code()
    async with Admin(dsn, schema, codec=codec) as own:
        ctx = await own.create_workflow("wf")
        with pytest.raises(Killed):
            await code.of(*old.split(), then=Killed())(ctx)
        with pytest.raises(Killed):
            await code.of(ASK, "a", then=Killed())(ctx)
        assert await code.of(ASK, "a")(await own.get_workflow(ctx.id())) == [not old]


@pytest.mark.skipif(os.environ.get(ALWAYS_REPLAY) == "1", reason="a replay writes a mark")
@pytest.mark.unfaulted("it counts statements")
async def test_patch_costs_one_statement_at_its_first_call(admin):
    counts = []

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        journal = (await admin.store()).journal
        for _ in range(3):
            before = journal.statements
            await ctx.patched("new")
            counts.append(journal.statements - before)

    await admin.run(wf)
    assert counts == [1, 0, 0]


async def test_stale_run_records_no_answer(admin, sql):
    gate = Gate()

    @workflow(name="wf")
    async def stale(ctx: PyWorkflow) -> None:
        await gate.stop()
        await ctx.patched("new")

    ctx = await admin.create_workflow("wf")
    run = asyncio.create_task(stale(ctx))
    async with no_hang():
        await gate.reached.wait()
        await sql.execute("UPDATE pgqrs_workflows SET claim = 7, epoch = epoch + 1")
        gate.open()
        await asyncio.wait([run])
    assert type(run.exception()).__name__ == "WorkflowFencedError"
    assert await steps(sql, ctx) == {}
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'ERROR', error = '{}', executor = NULL, completed_at = now()"
    )
