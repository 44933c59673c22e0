"""Errors that were recorded: terminal or transient, and how they come back."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import traceback

import pytest

from pgqrs import (
    GuardUsedError,
    PyWorkflow,
    StepFailedError,
    TerminalError,
    TransientError,
    WorkflowFinishedError,
    step,
    workflow,
)
from tests.support.recorded import is_replay, status, steps


class OwnError(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint
        self.unstorable = object()

    def __str__(self):
        return f"{self.args[0]} ({self.hint})"


class OwnValueError(ValueError):
    pass


class OwnTerminal(TerminalError):
    pass


async def executions(admin, error, **options):
    """Run a workflow whose one step raises `error`, twice, and return how often the step was executed."""
    executed = []

    @step(**options)
    async def fails(ctx: PyWorkflow) -> None:
        executed.append(1)
        raise error

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await fails(ctx)

    ctx = await admin.create_workflow("wf")
    for _ in range(2):
        with pytest.raises(type(error)):
            await wf(ctx)
    return len(executed)


TERMINAL = [
    ValueError("x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    TypeError("x"),
    KeyError("x"),
    IndexError("x"),
    ZeroDivisionError("x"),
    OverflowError("x"),
    AssertionError("x"),
    AttributeError("x"),
    NameError("x"),
    NotImplementedError("x"),  # a class under test, no unfinished end
    OwnValueError("x"),
    TerminalError("x"),
    OwnTerminal("x"),
    ExceptionGroup("several", [OSError("x"), ValueError("x")]),
]

TRANSIENT = [
    RuntimeError("x"),
    OSError("x"),
    ConnectionRefusedError(111, "refused"),
    TimeoutError("x"),
    Exception("x"),
    OwnError(5, hint="wait"),
    TransientError("x"),
    StopAsyncIteration("x"),
    ExceptionGroup("several", [OSError("x"), RuntimeError("x")]),
]


def name_of(error):
    return type(error).__name__


@pytest.mark.parametrize("error", TERMINAL, ids=name_of)
async def test_terminal_error_is_replayed_without_execution(admin, error):
    assert await executions(admin, error) == 1


@pytest.mark.parametrize("error", TRANSIENT, ids=name_of)
async def test_a_step_with_a_transient_error_is_executed_again(admin, error):
    assert await executions(admin, error) == 2


async def test_step_options_override_the_error_class(admin):
    assert await executions(admin, ValueError("x"), transient=(ValueError,)) == 2
    assert await executions(admin, OSError("x"), terminal=(OSError,)) == 1
    assert await executions(admin, ConnectionResetError("x"), terminal=(OSError,)) == 1
    assert await executions(admin, OwnValueError("x"), transient=(ValueError,)) == 2
    assert await executions(admin, TerminalError("x"), transient=(TerminalError,)) == 2
    assert await executions(admin, TransientError("x"), terminal=(TransientError,)) == 1


async def test_more_specific_option_class_wins(admin):
    options = {"terminal": (OSError,), "transient": (ConnectionError,)}
    assert await executions(admin, ConnectionResetError("x"), **options) == 2
    assert await executions(admin, PermissionError("x"), **options) == 1


async def manual(admin, error, **options):
    """Fail a manual step with the error or with its text; return how often it was executed in two runs."""
    as_text = options.pop("as_text", False)
    executed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        acquired = await ctx.acquire_step("manual")
        executed.append(acquired.status)
        try:
            raise error
        except Exception as caught:
            await acquired.guard.fail(str(caught) if as_text else caught, **options)
            raise

    ctx = await admin.create_workflow("wf")
    for _ in range(2):
        with pytest.raises((type(error), StepFailedError)):
            await wf(ctx)
    return len(executed)


async def test_guard_failure_with_a_text_is_terminal(admin):
    assert await manual(admin, OSError("x"), as_text=True) == 1
    assert await manual(admin, OSError("x"), as_text=True, transient=False) == 1


async def test_guard_failure_with_a_text_can_be_marked_transient(admin):
    assert await manual(admin, OSError("x"), as_text=True, transient=True) == 2


async def test_guard_failure_is_classified_by_exception_unless_marked(admin):
    assert await manual(admin, ValueError("x")) == 1
    assert await manual(admin, OSError("x")) == 2
    assert await manual(admin, OSError("x"), transient=False) == 1
    assert await manual(admin, ValueError("x"), transient=True) == 2


# --- how a recorded error is raised again ---


async def replayed(admin, error):
    """Record `error` as a step's, and return what a run elsewhere gets for it."""

    @step
    async def fails(ctx: PyWorkflow) -> None:
        raise error

    ctx = await admin.create_workflow("wf")
    with pytest.raises(type(error)):
        await fails(ctx)
    with pytest.raises(StepFailedError) as caught:
        await fails(await admin.get_workflow(ctx.id()))
    assert (caught.value.workflow_id, caught.value.step_id) == (ctx.id(), "fails")
    return caught.value


