"""Sagas in concurrent tasks of a body: the workflow ends once each of them is undone, whichever task ends the body."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pgqrs import ContinuationError, PyWorkflow, SagaError, Worker, WorkflowCancelledError, workflow
from pgqrs.engine import sagas
from pgqrs.storage.reader import StoreReader
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.states.repository import StateRepository
from pgqrs.storage.store import Store
from pgqrs.workflow.compensation import Saga
from tests.support.recorded import row_of
from tests.support.waiting import no_hang, until
from tests.workflows.test_sagas import Desk, ends_cancelled, forever, left_parked, status_is


@pytest.fixture
def desk():
    return Desk()


async def at_once(ctx):
    """Come to the next step at once."""


async def after_a_while(ctx):
    """Come to the next step after the other tasks have come to theirs."""
    await asyncio.sleep(0.05)


async def after_longer(ctx):
    """Come to the next step later than a stopped run waits for, unless it is cancelled."""
    await asyncio.sleep(600)


def trip_of(desk, *, within_saga, before=at_once, between=at_once, after=forever):
    """Return a workflow of two tasks: one that only waits, `within_saga` or not, and one that books in a saga."""

    @workflow(name="trip")
    async def trip(ctx: PyWorkflow) -> None:
        async def leg():
            await before(ctx)
            async with ctx.saga(id="leg"):
                await desk.book(ctx, "train")
                await between(ctx)
                await desk.book(ctx, "hotel")
                await after(ctx)

        async def rest():
            if within_saga:
                async with ctx.saga(id="rest"):
                    await desk.book(ctx, "car")
                    await forever(ctx)
            await forever(ctx)

        await asyncio.gather(rest(), leg())

    return trip


def undos_of(desk):
    return sorted(each for each in desk.log if each.startswith("undo"))


def expected(*, within_saga):
    return [*(["undo car CAR"] if within_saga else []), "undo hotel HOTEL", "undo train TRAIN"]


@pytest.mark.parametrize("within_saga", [False, True])
class TestACancellationUndoesTheSagaOfEachTask:
    @pytest.mark.parametrize(
        "pauses",
        [{}, {"before": after_a_while}, {"between": after_a_while}],
        ids=["at once", "late", "late within"],
    )
    async def test_of_a_parked_workflow(self, admin, desk, within_saga, pauses):
        trip = trip_of(desk, within_saga=within_saga, **pauses)
        handle = await left_parked(admin, trip)
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert undos_of(desk) == expected(within_saga=within_saga)

    async def test_of_a_task_that_comes_to_no_step(self, admin, desk, within_saga):
        trip = trip_of(desk, within_saga=within_saga, after=after_longer)
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(lambda: "hotel" in desk.log)
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert undos_of(desk) == expected(within_saga=within_saga)

    async def test_in_another_worker(self, admin, desk, within_saga):
        gate = desk.gate("undo hotel")
        trip = trip_of(desk, within_saga=within_saga)
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            async with no_hang():
                await gate.reached.wait()
        assert await handle.status() == "PENDING"
        gate.open()
        await ends_cancelled(admin, trip, handle)
        assert undos_of(desk) == expected(within_saga=within_saga)


async def test_task_that_never_ends_leaves_its_saga_to_a_later_run(admin, sql, desk, monkeypatch, caplog):
    monkeypatch.setattr(sagas, "UNWIND_GRACE", 0.05)
    monkeypatch.setattr(sagas, "INTERRUPT_GRACE", 0.05)
    released = asyncio.Event()

    async def deaf(ctx):
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        await forever(ctx)

    trip = trip_of(desk, within_saga=False, after=deaf)
    async with Worker(admin, [trip]):
        handle = await admin.enqueue(trip)
        await until(lambda: "hotel" in desk.log)
        await handle.cancel()
        await until(lambda: "does not leave its saga" in caplog.text)
        assert (await row_of(sql, handle.id))["status"] != "CANCELLED"
        released.set()
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=30)
    assert undos_of(desk) == ["undo hotel HOTEL", "undo train TRAIN"]


async def test_error_of_a_task_waits_for_the_undos_of_another(admin, desk):
    gate = desk.gate("undo train")

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async def leg():
            async with ctx.saga():
                await desk.book(ctx, "train")
                raise ValueError("full")

        async def rest():
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.1, gate.open)  # later than the end of the body
            raise OSError("late")

        await asyncio.gather(leg(), rest())

    with pytest.raises(OSError, match="late"):
        await admin.run(trip)
    assert desk.log == ["train", "undo train TRAIN"]


@pytest.mark.without_replay("a body that begins anew comes to the last step before the error")
@pytest.mark.parametrize("pause", [at_once, after_a_while, after_longer])
async def test_error_undoes_the_saga_that_another_task_is_in(admin, desk, pause):
    gate = desk.gate("hotel")

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async def leg():
            async with ctx.saga(id="leg"):
                await desk.book(ctx, "car")
                await desk.book(ctx, "hotel")
                await pause(ctx)
                await desk.book(ctx, "boat")

        async def rest():
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.05, gate.open)  # the step is awaited
            raise ValueError("full")

        async with ctx.saga():
            await desk.book(ctx, "train")
            await asyncio.gather(leg(), rest())

    with pytest.raises(ValueError, match="full"):
        await admin.run(trip)
    assert desk.log == ["train", "car", "hotel", "undo hotel HOTEL", "undo car CAR", "undo train TRAIN"]


@pytest.mark.parametrize("read", ["child_results", "owner", "now"])
async def test_replay_waits_for_the_reads_of_another_task(admin, desk, read, monkeypatch):
    @workflow
    async def child(ctx: PyWorkflow) -> None: ...

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async def leg():
            async with ctx.saga():
                children = await ctx.start_many(child, [()])
                await desk.book(ctx, "train")
                match read:
                    case "child_results":
                        await ctx.gather(children)
                    case "owner":
                        await ctx.state.get("stage")
                    case _:
                        await ctx.sleep(0.01)
                await desk.book(ctx, "hotel")
                await desk.book(ctx, "car")
                await ctx.receive("never")

        await asyncio.gather(ctx.receive("ever"), leg())

    late = {
        "child_results": (StoreReader, "child_results"),
        "owner": (StateRepository, "owner"),
        "now": (ServerClock, "now"),
    }[read]
    in_time = getattr(*late)

    async def read_late(*args, **options):
        await asyncio.sleep(3 * sagas.REPLAY_PAUSE)
        return await in_time(*args, **options)

    submitter = admin.options(partition_key="key")
    async with Worker(admin, [trip, child]):
        handle = await submitter.enqueue(trip)
        await until(lambda: "car" in desk.log)
        await until(status_is, handle, "WAITING")
    await handle.cancel()
    monkeypatch.setattr(*late, read_late)
    await ends_cancelled(admin, trip, handle)
    assert desk.log[3:] == ["undo car CAR", "undo hotel HOTEL", "undo train TRAIN"]


async def test_body_cannot_continue_as_new_while_a_task_undoes(admin, desk):
    gate = desk.gate("undo train")

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async def leg():
            async with ctx.saga():
                await desk.book(ctx, "train")
                raise OSError("full")

        leaving = asyncio.create_task(leg())
        await gate.reached.wait()
        try:
            await ctx.continue_as_new(trip)
        finally:
            gate.open()
            await asyncio.wait([leaving])

    with pytest.raises(ContinuationError, match="a saga is open"):
        await admin.run(trip)
    assert desk.log == ["train", "undo train TRAIN"]


class TestATaskGroup:
    async def test_cancels_a_task_only_after_its_undos(self, admin, desk):
        gate = desk.gate("undo train")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async def leg():
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    await forever(ctx)

            async def rest():
                try:
                    await ctx.receive("never")
                finally:
                    asyncio.get_running_loop().call_later(0.1, gate.open)  # later than the cancellation of the leg

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(leg())
                tasks.create_task(rest())

        handle = await left_parked(admin, trip)
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert (await handle.record()).epoch == 2
        assert desk.log == ["train", "undo train TRAIN"]

    @pytest.mark.parametrize("begins", [False, True])
    async def test_cancels_the_body_before_its_undos(self, admin, sql, desk, begins):
        gate = desk.gate("undo train")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async def rest():
                try:
                    await ctx.receive("never")
                finally:
                    if begins:
                        await gate.reached.wait()
                    asyncio.get_running_loop().call_later(0.1, gate.open)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(rest())
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    if begins:
                        await forever(ctx)
                    else:
                        await asyncio.Event().wait()

        # Not by a worker: a run that parks undoes nothing, and a `finally` that waits for an undo then never ends.
        running = asyncio.create_task(admin.run(trip))
        await until(lambda: "train" in desk.log)
        ((cancelled,),) = await sql.fetch("SELECT id FROM pgqrs_workflows")
        await admin.cancel_workflow(cancelled)
        async with no_hang():
            with pytest.raises(WorkflowCancelledError):
                await running
        assert desk.log == ["train", "undo train TRAIN"]


@pytest.mark.parametrize("fails", [False, True])
async def test_timeout_during_the_undos_waits_for_them(admin, desk, fails):
    gate, limits = desk.gate("undo train"), []

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async with asyncio.timeout(None) as limit:
            limits.append(limit)
            async with ctx.saga():
                await desk.book(ctx, "train")
                raise ValueError("full")

    async def expire():
        loop = asyncio.get_running_loop()
        await gate.reached.wait()
        desk.failures["undo train"] = 100 * fails
        limits[-1].reschedule(loop.time())
        loop.call_later(0.1, gate.open)  # later than the timeout

    expiring = asyncio.create_task(expire())
    with pytest.raises(SagaError if fails else TimeoutError):
        await admin.run(trip)
    await expiring
    [record] = await admin.list_workflows()
    assert record.status == "ERROR"
    assert desk.log == (["train"] if fails else ["train", "undo train TRAIN"])


async def test_concurrent_sagas_read_the_recorded_steps_once(admin, desk, monkeypatch):
    """Each of them needs the order in which earlier runs have recorded the steps."""
    reads = []
    read = Store.completed_steps

    async def counted(store, workflow_id):
        reads.append(workflow_id)
        return await read(store, workflow_id)

    monkeypatch.setattr(Store, "completed_steps", counted)
    ends = [False]

    @workflow(name="trips")
    async def trips(ctx: PyWorkflow) -> None:
        async def trip(n: int) -> None:
            with suppress(ValueError):
                async with ctx.saga(id=f"trip{n}"):
                    await desk.book(ctx, f"train{n}")
                    if ends[0]:
                        raise ValueError(n)

        await asyncio.gather(*[trip(n) for n in range(20)])
        if not ends[0]:
            raise asyncio.CancelledError

    ctx = await admin.create_workflow("trips")
    with pytest.raises(asyncio.CancelledError):
        await trips(ctx)
    ends[0] = True
    await trips(await admin.get_workflow(ctx.id()))
    assert len(undos_of(desk)) == 20
    assert len(reads) == 1


async def test_undo_of_a_saga_looks_at_no_saga_beside_it(admin, desk, monkeypatch):
    looks = []
    ended = Saga.ended

    def counted(saga):
        looks.append(saga)
        return ended(saga)

    monkeypatch.setattr(Saga, "ended", counted)

    @workflow(name="trips")
    async def trips(ctx: PyWorkflow) -> None:
        async def trip(n: int) -> None:
            with suppress(ValueError):
                async with ctx.saga(id=f"trip{n}"):
                    await desk.book(ctx, f"train{n}")
                    raise ValueError(n)

        await asyncio.gather(*[trip(n) for n in range(50)])

    await admin.run(trips)
    assert len(undos_of(desk)) == 50
    assert len(looks) <= 5 * 50
