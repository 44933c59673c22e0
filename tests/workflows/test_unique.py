"""Unique values: one workflow of a name holds a value at a time, until its start or until its end."""

from __future__ import annotations

import asyncio
import base64
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    JsonCodec,
    KeyConflictError,
    PyWorkflow,
    SessionError,
    UniqueTakenError,
    Worker,
    WorkflowCancelledError,
    WorkflowStatus,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.engine.lifecycle import Parked
from pgqrs.storage.uniqueness import statements
from pgqrs.testing import crash_everywhere
from tests.support.database import is_held_up
from tests.support.recorded import row_of
from tests.support.syncs import FAILING, patient, sync
from tests.support.waiting import no_hang, until
from tests.support.wire import Fault, Wire
from tests.support.workflows import Gate

CODECS = [JsonCodec(), PydanticCodec(), FernetCodec([base64.urlsafe_b64encode(b"k" * 32)], PydanticCodec())]


@pytest.fixture(autouse=True)
def _no_failure():
    FAILING.clear()


@workflow
async def late(ctx: PyWorkflow) -> None:
    await ctx.sleep(3600)


@pytest.fixture
async def other(dsn, schema, admin):
    """A second `Admin`, with connections of its own."""
    async with Admin(dsn, schema) as other:
        yield other


def unique(admin, **options):
    return admin.options(unique="v", **options)


async def live(sql):
    """Return the ids of the live workflows with the value."""
    rows = await sql.fetch(
        "SELECT id FROM pgqrs_workflows WHERE unique_value = 'v' AND completed_at IS NULL ORDER BY id"
    )
    return [each["id"] for each in rows]


async def has_status(handle, status):
    return await handle.status() == status


# --- a value that is held ---


async def test_value_belongs_to_one_workflow_of_a_name(admin, sql):
    first = await unique(admin).enqueue(sync)
    assert (await unique(admin).enqueue(sync, "b")).id == first.id
    assert (await unique(admin).enqueue(patient)).id != first.id
    assert (await admin.options(unique="w").enqueue(sync)).id != first.id
    assert (await admin.enqueue(sync)).id != first.id
    assert {each.unique for each in await admin.list_workflows()} == {"v", "w", None}
    async with no_hang(), Worker(admin, [sync]):
        assert await first.result() == "synced all"


async def test_raise_names_the_holder_and_writes_nothing(admin, sql):
    first = await unique(admin).enqueue(sync)
    before = dict(await row_of(sql, first.id))
    with pytest.raises(UniqueTakenError, match="taken='return'") as caught:
        await unique(admin, taken="raise").enqueue(sync, "b")
    error = caught.value
    assert (error.workflow_id, error.holder_id, error.name, error.unique) == (first.id, first.id, "sync", "v")
    assert dict(await row_of(sql, first.id)) == before
    assert await live(sql) == [first.id]
    await first.cancel()
    assert (await unique(admin, taken="raise").enqueue(sync, "b")).id != first.id


async def test_replace_gives_the_holder_the_new_submission(admin, sql, sessions):
    first = await unique(admin, priority=1, delay=3600).enqueue(sync, "a")
    replace = {"taken": "replace", "queue": "other", "partition_key": "p", "priority": 5, "timeout": 60}
    assert (await unique(admin, **replace).enqueue(sync, "b")).id == first.id
    row = await row_of(sql, first.id)
    assert (row["queue"], row["partition_key"], row["priority"], row["timeout"]) == ("other", "p", 5, 60)
    assert (row["due_at"], row["ready_at"] is None) == (None, False)
    await unique(admin, taken="replace", at=datetime.now(UTC) + timedelta(hours=1)).enqueue(sync, "c")
    row = await row_of(sql, first.id)
    assert (row["queue"], row["ready_at"], row["priority"]) == ("default", None, 0)
    async with sessions() as session:
        await unique(admin, taken="replace", session=session).enqueue(sync, "never")
        await session.rollback()
    await unique(admin, taken="replace").enqueue(sync, "d")
    async with no_hang(), Worker(admin, [sync]):
        assert await first.result() == "synced d"


