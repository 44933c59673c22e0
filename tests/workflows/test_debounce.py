"""Debounced and throttled submissions: few runs, each with the newest arguments, and nothing is lost."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from pgqrs import Admin, JsonCodec, PyWorkflow, UniqueTakenError, Worker, WorkflowStatus, workflow
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.engine.parking import RunWorker
from pgqrs.models import Throttle
from pgqrs.storage.uniqueness.statements import forget_throttles
from pgqrs.testing import run_enqueued
from pgqrs.workflow.definition import definition_of
from tests.support.claims import claims
from tests.support.database import connected, engine_on, is_held_up
from tests.support.recorded import row_of
from tests.support.waiting import no_hang, until

pytest_plugins = ("pytest_pgqrs",)

QUIET = {"debounce": 5, "debounce_at_most": 60}

SECOND = timedelta(seconds=1)


@workflow
async def sync(ctx: PyWorkflow, what: str) -> str:
    return what


def debounced(admin, **options):
    return admin.options(unique="v", **QUIET, **options)


def throttled(admin, **options):
    return admin.options(unique="v", throttle=60, **options)


async def record(admin, handle):
    (found,) = [each for each in await admin.list_workflows() if each.id == handle.id]
    return found


async def runs(admin):
    """Return the arguments of the runs that have ended, and the seconds from the first to each other."""
    ended = await admin.list_workflows(status=WorkflowStatus.SUCCESS)
    starts = sorted((each.started_at, each.output) for each in ended)
    return [(round((at - starts[0][0]) / SECOND), output) for at, output in starts]


async def claim(own):
    """Claim a workflow if one is ready."""
    return await own._claim(definition_of(sync).name)


@asynccontextmanager
async def caller(dsn, clock):
    """A connection of the application, which sees the time of the clock."""
    engine = engine_on(dsn)
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SET search_path = {clock.search_path}")
            await connection.commit()
            yield connection
    finally:
        await engine.dispose()


class TestDebounce:
    async def test_newest_arguments_run_once_it_is_quiet(self, kit, clock):
        first = await debounced(kit).enqueue(sync, "a")
        for what in ("b", "c"):
            await clock.advance(seconds=4)
            assert (await debounced(kit).enqueue(sync, what)).id == first.id
        due = await record(kit, first)
        assert abs(due.due_at - await clock.now() - 5 * SECOND) < SECOND
        assert await run_enqueued(kit, [sync]) == 1
        assert await first.result() == "c"
        assert (await debounced(kit).enqueue(sync, "d")).id != first.id

    async def test_run_starts_in_time_however_many_come(self, kit, clock):
        first = await debounced(kit).enqueue(sync, "0")
        async with claims(kit) as own:
            for n in range(1, 16):
                await clock.advance(seconds=4)
                assert (await debounced(kit).enqueue(sync, str(n))).id == first.id
                assert (await claim(own) is None) is (n < 15)
        found = await record(kit, first)
        assert 59 * SECOND < found.started_at - found.created_at < 75 * SECOND  # the machine may be slow
        assert found.input["args"] == ["15"]

    async def test_ready_run_waits_again_for_quiet(self, kit, clock):
        first = await debounced(kit).enqueue(sync, "a")
        async with claims(kit) as own:
            await clock.advance(seconds=6)
            await own._watch.run_maintenance([definition_of(sync).name], ["default"])
            await debounced(kit).enqueue(sync, "b")  # it was ready, and no worker had claimed it
            assert await claim(own) is None
            await clock.advance(seconds=6)
            assert (await claim(own)).workflow_id == first.id

    async def test_without_a_bound_it_waits_for_quiet(self, kit, clock):
        for n in range(20):
            handle = await kit.options(unique="v", debounce=10).enqueue(sync, str(n))
            await clock.advance(seconds=9)
        assert (await record(kit, handle)).started_at is None
        assert await run_enqueued(kit, [sync]) == 1
        assert await handle.result() == "19"

    async def test_rollback_gives_back_the_previous_submission(self, kit, clock, dsn):
        first = await debounced(kit, priority=1).enqueue(sync, "a")
        before = await record(kit, first)
        await clock.advance(seconds=3)
        async with caller(dsn, clock) as connection:
            await debounced(kit, session=connection).enqueue(sync, "b")
            await connection.rollback()
            assert await record(kit, first) == before
            await debounced(kit, session=connection).enqueue(sync, "c")
            await connection.commit()
        after = await record(kit, first)
        assert (after.input["args"], after.priority) == (["c"], 0)
        assert after.due_at - before.due_at > 2 * SECOND

    async def test_holder_until_its_end_takes_no_arguments_later(self, admin, sessions, claimer):
        first = await admin.options(unique="v").enqueue(sync, "a")
        assert (await admin.options(unique="v", debounce=0.001).enqueue(sync, "b")).id == first.id
        ctx, args = await claimer.adopt(sync)
        assert args == ["b"]
        async with no_hang(), sessions() as session:
            for options in ({"debounce": 5}, {"throttle": 5}, {"taken": "replace"}):
                with pytest.raises(UniqueTakenError, match="has started"):
                    await admin.options(unique="v", session=session, **options).enqueue(sync, "c")
            assert await sync(ctx, *args) == "b"  # the transaction, which goes on, does not hold the run up
            await session.rollback()

    @pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
    async def test_claim_leaves_a_holder_that_is_being_changed(self, admin, sql, sessions, claimer, is_committed):
        submit = {"unique": "v", "until": "start", "taken": "replace"}
        first = await admin.options(**submit).enqueue(sync, "a")
        async with sessions() as session:
            await admin.options(unique="v", debounce=3600, session=session).enqueue(sync, "b")
            assert await claim(claimer) is None
            await (session.commit() if is_committed else session.rollback())
        claimed = await claim(claimer)
        assert (claimed is None) is is_committed
        args = '["b"]' if is_committed else '["a"]'
        assert args in (await row_of(sql, first.id))["input"]

    @pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
    async def test_submission_waits_for_a_claim(self, admin, sql, sound, dsn, is_committed):
        """It becomes a new workflow if the claim is committed, and a part of the holder otherwise."""
        first = await admin.options(unique="v", until="start").enqueue(sync, "a")
        async with no_hang(), connected(dsn, sound) as claiming:
            transaction = claiming.transaction()
            await transaction.start()
            await claiming.execute("UPDATE pgqrs_workflows SET epoch = 1, updated_at = now()")
            submitted = asyncio.create_task(admin.options(unique="v", debounce=3600).enqueue(sync, "b"))
            await until(is_held_up, sql, sound)
            await (transaction.commit() if is_committed else transaction.rollback())
            second = await submitted
        assert (second.id != first.id) is is_committed
        assert '["b"]' in (await row_of(sql, second.id))["input"]

    async def test_submissions_at_once_make_one_run(self, admin, dsn, sound):
        async with no_hang(), Admin(dsn, sound) as other, Worker(admin, [sync]):
            submit = [each.options(unique="v", debounce=0.3) for each in (admin, other)]
            handles = await asyncio.gather(*(submit[n % 2].enqueue(sync, str(n)) for n in range(20)))
            assert len({each.id for each in handles}) == 1
            last = await submit[0].enqueue(sync, "last")
            assert await last.result() == "last"


class TestThrottle:
    async def test_first_starts_at_once_and_the_newest_after_it(self, kit, clock):
        async with claims(kit) as own:
            first = await throttled(kit).enqueue(sync, "a")
            assert (await claim(own)).workflow_id == first.id
            for n in range(6):
                await clock.advance(seconds=9)
                second = await throttled(kit).enqueue(sync, str(n))
                assert await claim(own) is None
            due = (await record(kit, second)).due_at
            assert abs(due - (await record(kit, first)).started_at - 60 * SECOND) < SECOND / 10
            await clock.advance(seconds=7)
            claimed = await claim(own)
            assert (claimed.workflow_id, claimed.input) == (second.id, '{"args":["5"],"kwargs":{}}')
        assert second.id != first.id

    async def test_starts_keep_the_period_with_nothing_lost(self, kit, clock):
        async with claims(kit) as own:
            for n in range(22):
                await throttled(kit).enqueue(sync, str(n))
                await clock.advance(seconds=10)
                await run_due(kit, own)
        assert await run_enqueued(kit, [sync]) == 1
        found = await runs(kit)
        assert (len(found), found[-1][1]) == (5, "21")
        starts = [at for at, _ in found]
        assert all(60 <= after - before <= 71 for before, after in pairwise(starts))

    async def test_period_begins_with_the_start_of_a_late_run(self, kit, clock):
        first = await throttled(kit).enqueue(sync, "a")
        await clock.advance(seconds=90)  # there was no worker
        assert (await throttled(kit).enqueue(sync, "b")).id == first.id
        async with claims(kit) as own:
            assert (await claim(own)).workflow_id == first.id
            second = await throttled(kit).enqueue(sync, "c")
            await forget(kit)
            due = (await record(kit, second)).due_at
            assert abs(due - await clock.now() - 60 * SECOND) < SECOND

    async def test_run_that_was_cancelled_before_counts_not(self, kit, clock):
        first = await throttled(kit).enqueue(sync, "a")
        await run_enqueued(kit, [sync])
        second = await throttled(kit).enqueue(sync, "b")
        due = (await record(kit, second)).due_at
        await second.cancel()
        third = await throttled(kit).enqueue(sync, "c")
        assert third.id != second.id
        assert (await record(kit, third)).due_at == due
        await third.cancel()
        await clock.advance(seconds=61)
        last = await throttled(kit).enqueue(sync, "d")
        assert (await record(kit, last)).due_at is None
        assert first.id < last.id

    async def test_values_and_names_have_periods_of_their_own(self, kit):
        @workflow
        async def other(ctx: PyWorkflow, what: str) -> str:
            return what

        await throttled(kit).enqueue(sync, "a")
        await kit.options(unique="w", throttle=60).enqueue(sync, "b")
        await throttled(kit).enqueue(other, "c")
        assert [each.due_at for each in await kit.list_workflows()] == [None] * 3
        handles = await kit.options(throttle=60).enqueue_many(
            sync, [("x",), ("y",), ("x",)], unique=lambda what: what
        )
        assert [handles[0].id == handles[2].id, handles[0].id == handles[1].id] == [True, False]

    async def test_submitters_at_once_start_one(self, admin, dsn, sound, sql):
        async with no_hang(), Admin(dsn, sound) as other:
            handles = await asyncio.gather(
                *(throttled(each).enqueue(sync, str(n)) for n, each in enumerate([admin, other] * 8))
            )
        assert len({each.id for each in handles}) == 1
        assert await sql.fetchval("SELECT count(*) FROM pgqrs_throttles") == 1
        async with no_hang(), Worker(admin, [sync]):
            await handles[0].result()
            handles = await asyncio.gather(*(throttled(admin).enqueue(sync, str(n)) for n in range(8)))
        assert len({each.id for each in handles}) == 1
        assert (await row_of(sql, handles[0].id))["started_at"] is None

    async def test_starts_keep_the_period_while_many_submit(self, admin, dsn, sound):
        async with no_hang(), Admin(dsn, sound) as other, Worker(admin, [sync]):
            submit = [each.options(unique="v", throttle=0.15) for each in (admin, other)]
            handles = []
            for n in range(15):
                handles += await asyncio.gather(*(each.enqueue(sync, str(n)) for each in submit))
            results = [int(await each.result()) for each in handles]
            starts = sorted([each.started_at for each in await admin.list_workflows()])
        assert all(result >= place // 2 for place, result in enumerate(results))
        assert len(starts) == len({each.id for each in handles})
        assert all(after - before >= 0.15 * SECOND for before, after in pairwise(starts))

    async def test_rollback_gives_the_next_start_back(self, kit, clock, dsn):
        async with caller(dsn, clock) as connection:
            await throttled(kit, session=connection).enqueue(sync, "a")
            await connection.rollback()
            assert await throttles(kit) == 0
            first = await throttled(kit, session=connection).enqueue(sync, "b")
            await connection.commit()
        assert (await record(kit, first)).due_at is None

    async def test_meaningless_throttles_are_forgotten(self, kit, clock):
        await throttled(kit).enqueue(sync, "a")
        await clock.advance(seconds=120)
        await forget(kit)
        assert await throttles(kit) == 1  # the run has not started
        await run_enqueued(kit, [sync])
        await clock.advance(seconds=30)
        await forget(kit)
        assert await throttles(kit) == 1
        await clock.advance(seconds=31)
        async with claims(kit) as own:  # the maintenance of a worker forgets it
            await own._watch.run_maintenance([], [])
        assert await throttles(kit) == 0

    async def test_locked_throttle_delays_no_maintenance(self, admin, sql, sessions):
        async with no_hang(), sessions() as session, sessions() as second:
            for each in (session, second):
                value = "v" if each is session else "w"
                await admin.options(unique=value, throttle=0.001, session=each).enqueue(sync, "a")
            await second.commit()
            await sql.execute("UPDATE pgqrs_workflows SET started_at = now() - interval '1 hour', epoch = 1")
            await (await admin.store()).database.run_with_retries(
                lambda connection: connection.execute(forget_throttles())
            )
            await session.rollback()
        assert await sql.fetchval("SELECT count(*) FROM pgqrs_throttles") == 0


@pytest.mark.parametrize(
    "codec", [JsonCodec(), PydanticCodec(), FernetCodec([base64.urlsafe_b64encode(b"k" * 32)], PydanticCodec())],
    ids=["json", "pydantic", "fernet"],
)  # fmt: skip
async def test_newest_arguments_have_any_codec(dsn, sound, codec):
    async with no_hang(), Admin(dsn, sound) as plain, Admin(dsn, sound, codec=codec) as admin:
        for options in ({"debounce": 0.05}, {"throttle": 0.05}):
            first = await plain.options(unique="v", **options).enqueue(sync, "a")
            second = await admin.options(unique="v", **options).enqueue(sync, "b")
            assert first.id == second.id
            async with Worker(admin, [sync]):
                assert await second.result() == "b"


async def run_due(admin, own):
    """Run the workflows that are due, without a skip of time."""
    while (claimed := await claim(own)) is not None:
        ctx = PyWorkflow(admin, claimed.workflow_id, claimed.name)
        await ctx.attach_run(claimed, worker=RunWorker())
        await sync(ctx, admin.codec.decode(claimed.input)["args"][0])


async def forget(admin):
    database = (await admin.store()).database
    await database.run_with_retries(lambda connection: connection.execute(forget_throttles()))


async def throttles(admin):
    database = (await admin.store()).database
    return await database.run_with_retries(
        lambda connection: connection.scalar(select(func.count()).select_from(Throttle))
    )
