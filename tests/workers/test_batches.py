"""Batches: one run for many submissions, of which each has its own result, key, cancellation and timeout."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated, Any

import pytest
from sqlalchemy import text

from pgqrs import (
    Admin,
    Batch,
    ConfigurationError,
    Cron,
    InvalidNameError,
    PyWorkflow,
    StepFailedError,
    Topic,
    UniqueTakenError,
    Worker,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowStatus,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.clock import MonotonicClock
from pgqrs.codecs.annotations import annotation_of
from pgqrs.storage.batches.forming import NO_BATCHES
from pgqrs.testing import assert_enqueued, run_enqueued
from pgqrs.worker import batches as batches_of_worker
from pgqrs.worker.batches import batched_workflows
from pgqrs.workflow.definition import definition_of
from tests.support.database import connected
from tests.support.waiting import DEADLINE, no_hang, until
from tests.support.workflows import Gate

pytest_plugins = ("pytest_pgqrs",)

GO: Topic[None] = Topic("go")
BATCHES: list[list[str]] = []


@pytest.fixture(autouse=True)
def batches():
    BATCHES.clear()
    return BATCHES


@step
async def measure(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    BATCHES.append(texts)
    return [len(each) for each in texts]


@workflow(batch=Batch(100, within=0.05))
async def embed(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    return await measure(ctx, texts)


@workflow(batch=Batch(3, within=timedelta(minutes=1)))
async def slow(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    return await measure(ctx, texts)


@workflow(batch=Batch(2, within=60))
async def mark(ctx: PyWorkflow, texts: list[str]) -> None:
    await measure(ctx, texts)


async def batch_of(admin: Admin, handle) -> int | None:
    return (await record_of(admin, handle)).batch_id


async def record_of(admin: Admin, handle):
    return next(each for each in await admin.list_workflows(limit=1000) if each.id == handle.id)


async def form(admin: Admin, *functions, queues=("default",), within=None):
    """Make batches as a worker of these functions does, and return how many."""
    batched = batched_workflows(map(definition_of, functions))
    if within is not None:
        batched = [each._replace(within=within) for each in batched]
    watch = await (await admin.store()).claim_connection(lambda _mark: None)
    try:
        return (await watch.form_batches(batched, queues)).made
    finally:
        await watch.close()


class TestForming:
    async def test_250_submissions_make_100_and_100_and_50(self, admin):
        handles = await admin.enqueue_many(embed, [("x" * number,) for number in range(250)])
        async with no_hang(), Worker(admin, [embed]):
            assert await asyncio.gather(*(each.result() for each in handles)) == [*range(250)]
        assert sorted(map(len, BATCHES)) == [50, 100, 100]
        assert sorted([len(each) for texts in BATCHES for each in texts]) == [*range(250)]

    async def test_complete_batch_starts_at_once(self, admin):
        async with no_hang(), Worker(admin, [slow]):
            first = [await admin.enqueue(slow, each) for each in ("a", "bb")]
            assert [await each.status() for each in first] == ["PENDING", "PENDING"]
            third = await admin.enqueue(slow, "ccc")
            assert await asyncio.gather(*(each.result() for each in (*first, third))) == [1, 2, 3]
        assert BATCHES == [["a", "bb", "ccc"]]

    async def test_clock_moves_the_time_of_a_batch(self, kit, clock):
        async with no_hang(), Worker(kit, [slow]):
            handle = await kit.enqueue(slow, "a")
            await clock.advance(seconds=55)
            second = await kit.enqueue(slow, "bb")
            assert await handle.status() == "PENDING"
            await clock.advance(seconds=6)  # a minute after the first
            assert [await handle.result(), await second.result()] == [1, 2]
        assert BATCHES == [["a", "bb"]]

    async def test_delayed_submission_is_in_no_batch_before_its_time(self, kit, clock):
        late = await kit.options(delay=timedelta(hours=1)).enqueue(slow, "late")
        early = [await kit.enqueue(slow, each) for each in ("a", "b")]
        assert await form(kit, slow) == 0
        async with no_hang(), Worker(kit, [slow]):
            await clock.advance(minutes=2)
            assert await asyncio.gather(*(each.result() for each in early)) == [1, 1]
            assert await late.status() == "PENDING"
            await clock.advance(hours=1)
            assert await late.result() == 4
        assert BATCHES == [["a", "b"], ["late"]]

    async def test_queues_and_partition_keys_are_not_mixed(self, admin):
        for queue, key in (("q", None), ("q", "one"), ("q", "two"), ("r", None)):
            await admin.options(queue=queue, partition_key=key).enqueue_many(slow, [(f"{queue} {key}",)] * 2)
        assert await form(admin, slow, queues=["q", "r"]) == 0
        assert await form(admin, slow, queues=["q", "r"], within=0) == 4
        await run_enqueued(admin, [slow])
        assert sorted(BATCHES) == [["q None"] * 2, ["q one"] * 2, ["q two"] * 2, ["r None"] * 2]

    async def test_priorities_order_the_submissions(self, admin):
        for priority, word in ((0, "c"), (5, "a"), (0, "d"), (1, "b"), (0, "e")):
            await admin.options(priority=priority).enqueue(slow, word)
        assert await form(admin, slow) == 1
        assert await form(admin, slow, within=0) == 1
        await run_enqueued(admin, [slow])
        assert BATCHES == [["a", "b", "c"], ["d", "e"]]

    async def test_workers_at_once_put_each_submission_into_one_batch(self, admin, sql):
        handles = await admin.enqueue_many(slow, [(f"{number}",) for number in range(300)])
        batched = batched_workflows([definition_of(slow)])
        store = await admin.store()
        watches = [await store.claim_connection(lambda _mark: None) for _ in range(6)]

        async def form_all(watch):
            made, left = 0, True
            while left:
                found = await watch.form_batches(batched, ["default"])
                made, left = made + found.made, found.made or found.is_left
            return made

        assert sum(await asyncio.gather(*map(form_all, watches))) == 100
        counts = await sql.fetch("SELECT batch_id, count(*) FROM pgqrs_workflows WHERE name = 'slow' GROUP BY 1")
        assert [count for _, count in counts] == [3] * 100
        listed = await sql.fetch("SELECT input FROM pgqrs_workflows WHERE name = 'slow/batch'")
        assert sorted(each for (text_of,) in listed for each in json.loads(text_of)) == sorted(
            each.id for each in handles
        )
        for watch in watches:
            await watch.close()

    async def test_two_processes_run_each_submission_once(self, admin):
        async with no_hang(), admin.twin() as other, Worker(admin, [embed]), Worker(other, [embed]):
            portions = [
                admin.enqueue_many(embed, [(f"{first + each}",) for each in range(10)])
                for first in range(100, 500, 10)
            ]
            handles = [each for portion in await asyncio.gather(*portions) for each in portion]
            assert await asyncio.gather(*(each.result() for each in handles)) == [3] * 400
        assert sorted(each for texts in BATCHES for each in texts) == [f"{number}" for number in range(100, 500)]

    async def test_locked_submission_holds_up_no_other(self, admin, dsn, schema):
        handles = [await admin.enqueue(slow, each) for each in "abcd"]
        async with connected(dsn, schema) as other, other.transaction():
            await other.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", handles[0].id)
            assert await form(admin, slow, within=0) == 1
        assert [await batch_of(admin, each) is None for each in handles] == [True, False, False, False]

    async def test_paused_queue_gathers_its_submissions(self, admin):
        await admin.pause_queue("default")
        await admin.enqueue_many(slow, [("a",)] * 3)
        assert await form(admin, slow) == 0
        await admin.resume_queue("default")
        assert await form(admin, slow) == 1

    async def test_submission_of_another_codec_is_left_alone(self, admin, sql):
        await admin.enqueue_many(slow, [("a",)] * 3)
        await sql.execute("UPDATE pgqrs_workflows SET codec = 'other'")
        assert await form(admin, slow, within=0) == 0

    async def test_limits_of_a_queue_count_a_batch_as_one_run(self, admin):
        gate = Gate()
        held = gate.step("held")

        @workflow(batch=Batch(2, within=0))
        async def gated(ctx: PyWorkflow, texts: list[str]) -> None:
            await held(ctx)

        await admin.set_queue("mail", concurrency=2)
        handles = await admin.options(queue="mail").enqueue_many(gated, [("a",)] * 6)
        async with no_hang(), Worker(admin, [gated], ["mail"]):

            async def running():
                (queue,) = await admin.list_queues()
                return (queue.running, queue.ready) == (2, 1)

            await until(running)
            gate.open()
            await asyncio.gather(*(each.result() for each in handles))

    @pytest.mark.without_replay("it counts the executions of the body")
    async def test_batches_fill_while_no_slot_is_free(self, admin):
        gate = Gate()
        held = gate.step("held")
        sizes = []

        @workflow(name="gated", batch=Batch(5, within=0))
        async def gated(ctx: PyWorkflow, texts: list[str]) -> None:
            sizes.append(len(texts))
            await held(ctx)

        async with no_hang(), Worker(admin, [gated], concurrency=1):
            first = await admin.enqueue(gated, "a")
            await gate.reached.wait()
            handles = [first, *[await admin.enqueue(gated, each) for each in "bcd"]]
            gate.open()
            await asyncio.gather(*(each.result() for each in handles))
        assert sizes == [1, 3]


class TestSearches:
    """The pause after a search is a multiple of the time that the search took, as through an outage."""

    @pytest.fixture(autouse=True)
    def slow(self, monkeypatch):
        monkeypatch.setattr(batches_of_worker, "SHARE", 1e9)

    async def test_stop_ends_the_pause_after_a_slow_search(self, monkeypatch):
        monkeypatch.setattr(batches_of_worker, "MAX_REST", 10 * DEADLINE)
        service, searches = self._service()
        async with no_hang():
            service.start()
            await until(lambda: searches)
            service.wake()  # ends no pause
            await service.stop()
        assert len(searches) == 1

    async def test_slow_search_delays_the_next_one_by_a_maximum(self, monkeypatch):
        monkeypatch.setattr(batches_of_worker, "MAX_REST", 0.01)
        service, searches = self._service()
        async with no_hang():
            service.start()
            await until(lambda: searches)
            service.wake()
            await until(lambda: len(searches) == 2)
            await service.stop()

    def _service(self):
        searches = []

        async def form_none():
            searches.append(None)
            return NO_BATCHES

        return batches_of_worker.Batches(form_none, list, MonotonicClock()), searches


class TestEnds:
    async def test_submissions_of_a_body_without_a_result_return_none(self, admin):
        handles = await admin.enqueue_many(mark, [("a",), ("b",)])
        async with no_hang(), Worker(admin, [mark]):
            assert await asyncio.gather(*(each.result() for each in handles)) == [None, None]

    @pytest.mark.parametrize(("value", "said"), [([1], "got 1 elements"), ("ab", "got str"), ({1: 2}, "got dict")])
    async def test_other_value_fails_the_batch(self, admin, value, said):
        @workflow(name="wrong", batch=Batch(2, within=60))
        async def wrong(ctx: PyWorkflow, texts: list[str]) -> list[int]:
            return value

        handles = await admin.enqueue_many(wrong, [("a",), ("b",)])
        await run_enqueued(admin, [wrong])
        for each in handles:
            with pytest.raises(StepFailedError, match=f"a list with one element for each submission.*{said}"):
                await each.result()

    async def test_error_of_a_batch_is_that_of_each_submission(self, admin):
        @workflow(name="failing", batch=Batch(2, within=60))
        async def failing(ctx: PyWorkflow, texts: list[str]) -> list[int]:
            raise ValueError("no model")

        handles = await admin.enqueue_many(failing, [("a",), ("b",)])
        await run_enqueued(admin, [failing])
        for each in handles:
            with pytest.raises(ValueError, match="no model"):
                await each.result()
        assert {each.status for each in await admin.list_workflows()} == {WorkflowStatus.ERROR}

    async def test_batch_is_retried_with_the_same_submissions(self, kit):
        attempts = []

        @workflow(name="flaky", retry=3, batch=Batch(2, within=60))
        async def flaky(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            attempts.append(texts)
            if len(attempts) < 3:
                raise OSError("busy")
            return texts

        handles = await kit.enqueue_many(flaky, [("a",), ("b",)])
        await run_enqueued(kit, [flaky])
        assert [await each.result() for each in handles] == ["a", "b"]
        assert attempts == [["a", "b"]] * 3

    async def test_batch_that_waits_is_parked_and_goes_on(self, kit, clock):
        @workflow(name="patient", batch=Batch(2, within=60))
        async def patient(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            await ctx.sleep(timedelta(days=1))
            await ctx.receive(GO)
            return texts

        async with no_hang(), Worker(kit, [patient]):
            handles = await kit.enqueue_many(patient, [("a",), ("b",)])
            await until(_is_waiting, handles[0])
            await clock.advance(days=2)
            batch = await batch_of(kit, handles[0])
            assert await batch_of(kit, handles[1]) == batch
            await kit.send(batch, GO, None)
            assert [await each.result() for each in handles] == ["a", "b"]

    async def test_status_is_that_of_the_batch_until_the_end(self, admin):
        gate = Gate()
        held = gate.step("held")

        @workflow(name="gated", batch=Batch(1, within=0))
        async def gated(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            await held(ctx)
            return texts

        handle = await admin.enqueue(gated, "a")
        assert await handle.status() == "PENDING"
        async with no_hang(), Worker(admin, [gated]):
            await gate.reached.wait()
            assert await handle.status() == "RUNNING"
            (found,) = [each for each in await admin.list_workflows(status="RUNNING") if each.name == "gated"]
            assert (found.id, found.batch_id) == (handle.id, await batch_of(admin, handle))
            gate.open()
            assert await handle.result() == "a"
        batch = next(each for each in await admin.list_workflows() if each.name == "gated/batch")
        assert (batch.input, batch.output, batch.batch_id) == ([handle.id], None, batch.id)
        assert [each.step_id for each in await admin.list_steps(batch.id)] == ["held"]


async def _is_waiting(handle):
    return await handle.status() == "WAITING"


class TestCancellation:
    async def test_cancelled_submission_is_in_no_batch(self, admin):
        handles = [await admin.enqueue(slow, each) for each in "abc"]
        await handles[1].cancel()
        assert await form(admin, slow) == 0
        await run_enqueued(admin, [slow])
        assert BATCHES == [["a", "c"]]

    async def test_cancelled_submission_of_a_batch_stays_in_its_input(self, admin):
        handles = [await admin.enqueue(slow, each) for each in "abc"]
        assert await form(admin, slow) == 1
        await handles[1].cancel()
        assert await handles[1].status() == "CANCELLED"
        await run_enqueued(admin, [slow])
        assert BATCHES == [["a", "b", "c"]]
        with pytest.raises(WorkflowCancelledError):
            await handles[1].result()
        assert [await handles[0].result(), await handles[2].result()] == [1, 1]

    async def test_cancelled_batch_cancels_its_submissions(self, admin):
        handles = [await admin.enqueue(slow, each) for each in "abc"]
        assert await form(admin, slow) == 1
        await admin.cancel_workflow(await batch_of(admin, handles[0]))
        assert [await each.status() for each in handles] == ["CANCELLED"] * 3

    async def test_cancelled_run_of_a_batch_cancels_its_submissions(self, admin):
        gate = Gate()
        held = gate.step("held")

        @workflow(name="gated", batch=Batch(2, within=0))
        async def gated(ctx: PyWorkflow, texts: list[str]) -> None:
            await held(ctx)

        handles = await admin.enqueue_many(gated, [("a",), ("b",)])
        async with no_hang(), Worker(admin, [gated]):
            await gate.reached.wait()
            await admin.cancel_workflow(await batch_of(admin, handles[0]), interrupt=True)
            for each in handles:
                with pytest.raises(WorkflowCancelledError):
                    await each.result()

    async def test_resumed_submission_is_in_another_batch(self, admin):
        failures = [OSError("away")]

        @workflow(name="once", batch=Batch(2, within=60))
        async def once(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            BATCHES.append(texts)
            if failures:
                raise failures.pop()
            return texts

        handles = await admin.enqueue_many(once, [("a",), ("b",)])
        await run_enqueued(admin, [once])
        first = await batch_of(admin, handles[0])
        await admin.resume_workflow(handles[0].id)
        assert (await handles[0].status(), await batch_of(admin, handles[0])) == ("PENDING", None)
        await run_enqueued(admin, [once])
        assert await handles[0].result() == "a"
        assert BATCHES == [["a", "b"], ["a"]]
        assert await handles[1].status() == "ERROR"
        with pytest.raises(WorkflowFinishedError) as refused:
            await admin.resume_workflow(first)
        assert "resume its submissions" in refused.value.__notes__[0]

    async def test_submission_that_left_its_batch_is_not_ended_by_it(self, admin):
        handles = [await admin.enqueue(slow, each) for each in "abc"]
        assert await form(admin, slow) == 1
        old = await batch_of(admin, handles[0])
        await admin.resume_workflow(handles[0].id)
        await admin.cancel_workflow(old)
        assert [await each.status() for each in handles] == ["PENDING", "CANCELLED", "CANCELLED"]
        await run_enqueued(admin, [slow])
        assert BATCHES == [["a"]]


class TestTimeouts:
    async def test_timeout_of_a_submission_ends_it_alone(self, kit, clock):
        @workflow(name="lasting", batch=Batch(2, within=60))
        async def lasting(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            await ctx.sleep(timedelta(hours=2))
            return texts

        async with no_hang(), Worker(kit, [lasting]):
            hasty = await kit.options(timeout=3600).enqueue(lasting, "a")
            other = await kit.enqueue(lasting, "b")
            await until(_is_waiting, hasty)
            await clock.advance(minutes=61)
            with pytest.raises(WorkflowTimeoutError):
                await hasty.result()
            await clock.advance(hours=1)
            assert await other.result() == "b"

    async def test_timeout_of_the_workflow_is_that_of_a_batch(self, kit, clock):
        @workflow(name="bounded", timeout=3600, batch=Batch(2, within=60))
        async def bounded(ctx: PyWorkflow, texts: list[str]) -> list[str]:
            await ctx.receive(GO)
            return texts

        async with no_hang(), Worker(kit, [bounded]):
            handles = await kit.enqueue_many(bounded, [("a",), ("b",)])
            await until(_is_waiting, handles[0])
            await clock.advance(minutes=61)
            for each in handles:
                with pytest.raises(WorkflowTimeoutError):
                    await each.result()

    async def test_deadline_of_the_parent_holds_while_a_child_waits(self, kit, clock):
        @workflow(name="parent", timeout=30)
        async def parent(ctx: PyWorkflow) -> int:
            return await ctx.call(slow, "a")

        async with no_hang(), Worker(kit, [parent, slow]):
            handle = await kit.enqueue(parent)
            await until(_is_waiting, handle)
            await clock.advance(seconds=31)
            with pytest.raises(WorkflowTimeoutError):
                await handle.result()
        assert BATCHES == []
        assert {each.status for each in await kit.list_workflows()} <= {
            WorkflowStatus.ERROR,
            WorkflowStatus.CANCELLED,
        }


class TestSubmitters:
    async def test_submission_belongs_to_the_callers_transaction(self, admin, sessions):
        async with sessions() as session:
            kept = await admin.options(session=session).enqueue(slow, "a")
            assert await form(admin, slow, within=0) == 0
            await session.commit()
            await admin.options(session=session).enqueue(slow, "b")
            await session.rollback()
        await run_enqueued(admin, [slow])
        assert await kept.result() == 1
        assert BATCHES == [["a"]]

    async def test_key_has_one_submission_and_is_released_at_its_end(self, admin):
        submit = admin.options(key="k", until="end")
        first, second = await submit.enqueue(slow, "a"), await submit.enqueue(slow, "a")
        assert first.id == second.id
        await run_enqueued(admin, [slow])
        assert await first.result() == 1
        assert (await submit.enqueue(slow, "a")).id != first.id

    async def test_unique_value_is_held_until_the_batch_is_made(self, admin):
        newest = admin.options(unique="v", until="start", taken="replace")
        first = await newest.enqueue(mark, "old")
        assert (await newest.enqueue(mark, "new")).id == first.id
        await admin.enqueue(mark, "b")
        assert await form(admin, mark) == 1
        later = await newest.enqueue(mark, "newest")
        assert later.id != first.id
        held = await admin.options(unique="w").enqueue(mark, "held")
        assert await form(admin, mark) == 1
        with pytest.raises(UniqueTakenError, match="has started"):
            await admin.options(unique="w", taken="replace").enqueue(mark, "other")
        async with no_hang(), Worker(admin, [mark]):
            assert [await each.result() for each in (first, later, held)] == [None] * 3
        assert sorted(BATCHES) == [["new", "b"], ["newest", "held"]]

    async def test_batches_of_a_key_run_in_order(self, admin):
        await admin.set_queue("ordered", ordered=True)
        keyed = admin.options(queue="ordered", partition_key="a")
        handles = await keyed.enqueue_many(mark, [(str(n),) for n in range(5)])
        async with no_hang(), Worker(admin, [mark], ["ordered"]):
            await handles[3].result()
            await keyed.enqueue(mark, "5")
            assert [await each.result() for each in handles] == [None] * 5
        assert BATCHES == [["0", "1"], ["2", "3"], ["4", "5"]]

    async def test_children_are_called_in_one_batch(self, admin):
        @workflow(name="parent")
        async def parent(ctx: PyWorkflow, words: list[str]) -> list[int]:
            children = [await ctx.start(slow, each) for each in words[:2]]
            return [await ctx.call(slow, words[2]), *await ctx.gather(*children)]

        async with no_hang(), Worker(admin, [parent, slow]):
            handle = await admin.enqueue(parent, ["a", "bb", "ccc"])
            assert await handle.result() == [3, 1, 2]
        assert BATCHES == [["a", "bb", "ccc"]]

    async def test_failed_batch_fails_the_calls_of_its_children(self, admin):
        @workflow(name="failing", batch=Batch(1, within=0))
        async def failing(ctx: PyWorkflow, texts: list[str]) -> None:
            raise ValueError(texts[0])

        @workflow(name="parent")
        async def parent(ctx: PyWorkflow) -> str:
            try:
                await ctx.call(failing, "a")
            except ValueError as error:
                return f"failed: {error}"
            return "done"

        async with no_hang(), Worker(admin, [parent, failing]):
            assert await (await admin.enqueue(parent)).result() == "failed: a"

    async def test_schedule_submits_at_its_times(self, kit, clock):
        handle = await kit.schedule("s", Cron("@hourly"), slow, "a", overlap="allow", catchup="all")
        async with no_hang(), Worker(kit, [slow]):
            for time in await handle.next(3):
                await clock.advance_to(time)
            await clock.advance(minutes=2)
            await until(lambda: [each for texts in BATCHES for each in texts] == ["a"] * 3)

    async def test_batch_locks_nothing_that_a_submitter_needs(self, admin, sessions):
        """A transaction that cancels a submission delays the end of its batch, and no other workflow's."""
        handles = [await admin.enqueue(slow, each) for each in "abc"]
        assert await form(admin, slow) == 1
        async with no_hang(), sessions() as session, Worker(admin, [slow, embed]):
            await admin.cancel_workflow(handles[0].id, session=session)
            other = await admin.enqueue(embed, "other")
            assert await other.result() == 5
            await session.rollback()
            assert await asyncio.gather(*(each.result() for each in handles)) == [1, 1, 1]