async def test_replace_raises_once_the_holder_has_started(admin, sql):
    async with no_hang(), Worker(admin, [patient]):
        first = await unique(admin, taken="replace").enqueue(patient)
        await until(has_status, first, WorkflowStatus.WAITING)
        assert (await unique(admin).enqueue(patient)).id == first.id  # it waits, and holds the value
        before = dict(await row_of(sql, first.id))
        with pytest.raises(UniqueTakenError, match="has started") as caught:
            await unique(admin, taken="replace").enqueue(patient, "b")
        assert caught.value.holder_id == first.id
        assert dict(await row_of(sql, first.id)) == before


async def test_cancel_ends_a_holder_that_does_not_run(admin, sql):
    first = await unique(admin, taken="cancel").enqueue(sync, "a")
    second = await unique(admin, taken="cancel").enqueue(sync, "b")
    assert await first.status() == WorkflowStatus.CANCELLED
    assert await live(sql) == [second.id]
    await admin.resume_workflow(first.id)  # it has given the value up for good, and runs beside the holder
    async with no_hang(), Worker(admin, [sync]):
        assert [await each.result() for each in (first, second)] == ["synced a", "synced b"]


async def test_cancel_takes_the_value_from_a_run_that_unwinds(admin, sql):
    gate, left = Gate(), Gate()

    @workflow
    async def unwinding(ctx: PyWorkflow) -> None:
        try:
            await gate.step("works")(ctx)
            await gate.step("goes on")(ctx)
        finally:
            await left.stop()

    async with no_hang(), Worker(admin, [unwinding]):
        first = await unique(admin, taken="cancel").enqueue(unwinding)
        await gate.reached.wait()
        second = await unique(admin, taken="cancel").enqueue(unwinding)
        assert await live(sql) == [second.id]
        gate.open()
        await left.reached.wait()
        assert await first.status() == WorkflowStatus.RUNNING
        assert (await unique(admin).enqueue(unwinding)).id == second.id
        left.open()
        with pytest.raises(WorkflowCancelledError):
            await first.result()
        await second.result()


async def test_submissions_of_one_transaction_share_a_holder(admin, sql, sessions):
    for options in ({}, {"taken": "replace"}, {"taken": "cancel"}, {"debounce": 5}, {"throttle": 5}):
        value = str(options)
        async with sessions.begin() as session:
            submit = admin.options(unique=value, session=session, **options)
            handles = [await submit.enqueue(sync, str(n)) for n in range(3)]
        rows = await sql.fetch("SELECT id, input FROM pgqrs_workflows WHERE unique_value = $1", value)
        assert [each["id"] for each in rows] == [handles[-1].id]
        assert rows[0]["input"] == f'{{"args":["{2 if options else 0}"],"kwargs":{{}}}}'


async def test_rollback_gives_the_value_back_to_the_cancelled_one(admin, sql, sessions):
    first = await unique(admin).enqueue(sync, "a")
    async with sessions() as session:
        second = await unique(admin, taken="cancel", session=session).enqueue(sync, "b")
        assert second.id != first.id
        await session.rollback()
    assert await live(sql) == [first.id]
    async with sessions() as session:
        second = await unique(admin, taken="cancel", session=session).enqueue(sync, "b")
        await session.commit()
    assert await live(sql) == [second.id]
    assert await first.status() == WorkflowStatus.CANCELLED


async def test_cancel_needs_a_transaction(admin, engine, sql):
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for options in ({"taken": "cancel"}, {"throttle": 5}):
            with pytest.raises(SessionError, match="AUTOCOMMIT"):
                await unique(admin, session=connection, **options).enqueue(sync)
        assert await live(sql) == []
        await unique(admin, session=connection, debounce=5).enqueue(sync)
    assert len(await live(sql)) == 1