@pytest.mark.parametrize("error", [*TERMINAL, *TRANSIENT], ids=name_of)
async def test_replayed_error_keeps_its_class_and_text(admin, error):
    again = await replayed(admin, error)
    assert is_replay(again, type(error))
    assert str(again) == str(error)
    assert type(error).__name__ in repr(again)


async def test_a_replayed_error_is_caught_by_any_base_of_its_class(admin):
    with pytest.raises(ArithmeticError):
        raise await replayed(admin, ZeroDivisionError("x"))
    with pytest.raises(OSError, match="refused"):
        raise await replayed(admin, ConnectionRefusedError(111, "refused"))


async def test_replayed_error_keeps_args_and_attributes(admin):
    again = await replayed(admin, OwnError(5, hint="wait"))
    assert isinstance(again, OwnError)
    assert (again.code, again.hint, again.args) == (5, "wait", ("code 5",))
    assert str(again) == "code 5 (wait)"
    assert not hasattr(again, "unstorable")


async def test_replayed_error_keeps_slot_fields(admin):
    again = await replayed(admin, FileNotFoundError(2, "No such file", "/nowhere"))
    assert (again.errno, again.filename, again.strerror) == (2, "/nowhere", "No such file")
    again = await replayed(admin, KeyError("k"))
    assert (again.args, str(again)) == (("k",), "'k'")


async def test_replayed_error_keeps_notes_and_can_be_pickled(admin):
    error = ValueError("x")
    error.add_note("while reading line 3")
    again = await replayed(admin, error)
    assert again.__notes__ == ["while reading line 3"]
    for other in (pickle.loads(pickle.dumps(again)), copy.copy(again)):
        assert is_replay(other, ValueError)
        assert str(other) == "x"
    assert "while reading line 3" in "".join(traceback.format_exception(again))


async def test_missing_error_class_falls_back_to_its_base(admin):
    class Local(OwnValueError):
        pass

    again = await replayed(admin, Local("x"))
    assert is_replay(again, OwnValueError)
    assert not isinstance(again, Local)
    assert str(again) == "x"


async def test_replay_imports_no_class_named_by_the_database(admin, sql):
    @step
    async def fails(ctx: PyWorkflow) -> None:
        raise ValueError("x")

    assert "antigravity" not in sys.modules
    ctx = await admin.create_workflow("wf")
    with pytest.raises(ValueError):
        await fails(ctx)
    for mro in ('["antigravity:Error"]', '["os:system"]', '["builtins:SystemExit"]', '"no list"', "[1, null]"):
        await sql.execute(
            "UPDATE pgqrs_workflow_steps SET error = jsonb_set(error::jsonb, '{mro}', $1::jsonb)::json", mro
        )
        with pytest.raises(StepFailedError, match="x") as caught:
            await fails(await admin.get_workflow(ctx.id()))
        assert not isinstance(caught.value, ValueError)
    assert "antigravity" not in sys.modules


async def test_replayed_group_supports_except_star(admin):
    @step
    async def several(ctx: PyWorkflow) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError("a")))
            group.create_task(fail(OwnError(5, hint="b")))

    async def fail(error):
        raise error

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = []
        try:
            await several(ctx)
        except* ValueError as group:
            found += [str(each) for each in group.exceptions]
        except* OwnError as group:
            found += [each.hint for each in group.exceptions]
        if not crashed:
            crashed.append(found)
            raise RuntimeError("crash")
        return [found, crashed[0]]

    crashed = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(RuntimeError):
        await wf(ctx)
    assert await wf(ctx) == [["a", "b"], ["a", "b"]]