class TestRefusals:
    async def test_run_by_hand_is_refused(self, admin):
        for run in (admin.run, admin.options(key="k").run):
            with pytest.raises(TypeError, match="runs in batches"):
                await run(slow, "a")
        with pytest.raises(TypeError, match="runs in batches"):
            admin.options(key="k").with_start(slow, "a")
        with pytest.raises(TypeError, match="runs in batches"):
            await slow(await admin.create_workflow("slow"), "a")

    def test_function_has_one_argument_besides_the_context(self):
        async def none(ctx: PyWorkflow) -> None: ...
        async def two(ctx: PyWorkflow, a: list[int], b: int) -> None: ...
        async def by_name(ctx: PyWorkflow, *, a: list[int]) -> None: ...
        async def optional(ctx: PyWorkflow, a: list[int] = []) -> None: ...  # noqa: B006
        async def several(ctx: PyWorkflow, *a: int) -> None: ...

        for each in (none, two, by_name, optional, several):
            with pytest.raises(TypeError, match="exactly one argument besides"):
                workflow(batch=Batch(2, within=1))(each)

    @pytest.mark.parametrize(
        ("batch", "error"),
        [
            (Batch(0, within=1), ConfigurationError),
            (Batch(10_001, within=1), ConfigurationError),
            (Batch(True, within=1), TypeError),
            (Batch(2, within=-1), ConfigurationError),
            (Batch(2, within=None), TypeError),
            (100, TypeError),
        ],
    )
    def test_bad_batch_is_refused(self, batch, error):
        with pytest.raises(error):
            workflow(batch=batch)(measure)

    def test_names_of_batches_are_kept_for_them(self):
        with pytest.raises(InvalidNameError, match="those of batches"):
            workflow(name="embed/batch")(measure)
        with pytest.raises(InvalidNameError, match="name of a batch"):
            workflow(name="x" * 510, batch=Batch(2, within=1))(measure)

    @pytest.mark.parametrize(
        ("annotation", "element"),
        [
            (list[int], int),
            (Sequence[str], str),
            (Iterable[str], str),
            (tuple[int, ...], int),
            (Annotated[list[int], "of numbers"], int),
            (list, Any),
            (Any, Any),
        ],
    )
    def test_type_of_a_submission_is_that_of_an_element(self, annotation, element):
        async def of_list(ctx: PyWorkflow, items) -> None: ...

        of_list.__annotations__["items"] = annotation
        found = workflow(batch=Batch(2, within=1))(of_list)
        assert annotation_of(found, "items") == element

    def test_argument_that_is_no_list_is_refused_at_its_first_use(self):
        async def of_text(ctx: PyWorkflow, items: str) -> None: ...

        with pytest.raises(ConfigurationError, match="must be annotated as a list"):
            annotation_of(workflow(batch=Batch(2, within=1))(of_text), "items")

    async def test_batch_cannot_continue_as_new(self, admin):
        @workflow(name="anew", batch=Batch(1, within=0))
        async def anew(ctx: PyWorkflow, texts: list[str]) -> None:
            await ctx.continue_as_new(anew, texts[0])

        handle = await admin.enqueue(anew, "a")
        await run_enqueued(admin, [anew])
        with pytest.raises(StepFailedError, match="cannot continue as new"):
            await handle.result()


async def test_assertions_see_the_submissions_and_no_batch(admin):
    handles = await admin.enqueue_many(slow, [("a",), ("b",), ("c",)])
    assert (await assert_enqueued(admin, slow, "b")).id == handles[1].id
    assert await form(admin, slow) == 1
    assert (await assert_enqueued(admin, slow, "b")).batch_id is not None
    with pytest.raises(AssertionError, match=r"slow\('x'\) is not enqueued"):
        await assert_enqueued(admin, slow, "x")


async def test_ended_batch_keeps_no_copy_of_the_outputs(admin, engine, schema):
    handles = await admin.enqueue_many(slow, [("a",), ("b",), ("c",)])
    await run_enqueued(admin, [slow])
    async with engine.connect() as connection:
        found = await connection.execute(
            text(f'SELECT id, output::text FROM "{schema}".pgqrs_workflows ORDER BY id')
        )
        rows = [tuple(each) for each in found]
    assert rows[:3] == [(each.id, "1") for each in handles]
    assert [output for _, output in rows[3:]] == ["null"]