# --- until the end, until the start ---


async def test_each_kind_of_end_gives_the_value_up(admin, sql):
    FAILING.add("fails")
    handles = [await unique(admin).enqueue(sync, "cancelled")]
    await handles[0].cancel()
    async with no_hang(), Worker(admin, [sync]):
        for what in ("succeeds", "fails"):
            handles.append(await unique(admin).enqueue(sync, what))
            await until(is_over, handles[-1])
        handles.append(await unique(admin, timeout=0.01).enqueue(late))
        async with Worker(admin, [late]):
            with pytest.raises(WorkflowTimeoutError):
                await handles[-1].result()
        handles.append(await unique(admin).enqueue(sync, "last"))
        await handles[-1].result()
    assert len({each.id for each in handles}) == 5
    await sql.execute("DELETE FROM pgqrs_workflow_steps; DELETE FROM pgqrs_workflows")
    assert len({(await unique(admin).enqueue(sync)).id for _ in range(2)}) == 1


async def is_over(handle):
    return await handle.status() in {WorkflowStatus.SUCCESS, WorkflowStatus.ERROR}


async def test_value_until_start_is_given_up_by_the_claim(admin, sql, claimer):
    first = await unique(admin, until="start").enqueue(patient, "a")
    assert (await unique(admin, until="start").enqueue(patient, "b")).id == first.id
    ctx, args = await claimer.adopt(patient)
    second = await unique(admin, until="start").enqueue(patient, "b")
    assert (args, second.id != first.id) == (["a"], True)
    with pytest.raises(Parked):
        await patient(ctx, *args)
    assert (await unique(admin).enqueue(patient)).id == second.id  # a retry does not take the value back
    assert await live(sql) == [first.id, second.id]


async def test_start_by_hand_gives_the_value_up(admin):
    first = await unique(admin, until="start").enqueue(sync)
    assert await sync(await admin.get_workflow(first.id)) == "synced all"
    assert (await unique(admin, until="start").enqueue(sync)).id != first.id


@pytest.mark.parametrize("how", ["abandoned", "resumed"])
async def test_later_run_does_not_take_the_value_back(admin, sql, claimer, how):
    first = await unique(admin, until="start").enqueue(sync, "a")
    if how == "resumed":
        await first.cancel()  # it has never started
    else:
        ctx, _ = await claimer.adopt(sync)
    second = await unique(admin, until="start", queue="far").enqueue(sync, "b")
    if how == "resumed":
        await admin.resume_workflow(first.id)
    else:
        ctx.abandon()
    async with no_hang(), Worker(admin, [sync]):
        assert await first.result() == "synced a"
    assert (await unique(admin, until="start").enqueue(sync)).id == second.id


async def test_takeover_keeps_a_value_until_the_end(admin, claimer):
    first = await unique(admin).enqueue(sync)
    ctx, _ = await claimer.adopt(sync)
    ctx.abandon()
    assert (await unique(admin).enqueue(sync)).id == first.id
    ctx, args = await claimer.adopt(sync)
    assert (await unique(admin).enqueue(sync)).id == first.id
    assert await sync(ctx, *args) == "synced all"
    assert (await unique(admin).enqueue(sync)).id != first.id


async def test_continuation_does_not_take_the_value_back(admin, sql):
    first = await unique(admin, until="start").enqueue(endless, 3)
    far = Worker(admin, [endless], ["far"])
    async with no_hang(), Worker(admin, [endless]):
        second = await unique(admin, until="start", queue="far", delay=0.01).enqueue(endless, 0)
        assert await first.result() == "the end"
        async with far:
            assert await second.result() == "the end"
    assert (await row_of(sql, first.id))["generation"] is not None


@workflow
async def endless(ctx: PyWorkflow, left: int) -> str:
    if left:
        await ctx.continue_as_new(endless, left - 1)
    return "the end"


