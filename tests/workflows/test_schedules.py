"""Schedules as an application declares and controls them: handles, sessions, updates, and submissions to a time."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from pgqrs import (
    Admin,
    ConfigurationError,
    Cron,
    Every,
    InvalidNameError,
    PyWorkflow,
    ScheduleNotFoundError,
    Unreadable,
    Worker,
    WorkflowStatus,
    workflow,
)
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from pgqrs.storage.schedules.firing import ScheduleFiring
from pgqrs.testing import assert_not_scheduled, assert_scheduled
from pgqrs.testing.scheduled import start_due
from tests.support.recorded import row_of
from tests.support.waiting import no_hang
from tests.support.workflows import note

HOUR = timedelta(hours=1)
PAST = Every(HOUR, datetime(2020, 1, 1, tzinfo=UTC))


@workflow
async def report(ctx: PyWorkflow, what: str = "sales") -> str:
    await note(ctx, what)
    return f"{what} for {ctx.scheduled_for}"


@workflow
async def sleepy(ctx: PyWorkflow) -> str:
    before = ctx.scheduled_for
    await ctx.sleep(0.01)
    assert ctx.scheduled_for == before
    return str(before)


@workflow
async def dated(ctx: PyWorkflow, day: datetime) -> datetime:
    return day


@pytest.fixture
def sessions(engine):
    return async_sessionmaker(engine)


async def make_due(sql, name="s"):
    """Set the next time of a schedule to the last full hour, and return it."""
    return await sql.fetchval(
        "UPDATE pgqrs_schedules SET next_at = date_trunc('hour', now()) WHERE name = $1 RETURNING next_at", name
    )


async def test_schedule_is_listed_with_its_options(admin):
    start = datetime(2027, 1, 1, tzinfo=UTC)
    handle = await admin.options(queue="q", partition_key="acme", priority=3, timeout=HOUR).schedule(
        "nightly", Cron("0 3 * * *", "Europe/Berlin"), report, "sales",
        overlap="queue", catchup="none", within=HOUR, jitter=30, start=start, end=start + 24 * HOUR,
    )  # fmt: skip
    (found,) = await admin.list_schedules()
    assert found == await handle.record() == await (await admin.find_schedule("nightly")).record()
    assert (found.name, found.workflow, found.input) == ("nightly", "report", {"args": ["sales"], "kwargs": {}})
    assert (found.rule, str(found.rule)) == (Cron("0 3 * * *", "Europe/Berlin"), "0 3 * * * (Europe/Berlin)")
    assert (found.queue, found.partition_key, found.priority, found.timeout) == ("q", "acme", 3, 3600.0)
    assert (found.overlap, found.catchup) == ("queue", "none")
    assert (found.within, found.jitter) == (HOUR, timedelta(seconds=30))
    assert (found.start, found.next_at, found.last_at) == (start, start + 2 * HOUR, None)
    assert await handle.next(5) == [start + 2 * HOUR]


async def test_same_name_changes_the_schedule_and_keeps_its_state(admin, sql):
    handle = await admin.schedule("s", PAST, report, "a")
    due = await make_due(sql)
    await sql.execute("UPDATE pgqrs_schedules SET last_at = $1", due - HOUR)
    await handle.pause()
    before = await handle.record()
    await admin.options(queue="q").schedule("s", PAST, report, "b", overlap="allow")
    after = await handle.record()
    assert (after.paused_at, after.last_at, after.next_at) == (before.paused_at, due - HOUR, due)
    assert (after.queue, after.input["args"], after.overlap) == ("q", ["b"], "allow")
    await admin.schedule("s", Every(HOUR), sleepy)
    after = await handle.record()
    assert (after.workflow, after.next_at) == ("sleepy", due + HOUR)
    assert after.is_paused
    assert len(await admin.list_schedules()) == 1


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_schedule_belongs_to_the_transaction_of_the_caller(admin, sessions, ends):
    async with sessions() as session:
        handle = await admin.options(session=session).schedule("s", PAST, report)
        assert await admin.list_schedules() == []
        await getattr(session, ends)()
    assert len(await admin.list_schedules()) == (ends == "commit")
    if ends == "rollback":
        with pytest.raises(ScheduleNotFoundError, match="'s'"):
            await handle.pause()


async def test_change_in_a_session_holds_up_no_worker(admin, sessions, sql):
    await admin.schedule("s", PAST, report)
    await make_due(sql)
    async with sessions() as session:
        await admin.options(session=session).schedule("s", PAST, report, "new")
        await start_due([await admin.store()])
        assert await admin.list_workflows() == []
        await session.commit()
    await start_due([await admin.store()])
    assert [each.input["args"] for each in await admin.list_workflows()] == [["new"]]


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_lost_statement_starts_a_time_once(admin, sql, outcome):
    """The connection is lost before the commit of the statement that starts, or after it."""
    await admin.schedule("s", PAST, report, overlap="allow")
    due = await make_due(sql)
    database = (await admin.store()).database
    firing = ScheduleFiring()

    async def start(connection, fails):
        async def fetch(statement, values):
            return (await connection.execute(statement(), values)).mappings().all()

        fired = await firing.fire(fetch, ["report"], ["default"])
        if fails:
            raise ZeroDivisionError
        return len(fired.runs)

    if outcome == "before":
        with pytest.raises(ZeroDivisionError):
            await database.run_with_retries(lambda connection: start(connection, fails=True))
        assert await sql.fetchval("SELECT next_at FROM pgqrs_schedules") == due
        assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 0
    else:
        await database.run_with_retries(lambda connection: start(connection, fails=False))
    again = await database.run_with_retries(lambda connection: start(connection, fails=False))
    assert again == (outcome == "before")
    assert [each.scheduled_for for each in await admin.list_workflows()] == [due]


class TestByHand:
    async def test_trigger_starts_a_paused_schedule(self, admin):
        handle = await admin.schedule("s", PAST, sleepy)
        await handle.pause()
        before = await handle.record()
        run = await handle.trigger()
        async with no_hang(), Worker(admin, [sleepy]):
            planned = datetime.fromisoformat(await run.result())
        (found,) = await admin.list_workflows()
        assert (found.id, found.scheduled_for, found.schedule) == (run.id, planned, "s")
        assert await handle.record() == before

    async def test_backfill_twice_starts_nothing_twice(self, admin):
        handle = await admin.schedule("s", PAST, report)
        since = datetime(2025, 1, 1, tzinfo=UTC)
        times = [since + number * HOUR for number in range(24)]
        assert await handle.backfill(since, since + 24 * HOUR, dry_run=True) == times
        assert await admin.list_workflows() == []
        assert await handle.backfill(since, since + 12 * HOUR) == times[:12]
        assert await handle.backfill(since, since + 24 * HOUR, dry_run=True) == times[12:]
        assert await handle.backfill(since, since + 24 * HOUR) == times[12:]
        assert await handle.backfill(since, since + 24 * HOUR) == []
        assert sorted(each.scheduled_for for each in await admin.list_workflows()) == times

    async def test_workflows_have_the_partition_key_of_the_schedule(self, admin):
        handle = await admin.options(partition_key="acme").schedule("s", PAST, report)
        since = datetime(2025, 1, 1, tzinfo=UTC)
        await handle.trigger()
        await handle.backfill(since, since + 2 * HOUR)
        await admin.schedule("s", PAST, report)
        await handle.trigger()
        keys = [each.partition_key for each in await admin.list_workflows()]
        assert keys == [None, "acme", "acme", "acme"]

    async def test_time_that_was_backfilled_is_not_started_again(self, admin, sql):
        handle = await admin.schedule("s", PAST, report, overlap="allow")
        due = await make_due(sql)
        await handle.backfill(due, due + timedelta(seconds=0.001))
        await start_due([await admin.store()])
        assert [each.scheduled_for for each in await admin.list_workflows()] == [due]
        assert (await handle.record()).next_at == due + HOUR

    async def test_backfill_refuses_what_it_cannot_do(self, admin):
        handle = await admin.schedule("s", Every(60), report)
        now = datetime.now(UTC)
        for since, until in (
            (now, now + HOUR),
            (now - 400 * 24 * HOUR, now - HOUR),
            (now, now.replace(tzinfo=None)),
        ):
            with pytest.raises(ConfigurationError):
                await handle.backfill(since, until)
        assert await admin.list_workflows() == []

    async def test_deleted_schedule_leaves_its_workflows(self, admin):
        handle = await admin.schedule("s", PAST, report)
        await handle.trigger()
        assert (await handle.delete(), await handle.delete()) == (True, False)
        assert len(await admin.list_workflows()) == 1
        for call in (handle.record, handle.pause, handle.resume, handle.trigger, handle.next):
            with pytest.raises(ScheduleNotFoundError):
                await call()
        with pytest.raises(ScheduleNotFoundError) as missing:
            await admin.find_schedule("s")
        assert missing.value.name == "s"


class TestScheduledFor:
    async def test_time_is_the_same_in_each_run(self, admin, sql, claimer):
        await admin.schedule("s", PAST, sleepy)
        due = await make_due(sql)
        await start_due([await admin.store()])
        ctx, _ = await claimer.adopt(sleepy)
        assert ctx.scheduled_for == due
        ctx.abandon()
        (found,) = await admin.list_workflows()
        async with no_hang(), Worker(admin, [sleepy]):
            assert await admin.handle(found.id).result() == str(due)

    async def test_run_by_hand_has_the_time(self, admin, sql):
        handle = await admin.schedule("s", PAST, report)
        run = await handle.trigger()
        planned = (await row_of(sql, run.id))["scheduled_for"]
        await admin.cancel_workflow(run.id)
        resumed = await admin.resume_workflow(run.id)
        for ctx in (await admin.get_workflow(run.id), resumed):
            assert ctx.scheduled_for == planned
        assert await report(await admin.get_workflow(run.id), "sales") == f"sales for {planned}"

    async def test_other_workflows_have_none(self, admin):
        assert await admin.run(report, "sales") == "sales for None"


@pytest.mark.parametrize(
    "codec", [JsonCodec(), PydanticCodec(), FernetCodec([base64.urlsafe_b64encode(b"k" * 32)], PydanticCodec())],
    ids=["json", "pydantic", "fernet"],
)  # fmt: skip
async def test_arguments_are_written_with_the_codec(dsn, sound, sql, codec):
    async with Admin(dsn, sound, codec=codec) as admin, Admin(dsn, sound) as reader:
        day = datetime(2026, 1, 1, tzinfo=UTC)
        if isinstance(codec, JsonCodec):
            await admin.schedule("s", PAST, report, "sales")
        else:
            await admin.schedule("s", PAST, dated, day)
            (listed,) = await reader.list_schedules()
            assert isinstance(listed.input, Unreadable)
        await make_due(sql)
        async with no_hang(), Worker(admin, [report, dated]):
            while not (found := await admin.list_workflows(status=WorkflowStatus.SUCCESS)):
                await start_due([await admin.store()])
            result = await admin.handle(found[0].id, report if isinstance(codec, JsonCodec) else dated).result()
        assert result == (f"sales for {found[0].scheduled_for}" if isinstance(codec, JsonCodec) else day)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"overlap": "wait"}, ConfigurationError),
        ({"catchup": "some"}, ConfigurationError),
        ({"catchup": "all"}, ConfigurationError),
        ({"within": -1}, ConfigurationError),
        ({"jitter": "1"}, TypeError),
        ({"start": datetime(2026, 1, 1)}, ConfigurationError),  # noqa: DTZ001
        ({"end": "tomorrow"}, TypeError),
        ({"start": datetime(2026, 1, 2, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)}, ConfigurationError),
    ],
    ids=str,
)
async def test_invalid_option_is_refused(admin, options, error):
    with pytest.raises(error):
        await admin.schedule("s", PAST, report, **options)


async def test_invalid_declaration_is_refused(admin):
    for name in ("", "n" * 449, "ü" * 225):
        with pytest.raises(InvalidNameError):
            await admin.schedule(name, PAST, report)
    for options in (
        {"key": "k"},
        {"delay": 1},
        {"at": datetime.now(UTC)},
        {"key": "k", "until": "end"},
    ):
        with pytest.raises(ConfigurationError, match="schedule"):
            await admin.options(**options).schedule("s", PAST, report)
    with pytest.raises(TypeError, match="accept"):
        await admin.schedule("s", PAST, report, 1, 2)
    with pytest.raises(TypeError, match="Cron"):
        await admin.schedule("s", "0 3 * * *", report)
    assert await admin.list_schedules() == []


class TestAt:
    async def test_workflow_starts_at_a_time(self, admin, sessions, sql):
        at = datetime.now(UTC) + 5 * HOUR
        first = await admin.options(at=at).enqueue(report)
        (second,) = await admin.options(at=at).enqueue_many(report, [("a",)])
        async with sessions() as session, session.begin():
            third = await admin.options(at=at, session=session).enqueue(report)
        for each in (first, second, third):
            due_at = (await row_of(sql, each.id))["due_at"]
            assert abs(due_at - at) < timedelta(seconds=2)
            assert each is not third or due_at == at

    async def test_time_that_has_passed_is_now(self, admin, sql):
        handle = await admin.options(at=datetime(2020, 1, 1, tzinfo=UTC)).enqueue(report)
        row = await row_of(sql, handle.id)
        assert (row["due_at"], row["ready_at"]) == (None, row["created_at"])

    async def test_invalid_use_is_refused(self, admin):
        now = datetime.now(UTC)
        for options in ({"at": now, "delay": 1}, {"at": now.replace(tzinfo=None)}):
            with pytest.raises(ConfigurationError, match="at"):
                admin.options(**options)
        with pytest.raises(ConfigurationError, match="delay"):
            await admin.options(at=now).run(report)


async def test_assertions_find_a_schedule(admin):
    await admin.options(queue="q").schedule("s", PAST, report, "sales")
    assert (await assert_scheduled(admin, report, "sales", name="s", rule=PAST, queue="q")).name == "s"
    await assert_not_scheduled(admin, sleepy)
    for options in ({"name": "t"}, {"rule": Every(60)}, {"queue": "default"}):
        await assert_not_scheduled(admin, report, **options)
        with pytest.raises(AssertionError, match="s: report, every 1:00:00, queue 'q'"):
            await assert_scheduled(admin, report, **options)
    with pytest.raises(AssertionError, match="no schedule"):
        await assert_scheduled(admin, report, "costs")
    with pytest.raises(AssertionError, match="is scheduled"):
        await assert_not_scheduled(admin, report)
