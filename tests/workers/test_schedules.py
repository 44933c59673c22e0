"""Schedules: each time starts one workflow, whatever the number of workers, outages, pauses and overlaps."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pgqrs import (
    Admin,
    ConfigurationError,
    Cron,
    Every,
    PyWorkflow,
    Topic,
    Worker,
    WorkflowCancelledError,
    WorkflowStatus,
    workflow,
)
from pgqrs.observer import Observer
from pgqrs.storage.queries import schedules as statements
from pgqrs.storage.schedules import firing as firing_module
from pgqrs.storage.schedules.firing import Fired, ScheduleFiring
from pgqrs.testing import run_enqueued
from tests.support.database import connected
from tests.support.waiting import no_hang, until
from tests.support.workflows import note

pytest_plugins = ("pytest_pgqrs",)

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
HOURLY = Cron("@hourly")
GO: Topic[None] = Topic("go")


@workflow
async def report(ctx: PyWorkflow, what: str = "sales") -> str:
    await note(ctx, what)
    return f"{what} for {ctx.scheduled_for}"


@workflow
async def waiting(ctx: PyWorkflow) -> str:
    planned = ctx.scheduled_for
    await ctx.receive(GO)
    assert ctx.scheduled_for == planned
    return str(planned)


class Firings(Observer):
    """The starts of workflows by schedules."""

    def __init__(self):
        self.events = []

    def schedule_fired(self, schedule, workflow_id, scheduled_for, lateness):
        self.events.append((schedule, workflow_id, scheduled_for, lateness))


async def runs_of(admin: Admin, name: str = "s"):
    """Return the workflows that a schedule has started, by their times."""
    found = [each for each in await admin.list_workflows(limit=10_000) if each.schedule == name]
    return sorted(found, key=lambda each: each.scheduled_for)


async def times_of(admin: Admin, name: str = "s") -> list[datetime]:
    return [each.scheduled_for for each in await runs_of(admin, name)]


async def statuses(admin: Admin) -> list[str]:
    return [each.status for each in await runs_of(admin)]


async def is_parked(admin: Admin, count: int = 1) -> bool:
    return (await statuses(admin)).count(WorkflowStatus.WAITING) == count


async def set_back(sql_of, by: timedelta) -> None:
    await sql_of.execute("UPDATE pgqrs_test_clock SET ahead = ahead - $1::interval", by)


class TestFiring:
    async def test_time_starts_a_workflow_with_the_options(self, kit, clock):
        options = {"queue": "reports", "partition_key": "acme", "priority": -1, "timeout": 60}
        handle = await kit.options(**options).schedule("s", HOURLY, report, "sales")
        (first,) = await handle.next()
        await clock.advance_to(first)
        (found,) = await runs_of(kit)
        assert (found.queue, found.partition_key, found.priority) == ("reports", "acme", -1)
        assert found.scheduled_for == first
        assert found.key == f"s {first.isoformat()}"
        assert await run_enqueued(kit, [report]) == 1
        assert await kit.handle(found.id).result() == f"sales for {first}"

    async def test_worker_starts_each_time_when_it_comes(self, kit, clock):
        hours = await (await kit.schedule("s", HOURLY, report)).next(3)
        async with no_hang(), Worker(kit, [report]):
            for number, hour in enumerate(hours, 1):
                await clock.advance_to(hour)
                await until(_has_ended, kit, number)
        assert await times_of(kit) == hours

    @pytest.mark.parametrize("is_worker", [True, False], ids=["worker", "clock"])
    async def test_each_start_is_an_event_and_a_line_in_the_log(self, kit, clock, caplog, is_worker):
        caplog.set_level("INFO", "pgqrs.storage")
        handle = await kit.schedule("s", HOURLY, report, overlap="allow")
        (first,) = await handle.next()
        by_hand = await handle.trigger()  # is no event
        async with no_hang(), kit.twin(observer=(seen := Firings())) as twin:
            if is_worker:
                await _move_without_firing(clock, first + MINUTE)
                async with Worker(twin, [report]):
                    await until(lambda: seen.events)
            else:
                (await kit.store()).observer = seen
                await clock.advance_to(first + MINUTE)
        ((schedule, workflow_id, time, lateness),) = seen.events
        (found,) = [each for each in await runs_of(kit) if each.id != by_hand.id]
        assert (schedule, workflow_id, time) == ("s", found.id, first)
        assert 60 <= lateness < 90
        (line,) = [each for each in caplog.records if hasattr(each, "lateness")]
        assert (line.levelname, line.schedule, line.workflow_id, line.lateness) == (
            "INFO",
            "s",
            found.id,
            lateness,
        )
        assert line.scheduled_for == first.isoformat()
        started = f"the schedule 's' has started workflow {found.id} for {first.isoformat()}, 6"
        assert started in line.getMessage()

    async def test_eight_processes_start_each_of_many_times_once(self, kit, clock):
        """Each of the eight looks for due schedules, and starts them, at the same time as the others."""
        for number in range(20):
            await kit.schedule(f"s{number}", HOURLY, report, overlap="allow")
        admins = [kit, *(kit.twin() for _ in range(7))]
        watches = [await (await each.store()).claim_connection(lambda _mark: None) for each in admins]
        firings = [ScheduleFiring() for _ in watches]
        hours = await (await kit.find_schedule("s0")).next(4)
        for hour in hours:
            await _move_without_firing(clock, hour)
            await asyncio.gather(
                *(
                    watch.fire_schedules(firing, ["report"], ["default"])
                    for watch, firing in zip(watches, firings, strict=True)
                    for _ in range(2)
                )
            )
        keys = [each.key for each in await kit.list_workflows(limit=1000)]
        assert sorted(keys) == sorted(f"s{number} {hour.isoformat()}" for number in range(20) for hour in hours)
        for watch in watches:
            await watch.close()
        for each in admins[1:]:
            await each.close()

    async def test_statement_with_an_old_time_starts_nothing(self, kit, clock):
        """A second sending of the statement, and a change of the rule after the times were computed."""
        handle = await kit.schedule("s", HOURLY, report, overlap="allow")
        (first,) = await handle.next()
        await _move_without_firing(clock, first)
        seen = _Recorded(kit)
        assert len((await ScheduleFiring().fire(seen.fetch, ["report"], ["default"])).runs) == 1
        assert (await seen.again()) == (0, None)
        (second,) = await handle.next()
        await _move_without_firing(clock, second)
        seen = _Recorded(kit, before_fire=lambda: kit.schedule("s", Every(timedelta(days=7)), report))
        assert (await ScheduleFiring().fire(seen.fetch, ["report"], ["default"])).moved == 0
        assert await times_of(kit) == [first]

    async def test_worker_fires_only_what_it_serves(self, kit, clock):
        await kit.schedule("s", HOURLY, report)
        await kit.options(queue="other").schedule("t", HOURLY, report)
        (first,) = await (await kit.find_schedule("s")).next()
        await _move_without_firing(clock, first)
        watch = await (await kit.store()).claim_connection(lambda _mark: None)
        for names, queues, expected in (
            (["waiting"], ["default"], 0),
            (["report"], ["third"], 0),
            (["report"], ["default"], 1),
        ):
            found = await watch.run_maintenance(names, queues)
            assert found.has_due_schedules is bool(expected)
            assert len((await watch.fire_schedules(ScheduleFiring(), names, queues)).runs) == expected
        await watch.close()
        assert (await times_of(kit), await times_of(kit, "t")) == ([first], [])

    async def test_clock_of_the_server_set_back_starts_nothing_twice(self, kit, clock, dsn):
        (first,) = await (await kit.schedule("s", HOURLY, report, overlap="allow")).next()
        await clock.advance_to(first)
        async with connected(dsn, clock.schema) as sql:
            await set_back(sql, timedelta(hours=2))
        for _ in range(2):
            await clock.advance(HOUR)
        assert await times_of(kit) == [first]
        await clock.advance(HOUR)
        assert await times_of(kit) == [first, first + HOUR]

    async def test_jitter_delays_the_start_and_not_the_time(self, kit, clock):
        handle = await kit.schedule("s", HOURLY, report, jitter=HOUR)
        (first,) = await handle.next()
        await clock.advance_to(first)
        (found,) = await runs_of(kit)
        assert first < found.due_at < first + HOUR
        assert (found.scheduled_for, (await handle.record()).next_at) == (first, first + HOUR)

    async def test_times_of_the_record_follow_the_clock(self, kit, clock):
        await clock.advance(timedelta(days=3))
        record = await (await kit.schedule("s", HOURLY, report)).record()
        assert clock.ahead <= record.created_at - datetime.now(UTC) + MINUTE
        assert record.created_at == record.updated_at

    async def test_every_is_counted_from_its_anchor(self, kit, clock):
        """The time of the declaration, and a late start, move no time."""
        handle = await kit.schedule("s", Every(20 * MINUTE), report, overlap="allow")
        (first,) = await handle.next()
        assert first.minute in {0, 20, 40}
        await clock.advance_to(first + 5 * MINUTE)
        assert (await handle.record()).next_at == first + 20 * MINUTE

    async def test_schedule_that_cannot_be_read_stops_no_other(self, kit, clock, dsn, caplog):
        await kit.schedule("bad", HOURLY, report)
        (first,) = await (await kit.schedule("s", HOURLY, report)).next()
        async with connected(dsn, clock.schema) as sql:
            await sql.execute("UPDATE pgqrs_schedules SET zone = 'Mars/Olympus' WHERE name = 'bad'")
        await clock.advance_to(first)
        assert await times_of(kit) == [first]
        assert "cannot start the schedule 'bad'" in caplog.text
        assert [each.name for each in await kit.list_schedules()] == ["bad", "s"]

    async def test_schedule_that_was_mended_starts_again(self, kit, clock, dsn, monkeypatch):
        handle = await kit.schedule("s", HOURLY, report)
        (first,) = await handle.next()
        async with connected(dsn, clock.schema) as sql:
            await sql.execute("UPDATE pgqrs_schedules SET zone = 'Mars/Olympus'")
            await _move_without_firing(clock, first)
            firing, seen = ScheduleFiring(), _Recorded(kit)
            assert await firing.fire(seen.fetch, ["report"], ["default"]) == Fired()
            for call in (handle.next, handle.resume):
                await handle.pause()
                with pytest.raises(ConfigurationError, match="unknown time zone 'Mars/Olympus'"):
                    await call()
            await sql.execute("UPDATE pgqrs_schedules SET zone = 'UTC', paused_at = NULL")
        assert await firing.fire(seen.fetch, ["report"], ["default"]) == Fired()
        monkeypatch.setattr(firing_module, "UNREADABLE", 0.0)
        assert len((await firing.fire(seen.fetch, ["report"], ["default"])).runs) == 1

    async def test_due_schedules_start_in_portions(self, kit, clock, dsn, set_in_statements):
        set_in_statements(statements, "MAX_DUE", 50)
        assert await _start_copies(kit, clock, dsn, 120) == [50, 50, 21]

    @pytest.mark.slow
    async def test_ten_thousand_due_schedules_start_at_once(self, kit, clock, dsn):
        """A second or two; a plan that compares all pairs takes half a minute."""
        async with asyncio.timeout(15):
            assert sum(await _start_copies(kit, clock, dsn, 10_000)) == 10_001


class TestCatchUp:
    @pytest.mark.parametrize(("catchup", "expected"), [("last", [2]), ("all", [0, 1, 2]), ("none", [])])
    async def test_outage_over_three_times(self, kit, clock, catchup, expected):
        handle = await kit.schedule("s", HOURLY, report, catchup=catchup, overlap="allow")
        hours = await handle.next(4)
        await clock.advance_to(hours[2] + 10 * MINUTE)
        assert await times_of(kit) == [hours[number] for number in expected]
        assert (await handle.record()).next_at == hours[3]

    @pytest.mark.parametrize(("catchup", "expected"), [("last", []), ("all", [2])])
    async def test_missed_time_is_dropped_at_its_age(self, kit, clock, catchup, expected):
        within = 5 * MINUTE if catchup == "last" else 20 * MINUTE
        handle = await kit.schedule("s", HOURLY, report, catchup=catchup, overlap="allow", within=within)
        hours = await handle.next(4)
        await clock.advance_to(hours[2] + 10 * MINUTE)
        assert await times_of(kit) == [hours[number] for number in expected]
        assert (await handle.record()).next_at == hours[3]

    async def test_default_is_the_last_time_of_a_day(self, kit, clock):
        handle = await kit.schedule("s", Cron("0 0 1 1 *"), report)
        (new_year,) = await handle.next()
        await clock.advance_to(new_year + timedelta(days=1, hours=1))
        assert await times_of(kit) == []
        assert (await handle.record()).next_at.year == new_year.year + 1

    async def test_time_on_time_starts_without_catch_up(self, kit, clock):
        (first,) = await (await kit.schedule("s", HOURLY, report, catchup="none")).next()
        await clock.advance_to(first + timedelta(seconds=10))
        assert await times_of(kit) == [first]

    async def test_pause_over_times_starts_none_of_them(self, kit, clock):
        handle = await kit.schedule("s", HOURLY, report)
        hours = await handle.next(4)
        await handle.pause()
        await clock.advance_to(hours[1] + MINUTE)
        await kit.schedule("s", HOURLY, report, "other")  # as a deploy does: the schedule stays paused
        assert (await handle.record()).is_paused
        await handle.resume()
        assert (await handle.record()).next_at == hours[2]
        await clock.advance_to(hours[2])
        assert await times_of(kit) == [hours[2]]

    async def test_deploy_in_an_outage_keeps_the_missed_time(self, kit, clock):
        handle = await kit.schedule("s", HOURLY, report)
        (first,) = await handle.next()
        await _move_without_firing(clock, first + MINUTE)
        await kit.schedule("s", HOURLY, report, "other")
        await clock.advance(MINUTE)
        assert await times_of(kit) == [first]
        await kit.schedule("s", Cron("30 * * * *"), report)
        assert (await handle.record()).next_at == first + 30 * MINUTE

    async def test_end_and_start_bound_the_times(self, kit, clock):
        now = await clock.now()
        handle = await kit.schedule(
            "s", Every(HOUR), report, start=now + 3 * HOUR, end=now + 5 * HOUR, overlap="allow"
        )
        times = await handle.next(9)
        assert len(times) == 2
        assert times[0] >= now + 3 * HOUR
        for _ in range(8):
            await clock.advance(HOUR)
        assert await times_of(kit) == times
        assert (await handle.record()).next_at is None


class TestOverlap:
    async def test_skip_drops_times_while_a_run_waits_for_a_week(self, kit, clock):
        hours = await (await kit.schedule("s", HOURLY, waiting)).next(2)
        async with no_hang(), Worker(kit, [waiting]):
            await clock.advance_to(hours[0])
            await until(is_parked, kit)
            for _ in range(7):
                await clock.advance(timedelta(days=1))
            assert await times_of(kit) == [hours[0]]
            (first,) = await runs_of(kit)
            await kit.send(first.id, GO, None)
            assert await kit.handle(first.id).result() == str(hours[0])
            await clock.advance(HOUR)
            await until(is_parked, kit)
            assert len(await runs_of(kit)) == 2

    async def test_queue_starts_one_more_at_the_end(self, kit, clock):
        handle = await kit.schedule("s", HOURLY, waiting, overlap="queue")
        hours = await handle.next(4)
        async with no_hang(), Worker(kit, [waiting]):
            for hour in hours[:3]:
                await clock.advance_to(hour)
            assert await times_of(kit) == hours[:1]
            assert (await handle.record()).queued_for == hours[1]
            await until(is_parked, kit)
            await kit.send((await runs_of(kit))[0].id, GO, None)
            await until(_has_ended, kit, 1)
            await clock.advance(MINUTE)
            await until(_has_times, kit, hours[:2])
            assert (await handle.record()).queued_for is None

    async def test_new_time_waits_behind_the_queued_one(self, kit, clock):
        handle = await kit.schedule("s", HOURLY, report, overlap="queue")
        hours = await handle.next(3)
        await clock.advance_to(hours[0])
        await clock.advance_to(hours[1])
        await run_enqueued(kit, [report])
        await clock.advance_to(hours[2])
        assert (await times_of(kit), (await handle.record()).queued_for) == (hours[:2], hours[2])

    async def test_cancel_ends_the_run_that_waits(self, kit, clock):
        hours = await (await kit.schedule("s", HOURLY, waiting, overlap="cancel")).next(2)
        async with no_hang(), Worker(kit, [waiting]):
            await clock.advance_to(hours[0])
            await until(is_parked, kit)
            await clock.advance_to(hours[1])
            first, second = await runs_of(kit)
            with pytest.raises(WorkflowCancelledError):
                await kit.handle(first.id).result()
            await kit.send(second.id, GO, None)
            assert await kit.handle(second.id).result() == str(hours[1])

    async def test_cancel_waits_for_a_run_that_is_locked(self, kit, clock, dsn):
        hours = await (await kit.schedule("s", HOURLY, waiting, overlap="cancel")).next(2)
        await clock.advance_to(hours[0])
        async with connected(dsn, clock.schema) as sql, sql.transaction():
            await sql.execute("SELECT FROM pgqrs_workflows FOR UPDATE")
            await clock.advance_to(hours[1])
            assert await times_of(kit) == hours[:1]
        await clock.advance(MINUTE)
        assert await statuses(kit) == [WorkflowStatus.CANCELLED, WorkflowStatus.PENDING]

    async def test_allow_starts_a_run_beside_the_live_one(self, kit, clock):
        hours = await (await kit.schedule("s", HOURLY, waiting, overlap="allow")).next(3)
        for hour in hours:
            await clock.advance_to(hour)
        assert await times_of(kit) == hours


async def _has_ended(admin, count):
    return (await statuses(admin)).count(WorkflowStatus.SUCCESS) == count


async def _has_times(admin, times):
    return await times_of(admin) == times


async def _move_without_firing(clock, time):
    await clock._move((time - await clock.now()).total_seconds())


async def _copy(sql, count):
    """Copy the schedule "s"."""
    columns = ", ".join(each.name for each in statements.Schedule.__table__.columns if each.name != "name")
    await sql.execute(
        f"INSERT INTO pgqrs_schedules (name, {columns}) SELECT 's' || n, {columns} "
        f"FROM pgqrs_schedules, generate_series(1, {count}) n"
    )


async def _start_copies(admin, clock, dsn, count):
    """Make many schedules due at once, start them as a worker does, and return the number of each statement."""
    (first,) = await (await admin.schedule("s", HOURLY, report)).next()
    async with connected(dsn, clock.schema) as sql:
        await _copy(sql, count)
    await _move_without_firing(clock, first)
    watch = await (await admin.store()).claim_connection(lambda _mark: None)
    firing, started = ScheduleFiring(), []
    while (await watch.run_maintenance(["report"], ["default"])).has_due_schedules:
        started.append(len((await watch.fire_schedules(firing, ["report"], ["default"])).runs))
    await watch.close()
    return started


class _Recorded:
    """Runs the statements of a start of schedules, each in a transaction of its own, and remembers the last."""

    def __init__(self, admin, before_fire=None):
        self._admin = admin
        self._before_fire = before_fire
        self._last = None

    async def fetch(self, statement, values):
        if statement is statements.fire and self._before_fire is not None:
            await self._before_fire()
        self._last = statement, values
        database = (await self._admin.store()).database

        async def run(connection):
            return (await connection.execute(statement(), values)).mappings().all()

        return await database.run_with_retries(run)

    async def again(self):
        """Send the last statement again, and return the number of schedules that moved and the ids."""
        (found,) = await self.fetch(*self._last)
        return found["moved"], found["ids"]