async def test_claim_of_a_limited_queue_gives_the_value_up(admin):
    await admin.set_queue("default", concurrency=1)
    gate = Gate()

    @workflow
    async def stopping(ctx: PyWorkflow, what: str) -> str:
        await gate.stop()
        return what

    async with no_hang(), Worker(admin, [stopping]):
        first = await unique(admin, until="start").enqueue(stopping, "a")
        await gate.reached.wait()
        second = await unique(admin, until="start").enqueue(stopping, "b")
        gate.open()
        assert [await each.result() for each in (first, second)] == ["a", "b"]


@pytest.fixture
async def pair(admin):
    """A failed workflow, and the live one that holds its value."""
    FAILING.add("all")
    failed = await unique(admin).enqueue(sync)
    async with no_hang(), Worker(admin, [sync]):
        await until(is_over, failed)
    FAILING.clear()
    return failed, await unique(admin).enqueue(sync)


@pytest.mark.parametrize("how", ["resume", "resume in a session", "run"])
async def test_value_of_another_workflow_refuses_a_new_run(admin, sql, sessions, pair, how):
    failed, holder = pair
    before = dict(await row_of(sql, failed.id))
    with pytest.raises(UniqueTakenError, match="cannot run again") as caught:
        if how == "run":
            await sync(await admin.get_workflow(failed.id))
        elif how == "resume":
            await admin.resume_workflow(failed.id)
        else:
            async with sessions.begin() as session:
                try:
                    await admin.resume_workflow(failed.id, session=session)
                finally:  # the transaction goes on
                    await session.execute(text("SELECT 1"))
    error = caught.value
    assert (error.workflow_id, error.holder_id, error.unique) == (failed.id, holder.id, "v")
    assert dict(await row_of(sql, failed.id)) == before
    await holder.cancel()
    await admin.resume_workflow(failed.id)
    assert (await unique(admin).enqueue(sync)).id == failed.id  # it holds the value again
    with pytest.raises(UniqueTakenError):
        await admin.resume_workflow(holder.id)


# --- several submitters ---


@pytest.mark.parametrize("taken", ["return", "raise", "replace", "cancel"])
async def test_submitters_at_once_have_one_holder(admin, other, sql, taken):
    submits = [unique(each, taken=taken).enqueue(sync, str(n)) for n, each in enumerate([admin, other] * 6)]
    async with no_hang():
        found = await asyncio.gather(*submits, return_exceptions=True)
    handles = [each for each in found if not isinstance(each, BaseException)]
    (holder,) = await live(sql)
    errors = [each for each in found if isinstance(each, BaseException)]
    assert {type(each) for each in errors} == ({UniqueTakenError} if taken == "raise" else set())
    assert len(errors) == (11 if taken == "raise" else 0)
    assert len({each.id for each in handles}) == (12 if taken == "cancel" else 1)
    assert holder in {each.id for each in handles}


@pytest.mark.parametrize("taken", ["return", "replace", "cancel"])
async def test_second_submitter_waits_for_the_first(admin, other, sql, sessions, taken):
    for is_committed in (True, False):
        async with no_hang(), sessions() as session:
            mine = await unique(admin, session=session).enqueue(sync, "mine")
            submitted = asyncio.create_task(unique(other, taken=taken).enqueue(sync, "theirs"))
            await until(is_held_up, sql, admin.schema)
            await (session.commit() if is_committed else session.rollback())
            theirs = await submitted
        assert (theirs.id == mine.id) is (is_committed and taken != "cancel")
        assert await live(sql) == [theirs.id]
        async with no_hang(), Worker(admin, [sync]):
            newest = "mine" if is_committed and taken == "return" else "theirs"
            assert await theirs.result() == f"synced {newest}"


async def test_submission_waits_for_an_end_that_is_not_committed(admin, other, sql, sessions):
    for is_committed in (False, True):
        first = await unique(admin).enqueue(sync)
        async with no_hang(), sessions() as session:
            await admin.cancel_workflow(first.id, session=session)
            submitted = asyncio.create_task(unique(other).enqueue(sync))
            await until(is_held_up, sql, admin.schema)
            await (session.commit() if is_committed else session.rollback())
            assert ((await submitted).id == first.id) is not is_committed