async def test_replayed_groups_keep_their_nesting(admin):
    error = ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("k")]), OSError(5, "io")])
    again = await replayed(admin, error)
    assert isinstance(again, ExceptionGroup)
    assert again.message == "outer"
    inner, io = again.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert inner.message == "inner"
    assert isinstance(inner.exceptions[0], KeyError)
    assert isinstance(io, OSError)
    assert io.errno == 5


@pytest.mark.parametrize(
    "text",
    ["", "nul \0 nul", "half \ud800 pair", "ü€😀", "x" * 2_000_000],
    ids=["empty", "nul", "surrogate", "unicode", "huge"],
)
async def test_error_with_any_text_is_recorded(admin, sql, text):
    @step
    async def fails(ctx: PyWorkflow) -> None:
        raise ValueError(text)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await fails(ctx)

    ctx = await admin.create_workflow("wf")
    for _ in range(2):
        with pytest.raises(ValueError):
            await wf(ctx)
    assert await status(sql, ctx) == "ERROR"
    assert await steps(sql, ctx) == {"fails": "ERROR"}


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


async def test_error_with_a_failing_str_is_recorded(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await hostile(ctx)

    @step
    async def hostile(ctx: PyWorkflow) -> None:
        raise Hostile

    ctx = await admin.create_workflow("wf")
    with pytest.raises(Hostile):
        await wf(ctx)
    assert await status(sql, ctx) == "ERROR"
    assert await steps(sql, ctx) == {"hostile": "ERROR"}


# --- guards ---


async def test_second_use_of_a_guard_keeps_the_first_outcome(admin):
    ctx = await admin.create_workflow("wf")
    guard = (await ctx.acquire_step("a")).guard
    await guard.success(1)
    for again in (guard.success, guard.fail):
        with pytest.raises(GuardUsedError, match="'a'"):
            await again("2")
    assert (await ctx.acquire_step("a")).value == 1
    guard = (await ctx.acquire_step("b")).guard
    await guard.fail("first")
    for again in (guard.success, guard.fail):
        with pytest.raises(GuardUsedError, match="'b'"):
            await again("2")
    with pytest.raises(StepFailedError, match="first"):
        await ctx.acquire_step("b")


async def test_guard_success_returns_the_replayed_value(admin):
    ctx = await admin.create_workflow("wf")
    guard = (await ctx.acquire_step("a")).guard
    assert await guard.success((1, 2)) == [1, 2]


async def test_guard_failure_after_a_refused_success_changes_nothing(admin, sql):
    ctx = await admin.create_workflow("wf")
    guard = (await ctx.acquire_step("a")).guard
    with pytest.raises(ValueError, match=r"'a'.*\$\.at"):
        await guard.success({"at": object()})
    await guard.fail("another text")
    [record] = await admin.list_steps(ctx.id())
    assert record.status == "ERROR"
    assert record.error["type"] == "SerializationError"
    assert record.error["terminal"] is True
    with pytest.raises(StepFailedError, match=r"\$\.at"):
        await ctx.acquire_step("a")


# --- workflows that end twice ---


async def test_second_end_of_a_workflow_keeps_the_first_outcome(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await ctx.success(1)
    for again in (ctx.success, ctx.fail):
        with pytest.raises(WorkflowFinishedError, match="SUCCESS"):
            await again("2")
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await ctx.fail("first")
    for again in (ctx.success, ctx.fail):
        with pytest.raises(WorkflowFinishedError, match="ERROR"):
            await again("2")
    failed, succeeded = await admin.list_workflows()
    assert (succeeded.status, succeeded.output) == ("SUCCESS", 1)
    assert (failed.status, failed.error["message"]) == ("ERROR", "first")


async def test_outcome_set_by_the_body_is_kept(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        await ctx.success(1)
        return 2

    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowFinishedError):
        await wf(ctx)
    assert await status(sql, ctx) == "SUCCESS"
    assert await wf(ctx) == 1


async def test_an_output_that_is_not_json_is_the_workflows_error(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> dict:
        return {"tags": {"a"}}

    ctx = await admin.create_workflow("wf")
    with pytest.raises(ValueError, match=r"\$\.tags"):
        await wf(ctx)
    [record] = await admin.list_workflows()
    assert (record.status, record.error["type"]) == ("ERROR", "SerializationError")