async def test_submissions_that_race_with_claims_are_not_lost(admin, other, sql):
    """Each submission is in the run that it returns, or a newer one has replaced it there."""
    handles = []
    async with no_hang(), Worker(admin, [sync]):
        for n in range(30):
            own = [each.options(unique="v", until="start", taken="replace") for each in (admin, other)]
            handles += await asyncio.gather(*(each.enqueue(sync, str(n)) for each in own))
        results = [int((await each.result()).removeprefix("synced ")) for each in handles]
    assert all(result >= place // 2 for place, result in enumerate(results))
    runs = {each.id for each in handles}
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == len(runs) > 1


# --- keys, many, sessions, codecs ---


async def test_key_comes_before_the_unique_value(admin, sql):
    first = await unique(admin, key="k").enqueue(sync)
    await first.cancel()
    assert (
        await unique(admin, key="k").enqueue(sync)
    ).id == first.id  # the key is for ever, the value until the end
    second = await unique(admin, key="l").enqueue(sync)
    for taken in ("return", "raise", "cancel"):
        assert (await unique(admin, key="k", taken=taken).enqueue(sync)).id == first.id
    with pytest.raises(KeyConflictError):
        await unique(admin, key="k", taken="cancel").enqueue(sync, "b")
    assert (await unique(admin, key="m").enqueue(sync)).id == second.id
    assert await live(sql) == [second.id]


async def test_enqueue_many_has_a_workflow_of_each_value(admin, sql, sessions):
    inputs = [("a",), ("b",), ("a",)]
    first = await admin.enqueue_many(sync, inputs, unique=lambda what: what)
    assert [each.id for each in first] == [first[0].id, first[1].id, first[0].id]
    again = await admin.enqueue_many(sync, [*inputs, ("c",)], unique=lambda what: what)
    assert [each.id for each in again[:3]] == [each.id for each in first]
    with pytest.raises(UniqueTakenError):
        await admin.options(taken="raise").enqueue_many(sync, [("d",), ("c",)], unique=lambda what: what)
    assert len(await admin.list_workflows()) == 3  # the statement of "d" is rolled back with that of "c"
    newest = [("a", 1), ("b", 2), ("a", 3)]
    async with sessions.begin() as session:
        submit = admin.options(taken="replace", session=session)
        replaced = await submit.enqueue_many(pairs, newest, unique=lambda what, _n: what)
        replaced = await submit.enqueue_many(pairs, [("b", 4)], unique=lambda what, _n: what)
    async with no_hang(), Worker(admin, [pairs]):
        assert await replaced[0].result() == "b4"
        rows = await sql.fetch("SELECT id FROM pgqrs_workflows WHERE name = 'pairs' AND unique_value = 'a'")
        assert await admin.handle(rows[0]["id"]).result() == "a3"


@workflow
async def pairs(ctx: PyWorkflow, what: str, n: int) -> str:
    return f"{what}{n}"


@pytest.mark.parametrize("codec", CODECS, ids=["json", "pydantic", "fernet"])
async def test_replaced_arguments_have_any_codec(dsn, sound, codec):
    async with no_hang(), Admin(dsn, sound) as plain, Admin(dsn, sound, codec=codec) as admin:
        first = await unique(plain, until="start").enqueue(dated)
        for taken in ("replace", "return"):
            again = await unique(admin, taken=taken).enqueue(dated, "2026-11-27")
            assert again.id == first.id
        async with Worker(admin, [dated]):
            assert await again.result() == "on 2026-11-27"


@workflow
async def dated(ctx: PyWorkflow, day: str = "never") -> str:
    return f"on {day}"


# --- crashes and lost answers ---


@workflow
async def submitting(ctx: PyWorkflow) -> int:
    async def submit() -> int:
        for taken in ("return", "replace", "cancel"):
            own = SUBMITTERS[0].options(unique=f"of {ctx.id()}", queue="far", taken=taken)
            handle = await own.enqueue(sync, taken)
        return handle.id

    return 1 if await ctx.step("submit", submit) else 0


SUBMITTERS: list[Admin] = []
"""The `Admin` of `submitting`."""


async def test_steps_that_crash_leave_one_holder(admin):
    SUBMITTERS[:] = [admin]
    assert await crash_everywhere(submitting, admin=admin) == 1
    made = [each for each in await admin.list_workflows() if each.queue == "far"]
    holders = [each for each in made if each.status == WorkflowStatus.PENDING]
    assert len(made) > len(holders) == len({each.unique for each in holders}) == 5
    assert [each.input["args"] for each in holders] == [["cancel"]] * 5


@workflow
async def submitting_once(ctx: PyWorkflow) -> int:
    return await submit_with_writes(ctx)


@step(transactional=True)
async def submit_with_writes(ctx: PyWorkflow) -> int:
    own = SUBMITTERS[0].options(unique="v", queue="far", taken="cancel", session=ctx.session)
    await own.enqueue(sync)
    return 1


async def test_transactional_steps_that_crash_submit_once(admin):
    SUBMITTERS[:] = [admin]
    assert await crash_everywhere(submitting_once, admin=admin) == 1
    made = [each for each in await admin.list_workflows() if each.queue == "far"]
    assert len(made) == 5  # one for each workflow
    assert [each.status for each in made] == [WorkflowStatus.PENDING, *[WorkflowStatus.CANCELLED] * 4]


@pytest.mark.unfaulted("the test has a fault of its own")
@pytest.mark.parametrize("options", [{}, {"taken": "replace"}, {"taken": "cancel"}, {"throttle": 60}], ids=str)
async def test_lost_answer_makes_no_second_workflow(admin, dsn, sql, options):
    async with no_hang(), Wire(dsn, sql) as wire, Admin(wire.dsn, admin.schema) as far:
        await unique(far, **options).enqueue(sync, "a")
        for number in itertools.count(1):
            count = await sql.fetchval("SELECT count(*) FROM pgqrs_workflows")
            wire.arm(number, Fault.AFTER)
            handle = await unique(far, **options).enqueue(sync, f"at {number}")
            assert await live(sql) == [handle.id]
            made = await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") - count
            assert made == (options.get("taken") == "cancel")
            if options:
                assert f"at {number}" in (await row_of(sql, handle.id))["input"]
            if not wire.fired:  # it has no exchange of this number
                break
        assert number > 2
        wire.disarm()


async def test_started_holder_is_not_submitted_to_again(admin, sql, claimer):
    """The answer of a replacement is lost, and the holder starts before the submission is sent again."""
    first = await unique(admin, until="start", taken="replace").enqueue(sync, "a")
    store = await admin.store()
    run, sent = store.database.run_with_retries, []

    async def losing(work, **_options):
        sent.append(await run(work))
        await claimer.adopt(sync)
        return await run(work)

    operations = store.operations
    operations.access._database = type("Losing", (), {"run_with_retries": staticmethod(losing)})()
    again = await unique(admin, until="start", taken="replace").enqueue(sync, "b")
    operations.access._database = store.database
    assert again.id == first.id
    assert [each["input"] for each in await sql.fetch("SELECT input FROM pgqrs_workflows")] == [
        '{"args":["b"],"kwargs":{}}'
    ]


@pytest.mark.parametrize("options", [{}, {"taken": "replace"}, {"throttle": 60}], ids=str)
async def test_id_of_another_workflow_is_left_out(admin, sessions, options):
    """A server that lost its last transactions gives an id out twice."""
    theirs = await admin.enqueue(sync, "theirs")
    (await admin.store()).ids._ids.appendleft(theirs.id)
    mine = await unique(admin, **options).enqueue(sync, "mine")
    (await admin.store()).ids._ids.appendleft(theirs.id)
    assert (await unique(admin, **options).enqueue(sync, "mine")).id == mine.id
    async with sessions.begin() as session:
        (await admin.store()).ids._ids.appendleft(theirs.id)
        other = await admin.options(unique="w", session=session, **options).enqueue(sync, "other")
    async with no_hang(), Worker(admin, [sync]):
        results = [await each.result() for each in (theirs, mine, other)]
    assert results == ["synced theirs", "synced mine", "synced other"]


@pytest.mark.plants_rows
async def test_holders_are_found_by_their_index(admin, sql):
    await sql.execute(
        "INSERT INTO pgqrs_workflows (name, input, unique_value, unique_until_start, status, completed_at, epoch) "
        "SELECT 'sync', '{}', 'v' || n % 10, false, 'SUCCESS', now(), 1 FROM generate_series(1, 20000) AS n; "
        "INSERT INTO pgqrs_workflows (name, input, unique_value, unique_until_start) "
        "SELECT 'sync', '{}', 'v' || n, true FROM generate_series(1, 2000) AS n; ANALYZE pgqrs_workflows"
    )
    compiled, binds = (await admin.store()).database.compile(statements.holders)[:2]
    values = {"name": "sync", "values": ["v1", "v2"]}
    plan = await sql.fetch(f"EXPLAIN {compiled}", *(values[each] for each in binds))
    assert "ix_pgqrs_workflows_unique" in "".join(line for (line,) in plan)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": "v", "taken": "wait"}, "`taken`"),
        ({"unique": "v", "until": "never"}, "`until`"),
        ({"key": "k", "until": "start"}, "'purge' or 'end'"),
        ({"unique": "v", "debounce": 0}, "`debounce`"),
        ({"unique": "v", "debounce_at_most": 5}, "`debounce_at_most`"),
        ({"unique": "v", "debounce": 5, "throttle": 5}, "pass one of them"),
        ({"unique": "v", "debounce": 5, "taken": "raise"}, "omit `taken`"),
    ],
    ids=str,
)
async def test_invalid_options_are_refused(admin, options, said):
    with pytest.raises(ConfigurationError, match=said):
        admin.options(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": "v", "until": "purge"}, "'start' or 'end'"),
        ({"until": "start"}, "pass `unique`"),
        ({"taken": "replace"}, "pass `unique`"),
        ({"throttle": 5}, "pass `unique`"),
        ({"unique": "v", "until": "end", "debounce": 5}, "omit `until`"),
        ({"unique": "v", "key": "k", "taken": "replace"}, "pass no key"),
        ({"unique": "v", "key": "k", "throttle": 5}, "pass no key"),
        ({"unique": "v", "delay": 5, "debounce": 5}, "`delay`"),
        ({"unique": "v", "at": datetime(2030, 1, 1, tzinfo=UTC), "throttle": 5}, "`at`"),
    ],
    ids=str,
)
async def test_options_that_do_not_fit_are_refused(admin, options, said):
    with pytest.raises(ConfigurationError, match=said):
        await admin.options(**options).enqueue(sync)
    assert await admin.list_workflows() == []


async def test_other_calls_refuse_a_unique_value(admin):
    mine = admin.options(unique="v")
    with pytest.raises(ConfigurationError, match="use `enqueue`"):
        await mine.run(sync)
    with pytest.raises(ConfigurationError, match="use `enqueue`"):
        admin.options(unique="v", key="k").with_start(sync)
    with pytest.raises(ConfigurationError, match="`unique`"):
        await mine.enqueue_many(sync, [("a",)])
    with pytest.raises(InvalidNameError):
        admin.options(unique="")
    with pytest.raises(InvalidNameError):
        await admin.enqueue_many(sync, [("a",)], unique=lambda _what: 1)
    assert await admin.list_workflows() == []
