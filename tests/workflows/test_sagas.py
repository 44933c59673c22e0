"""Sagas: the recorded steps of a block that fails are undone once, last first, whatever stops or kills the run."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy import text

from examples.saga import journey
from pgqrs import (
    Admin,
    ConfigurationError,
    PgqrsError,
    PyWorkflow,
    RetryPolicy,
    SagaError,
    SagaUndoneError,
    StepFailedError,
    Worker,
    WorkflowCancelledError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.engine.lifecycle import UNWIND_GRACE
from pgqrs.observer import Observer
from pgqrs.storage.writes.steps import StartedWait
from tests.support.recorded import row_of, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, HeldRecord, Killed, note

SOLD_OUT = "sold out"


class Desk:
    """Books and gives back by name, keeps a log of both, and fails as often as it is told."""

    def __init__(self, **options):
        self.log = []
        self.failures = Counter()
        self.gates = {}

        @step(retry=RetryPolicy(3, initial=0.001))
        async def give_back(ctx: PyWorkflow, value: str | None, name: str) -> None:
            await self._at(f"undo {name}")
            self.log.append(f"undo {name} {value}")

        @step(key=lambda name: name, undo=give_back, **options)
        async def book(ctx: PyWorkflow, name: str) -> str:
            await self._at(name)
            self.log.append(name)
            if name == SOLD_OUT:
                raise OSError(SOLD_OUT)
            return name.upper()

        self.book = book

    async def _at(self, place):
        if self.failures[place]:
            self.failures[place] -= 1
            raise OSError(f"no answer: {place}")
        if place in self.gates:
            await self.gates[place].stop()

    def gate(self, place):
        """Have the run wait at a place, until the test opens the gate."""
        self.gates[place] = Gate()
        return self.gates[place]


@pytest.fixture
def desk():
    return Desk()


def trip_of(desk, *names, timeout=None, after=None):
    """Return a workflow that books the names in a saga, and then waits, fails or does nothing."""

    @workflow(name="trip", timeout=timeout)
    async def trip(ctx: PyWorkflow) -> str:
        async with ctx.saga():
            for name in names:
                await desk.book(ctx, name)
            if after is not None:
                await after(ctx)
        await note(ctx, "after")
        return "booked"

    return trip


async def forever(ctx):
    await ctx.sleep(3600)


async def left_parked(admin, trip, *args):
    """Enqueue a workflow, run it until it is parked, and stop the worker."""
    async with Worker(admin, [trip]):
        handle = await admin.enqueue(trip, *args)
        await until(status_is, handle, "WAITING")
    return handle


async def ends_cancelled(admin, trip, handle):
    """Run a worker until the workflow has ended as cancelled."""
    async with Worker(admin, [trip]):
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=30)


async def cancelled_while_parked(admin, trip):
    """Run a workflow until it is parked, cancel it, and wait for its end."""
    async with Worker(admin, [trip]):
        handle = await admin.enqueue(trip)
        await until(status_is, handle, "WAITING")
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=30)


async def saga_state(sql, handle):
    return (await row_of(sql, handle.id))["saga_state"]


async def status_is(handle, status):
    return await handle.status() == status


class TestAnError:
    async def test_undoes_recorded_steps_last_first(self, admin, sql, desk):
        ctx = await admin.create_workflow("trip")
        with pytest.raises(OSError, match=SOLD_OUT):
            await trip_of(desk, "train", "hotel", SOLD_OUT)(ctx)
        assert desk.log == ["train", "hotel", SOLD_OUT, "undo hotel HOTEL", "undo train TRAIN"]
        assert await steps(sql, ctx) == {
            "book:train": "SUCCESS",
            "book:hotel": "SUCCESS",
            f"book:{SOLD_OUT}": "ERROR",
            "saga:1": "SUCCESS",
            "undo/book:hotel": "SUCCESS",
            "undo/book:train": "SUCCESS",
        }

    async def test_that_the_body_catches_inside_undoes_nothing(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            async with ctx.saga():
                await desk.book(ctx, "train")
                try:
                    await desk.book(ctx, SOLD_OUT)
                except OSError:
                    return await desk.book(ctx, "tent")
            return "never"

        assert await admin.run(trip) == "TENT"
        assert desk.log == ["train", SOLD_OUT, "tent"]

    async def test_after_the_block_undoes_nothing(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
            raise ValueError("too late")

        with pytest.raises(ValueError, match="too late"):
            await admin.run(trip)
        assert desk.log == ["train"]

    async def test_before_any_step_leaves_no_record(self, admin, sql, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await note(ctx, "no undo")
                raise ValueError("nothing booked")

        ctx = await admin.create_workflow("trip")
        with pytest.raises(ValueError, match="nothing booked"):
            await trip(ctx)
        assert await steps(sql, ctx) == {"note:no undo": "SUCCESS"}
        assert (await row_of(sql, ctx.id()))["saga_state"] is None

    async def test_undo_is_retried_by_its_own_policy(self, admin, desk):
        desk.failures["undo train"] = 2
        with pytest.raises(OSError, match=SOLD_OUT):
            await admin.run(trip_of(desk, "train", SOLD_OUT))
        assert desk.log[-1] == "undo train TRAIN"

    async def test_undone_saga_is_not_retried_with_its_workflow(self, admin, desk):
        @workflow(retry=RetryPolicy(5, initial=0.001))
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
                await desk.book(ctx, SOLD_OUT)

        with pytest.raises(OSError, match=SOLD_OUT):
            await admin.run(trip)
        assert desk.log == ["train", SOLD_OUT, "undo train TRAIN"]

    async def test_steps_in_gather_and_in_tasks_count(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await asyncio.gather(desk.book(ctx, "train"), desk.book(ctx, "hotel"))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(desk.book(ctx, "car"))
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await admin.run(trip)
        assert sorted(desk.log[3:]) == ["undo car CAR", "undo hotel HOTEL", "undo train TRAIN"]
        assert desk.log[3] == "undo car CAR"

    async def test_waits_for_a_step_that_still_executes(self, admin, desk):
        gate = desk.gate("hotel")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await asyncio.gather(desk.book(ctx, "hotel"), desk.book(ctx, SOLD_OUT))

        running = asyncio.create_task(admin.run(trip))
        async with no_hang():
            await gate.reached.wait()
            await until(lambda: SOLD_OUT in desk.log)
            gate.open()
            with pytest.raises(OSError, match=SOLD_OUT):
                await running
        assert desk.log == [SOLD_OUT, "hotel", "undo hotel HOTEL"]

    async def test_nested_saga_leaves_its_steps_to_the_outer(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            async with ctx.saga():
                await desk.book(ctx, "train")
                try:
                    async with ctx.saga():
                        await desk.book(ctx, "boat")
                        await desk.book(ctx, SOLD_OUT)
                except OSError:
                    pass
                async with ctx.saga():
                    await desk.book(ctx, "hotel")
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await admin.run(trip)
        undone = [each for each in desk.log if each.startswith("undo")]
        assert undone == ["undo boat BOAT", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_undo_gets_the_arguments_by_position_with_defaults(self, admin):
        given = []

        async def refund(ctx: PyWorkflow, receipt: str, who: str, cents: int, *, currency: str) -> None:
            given.append((receipt, who, cents, currency))

        @step(undo=refund)
        async def charge(ctx: PyWorkflow, order: str, cents: int = 5, *, currency: str = "EUR") -> str:
            return f"receipt {order}"

        @workflow
        async def pay(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await charge(ctx, order="17")
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await admin.run(pay)
        assert given == [("receipt 17", "17", 5, "EUR")]

    async def test_step_that_failed_is_undone_with_began(self, admin):
        desk = Desk(undo_when="began")
        with pytest.raises(OSError, match=SOLD_OUT):
            await admin.run(trip_of(desk, "train", SOLD_OUT))
        assert desk.log == ["train", SOLD_OUT, f"undo {SOLD_OUT} None", "undo train TRAIN"]

    async def test_undo_and_its_record_are_one_transaction(self, dsn, schema, app, sessions):
        @step(transactional=True)
        async def give_back(ctx: PyWorkflow, value: str, name: str) -> None:
            await ctx.session.execute(text("DELETE FROM booked WHERE name = :name"), {"name": name})

        @step(key=lambda name: name, transactional=True, undo=give_back)
        async def book(ctx: PyWorkflow, name: str) -> str:
            await ctx.session.execute(text("INSERT INTO booked VALUES (:name)"), {"name": name})
            return name

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await book(ctx, "train")
                await book(ctx, "hotel")
                raise ValueError("no")

        async with app.begin() as connection:
            await connection.execute(text("CREATE TABLE booked (name text PRIMARY KEY)"))
        async with Admin(dsn, schema, sessionmaker=sessions) as own:
            with pytest.raises(ValueError, match="no"):
                await own.run(trip)
        async with app.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM booked"))).scalar_one() == 0


class TestACrash:
    async def test_in_the_midst_of_undoing_undoes_each_once(self, admin, desk):
        trip = trip_of(desk, "train", "hotel", "car", SOLD_OUT)
        gate = desk.gate("undo hotel")
        ctx = await admin.create_workflow("trip")
        running = asyncio.create_task(trip(ctx))
        async with no_hang():
            await gate.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            del desk.gates["undo hotel"]
            with pytest.raises(StepFailedError, match=SOLD_OUT):
                await trip(await admin.get_workflow(ctx.id()))
        assert desk.log[4:] == ["undo car CAR", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_undoes_the_recorded_steps_of_all_tasks(self, admin, desk):
        gate = desk.gate("undo 1")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            turn = asyncio.Semaphore(1)

            async def leg(name: str) -> None:
                async with turn:
                    await desk.book(ctx, name)
                    await asyncio.sleep(0.01)

            async def failing() -> None:
                await until(lambda: desk.log == ["0", "1", "2"] or SOLD_OUT in desk.log)
                await desk.book(ctx, SOLD_OUT)

            async with ctx.saga():
                await asyncio.gather(failing(), leg("0"), leg("1"), leg("2"))

        ctx = await admin.create_workflow("trip")
        running = asyncio.create_task(trip(ctx))
        async with no_hang():
            await gate.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            gate.open()
            with pytest.raises(StepFailedError, match=SOLD_OUT):
                await trip(await admin.get_workflow(ctx.id()))
        assert desk.log[4:] == ["undo 2 2", "undo 1 1", "undo 0 0"]

    async def test_after_the_last_undo_repeats_none(self, admin, desk):
        async def fail(ctx):
            raise ValueError("no")

        trip = trip_of(desk, "train", after=fail)
        ctx = await admin.create_workflow("trip")
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await trip(ctx)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_step_that_began_in_a_dead_process_is_undone(self, admin):
        desk = Desk(undo_when="began")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")

        gate = desk.gate("train")
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["undo train None"]


@pytest.mark.without_replay("a replay would need the step whose record is held")
@pytest.mark.parametrize("fails", [True, False], ids=["error", "interrupt"])
async def test_step_whose_outcome_is_being_written_is_undone(admin, desk, fails):
    held = HeldRecord("book:hotel")

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async with ctx.saga():
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(desk.book(ctx, "hotel"))
                    await held.gate.reached.wait()
                    if fails:
                        raise ValueError("no")
                    await asyncio.Event().wait()
            finally:
                # Later than an undo that does not wait for the record.
                asyncio.get_running_loop().call_later(0.05, held.gate.open)

    async with admin.twin(observer=held) as twin, Worker(twin, [trip]):
        handle = await admin.enqueue(trip)
        async with no_hang():
            await held.gate.reached.wait()
            if not fails:
                await handle.cancel(interrupt=True)
            with pytest.raises(StepFailedError if fails else WorkflowCancelledError):
                await handle.result(timeout=30)
    assert desk.log == ["hotel", "undo hotel HOTEL"]


class HeldBeginning(Observer):
    """Holds the answer to the record of a step that begins, until the test opens the gate."""

    def __init__(self):
        self.gate = Gate()

    async def written(self, records):
        """Wait at the gate after a batch that has such a record."""
        if any(isinstance(each, StartedWait) for each in records):
            await self.gate.stop()


class TestACancellationWhileItIsWrittenThatAStepBegins:
    @pytest.mark.parametrize("interrupt", [False, True])
    async def test_undoes_the_step_if_it_is_written(self, admin, interrupt):
        desk, held = Desk(undo_when="began"), HeldBeginning()
        trip = trip_of(desk, "hotel")
        async with admin.twin(observer=held) as twin, Worker(twin, [trip]):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await held.gate.reached.wait()
            run = (await twin.store()).runs[handle.id]
            await handle.cancel(interrupt=interrupt)
            await until(lambda: run.lifecycle.stop_reason is not None)
            held.gate.open()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["undo hotel None"]

    async def test_undoes_no_step_if_it_is_not_written(self, admin):
        desk, held = Desk(undo_when="began"), HeldRecord("book:hotel")
        trip = trip_of(desk, "train", "hotel")
        async with admin.twin(observer=held) as twin, Worker(twin, [trip]):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await held.gate.reached.wait()
            await handle.cancel()
            held.gate.open()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "undo train TRAIN"]
        assert not await _has_steps(admin, handle, "book:hotel")

    @pytest.mark.without_replay("it waits in the second run of the body")
    async def test_undoes_no_step_if_the_run_only_replays(self, admin):
        desk, held, runs, again = Desk(undo_when="began"), HeldRecord("book:hotel"), [], Gate()

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            runs.append(ctx)

            async def rest():
                if len(runs) > 1:
                    await again.stop()
                await note(ctx, "recorded")
                await forever(ctx)

            async def leg():
                await desk.book(ctx, "train")
                if len(runs) == 1:
                    await forever(ctx)
                await desk.book(ctx, "hotel")

            async with ctx.saga():
                await asyncio.gather(rest(), leg())

        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            await until(_has_steps, admin, handle, "book:train", "note:recorded")
        async with admin.twin(observer=held) as twin, Worker(twin, [trip]):
            async with no_hang():
                await held.gate.reached.wait()
                await again.reached.wait()
            await handle.cancel()
            held.gate.open()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "undo train TRAIN"]
        assert not await _has_steps(admin, handle, "book:hotel")


async def _has_steps(admin, handle, *step_ids):
    return set(step_ids) <= {each.step_id for each in await admin.list_steps(handle.id)}


class TestACancellation:
    @pytest.mark.parametrize("interrupt", [False, True])
    async def test_of_a_running_workflow_undoes(self, admin, sql, desk, interrupt):
        gate = desk.gate("hotel")
        trip = trip_of(desk, "train", "hotel", "car")
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
                await handle.cancel(interrupt=interrupt)
                gate.open()
                with pytest.raises(WorkflowCancelledError):
                    await handle.result(timeout=30)
        expected = ["train", "undo train TRAIN"] if interrupt else [
            "train", "hotel", "undo hotel HOTEL", "undo train TRAIN"
        ]  # fmt: skip
        assert desk.log == expected

    async def test_of_a_parked_workflow_undoes(self, admin, sql, desk):
        trip = trip_of(desk, "train", "hotel", after=forever)
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_without_a_worker_waits_for_one(self, admin, sql, desk):
        trip = trip_of(desk, "train", after=forever)
        handle = await left_parked(admin, trip)
        await handle.cancel()
        await handle.cancel(interrupt=True)
        row = await row_of(sql, handle.id)
        assert (row["status"], row["saga_state"], row["cancel_interrupts"]) == ("PENDING", "CANCELLED", None)
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_queued_workflow_undoes(self, admin, desk):
        gate = desk.gate("hotel")
        trip = trip_of(desk, "train", "hotel")
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
        assert await handle.status() == "PENDING"
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_dead_process_undoes(self, admin, desk):
        trip = trip_of(desk, "train", "hotel")
        gate = desk.gate("hotel")
        ctx = await admin.create_workflow("trip")
        running = asyncio.create_task(trip(ctx))
        async with no_hang():
            await gate.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        await (await admin.store()).journal.drain()
        await admin.cancel_workflow(ctx.id())
        async with Worker(admin, [trip]):
            await until(status_is, admin.handle(ctx.id()), "CANCELLED")
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_during_an_undo_lets_it_end(self, admin, desk):
        gate = desk.gate("undo train")
        trip = trip_of(desk, "train", "hotel", SOLD_OUT)
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
                await handle.cancel(interrupt=True)
                gate.open()
                with pytest.raises(WorkflowCancelledError):
                    await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", SOLD_OUT, "undo hotel HOTEL", "undo train TRAIN"]

    async def test_outside_a_saga_ends_a_parked_workflow_at_once(self, admin, sql, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
            await forever(ctx)

        handle = await left_parked(admin, trip)
        assert await saga_state(sql, handle) is None
        await handle.cancel()
        assert await handle.status() == "CANCELLED"
        assert desk.log == ["train"]

    async def test_undo_may_send_and_set_events(self, admin, desk):
        @step
        async def tell(ctx: PyWorkflow, value: str) -> None:
            await ctx.set_event("given back", value)
            await ctx.sleep(0.01)

        @step(undo=tell)
        async def book(ctx: PyWorkflow) -> str:
            return "seat 7"

        trip = trip_of(desk, after=lambda ctx: _booked(ctx, book))
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert await handle.events() == {"given back": "seat 7"}

    async def test_of_the_parent_undoes_the_saga_of_a_child(self, admin, desk):
        child = trip_of(desk, "train", after=forever)

        @workflow
        async def parent(ctx: PyWorkflow) -> None:
            await (await ctx.start(child))

        async with Worker(admin, [parent, child]):
            handle = await admin.enqueue(parent)
            await until(lambda: desk.log == ["train"])
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            await until(lambda: desk.log == ["train", "undo train TRAIN"])
            [inner] = [each for each in await admin.list_workflows() if each.name == "trip"]
            await until(status_is, admin.handle(inner.id), "CANCELLED")

    async def test_undoes_the_steps_of_all_tasks_in_a_replay(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            turn = asyncio.Semaphore(1)

            async def leg(number: int) -> None:
                async with turn:
                    await desk.book(ctx, f"{number}")
                    await asyncio.sleep(0.01)
                await ctx.sleep(3600, id=f"{number}")

            async with ctx.saga():
                await asyncio.gather(*map(leg, range(4)))

        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log[4:] == [f"undo {number} {number}" for number in (3, 2, 1, 0)]

    @pytest.mark.without_replay("it waits in the second run of the body")
    @pytest.mark.parametrize("interrupt", [False, True])
    async def test_heard_in_the_midst_of_a_replay_undoes_all(self, admin, desk, interrupt):
        gate = Gate()

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
                if len(desk.log) > 1:
                    await gate.stop()
                await desk.book(ctx, "hotel")
                await desk.book(ctx, "car")

        at_car = desk.gate("car")
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await at_car.reached.wait()
        async with Worker(admin, [trip]), no_hang():
            await gate.reached.wait()
            await handle.cancel(interrupt=interrupt)
            gate.open()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_of_a_parked_workflow_undoes_whatever_the_reads_take(self, admin, sql, desk):
        trip = trip_of(desk, "train", "hotel", after=forever)
        handle = await left_parked(admin, trip)
        await handle.cancel()
        async with admin.twin() as twin:
            store = await twin.store()
            read = store.completed_steps

            async def read_late(workflow_id):
                await asyncio.sleep(UNWIND_GRACE + 0.3)
                return await read(workflow_id)

            store.completed_steps = read_late
            async with Worker(twin, [trip]):
                with pytest.raises(WorkflowCancelledError):
                    await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_of_a_misfit_undoes_in_a_newer_worker(self, admin, sql, desk):
        @workflow(name="trip")
        async def older(ctx: PyWorkflow, guest: str) -> None: ...

        async def is_released():
            row = await row_of(sql, handle.id)
            return row if row["error"] is not None else None

        trip = trip_of(desk, "train", after=forever)
        handle = await left_parked(admin, trip)
        await handle.cancel()
        async with Worker(admin, [older]):
            row = await until(is_released)
        assert (row["status"], row["saga_state"], row["attempts"]) == ("PENDING", "CANCELLED", 1)
        assert row["due_at"] > row["updated_at"]
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_parked_workflow_passes_a_saga_that_was_undone(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            with suppress(ValueError):
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    raise ValueError("full")
            async with ctx.saga():
                await desk.book(ctx, "hotel")
                await desk.book(ctx, "car")
                await forever(ctx)

        await cancelled_while_parked(admin, trip)
        assert desk.log == ["train", "undo train TRAIN", "hotel", "car", "undo car CAR", "undo hotel HOTEL"]

    async def test_of_a_parked_workflow_passes_a_clean_up(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
                async with ctx.cleanup():
                    await ctx.now()
                await desk.book(ctx, "hotel")
                await desk.book(ctx, "car")
                await forever(ctx)

        await cancelled_while_parked(admin, trip)
        undos = ["undo car CAR", "undo hotel HOTEL", "undo train TRAIN"]
        assert desk.log == ["train", "hotel", "car", *undos]

    async def test_of_a_parked_workflow_is_heard_by_continue_as_new(self, admin, desk):
        @workflow(name="endless")
        async def trip(ctx: PyWorkflow, generation: int) -> int:
            if generation == 0:
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    await ctx.receive("go")
                await ctx.continue_as_new(trip, 1)
            return generation

        handle = await left_parked(admin, trip, 0)
        await handle.send("go", 1)
        async with Worker(admin, [trip_of(desk)]):  # it delivers the message, and runs another workflow
            await until(status_is, handle, "PENDING")
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)

    async def test_of_a_resumed_workflow_before_its_next_run_undoes(self, admin, desk):
        trip = trip_of(desk, "train", after=forever)
        handle = await left_parked(admin, trip)
        await admin.resume_workflow(handle.id)
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_workflow_that_is_parked_in_an_undo_undoes_all(self, admin):
        log = []

        @step(retry=RetryPolicy(2, initial=1.5))
        async def give_back(_ctx: PyWorkflow, _value: str | None) -> None:
            log.append("undo")
            if len(log) == 2:
                raise OSError("no answer")

        @step(undo=give_back)
        async def book(_ctx: PyWorkflow) -> str:
            log.append("book")
            return "train"

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await book(ctx)
                raise ValueError("full")

        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(PgqrsError):
                await handle.result(timeout=30)
        assert log == ["book", "undo", "undo"]

    async def test_of_a_run_whose_worker_stops_while_its_saga_fails(self, admin, desk):
        at_hotel = desk.gate(SOLD_OUT)
        trip = trip_of(desk, "train", SOLD_OUT)
        async with Worker(admin, [trip], grace=30):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await at_hotel.reached.wait()
            asyncio.get_running_loop().call_later(0.3, at_hotel.open)  # while the worker waits for the step
        assert desk.log == ["train", SOLD_OUT]
        assert await handle.status() == "PENDING"
        async with Worker(admin, [trip]):
            with pytest.raises(StepFailedError):
                await handle.result(timeout=30)
        assert desk.log == ["train", SOLD_OUT, "undo train TRAIN"]

    async def test_of_a_body_that_is_slow_before_its_saga_undoes_all(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            if desk.log:
                await asyncio.sleep(UNWIND_GRACE + 0.3)
            async with ctx.saga():
                await desk.book(ctx, "train")
                await forever(ctx)

        handle = await left_parked(admin, trip)
        await handle.cancel()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_run_that_is_handed_over_undoes_elsewhere(self, admin, desk):
        gate = desk.gate("hotel")
        trip = trip_of(desk, "train", "hotel")
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
                await handle.cancel()
        assert await handle.status() == "PENDING"
        assert desk.log == ["train"]
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_run_that_leaves_its_saga_to_be_handed_over(self, admin, desk):
        gate, left = desk.gate("hotel"), asyncio.Event()

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            try:
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    # The wait hears the end of the worker, and leaves the block while the step still executes.
                    await asyncio.gather(desk.book(ctx, "hotel"), forever(ctx))
            finally:
                left.set()

        async def cancel():
            await left.wait()
            await handle.cancel()
            gate.open()

        async with Worker(admin, [trip], grace=30):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await gate.reached.wait()
            cancelling = asyncio.create_task(cancel())
        await cancelling
        assert await handle.status() == "PENDING"
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_after_the_last_saga_is_too_late(self, admin, sql, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            async with ctx.saga():
                await desk.book(ctx, "train")
            await sql.execute("UPDATE pgqrs_workflows SET cancel_interrupts = false WHERE id = $1", ctx.id())
            return "booked"

        assert await admin.run(trip) == "booked"
        assert desk.log == ["train"]

    async def test_of_a_draining_worker_goes_on_in_another(self, admin, desk):
        gate = desk.gate("undo train")
        trip = trip_of(desk, "train", "hotel", after=forever)
        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            async with no_hang():
                await gate.reached.wait()
        assert await handle.status() == "PENDING"
        gate.open()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]


async def _booked(ctx, book):
    await book(ctx)
    await forever(ctx)


class TestADeadline:
    async def test_of_a_running_workflow_undoes(self, admin, desk):
        desk.gate("hotel")
        trip = trip_of(desk, "train", "hotel", timeout=0.5)
        with pytest.raises(WorkflowTimeoutError):
            await admin.run(trip)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_of_a_parked_workflow_undoes(self, admin, sql, desk):
        trip = trip_of(desk, "train", after=forever, timeout=1.5)
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            with pytest.raises(StepFailedError) as caught:
                await handle.result(timeout=30)
        assert isinstance(caught.value, WorkflowTimeoutError)
        assert desk.log == ["train", "undo train TRAIN"]
        assert await saga_state(sql, handle) == "TIMED_OUT"

    async def test_during_an_undo_lets_it_end(self, admin, desk):
        gate = desk.gate("undo train")
        trip = trip_of(desk, "train", SOLD_OUT, timeout=1.0)

        async def run():
            with pytest.raises(WorkflowTimeoutError):
                await admin.run(trip)

        running = asyncio.create_task(run())
        async with no_hang():
            await gate.reached.wait()
            await until(lambda: _has_passed(running))
            gate.open()
            await running
        assert desk.log == ["train", SOLD_OUT, "undo train TRAIN"]


_STARTED = {}


def _has_passed(task):
    """Return whether a second has passed since the first call for a task: the deadline is over."""
    now = asyncio.get_running_loop().time()
    return now - _STARTED.setdefault(task, now) > 1.2


class TestAFailedUndo:
    async def test_names_the_steps_and_is_resumed(self, admin, sql, desk):
        trip = trip_of(desk, "train", "hotel", "car", SOLD_OUT)
        desk.failures["undo hotel"] = 100
        ctx = await admin.create_workflow("trip")
        with pytest.raises(SagaError) as caught:
            await trip(ctx)
        assert caught.value.undone == ["book:car"]
        assert caught.value.left == ["book:hotel", "book:train"]
        [record] = await admin.list_workflows()
        assert record.status == "ERROR"
        desk.failures.clear()
        with pytest.raises(OSError, match=SOLD_OUT):
            await trip(await admin.resume_workflow(ctx.id()))
        assert desk.log[:4] == ["train", "hotel", "car", SOLD_OUT]
        assert desk.log[4:] == ["undo car CAR", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_of_a_cancelled_workflow_is_an_error_and_resumed(self, admin, desk):
        trip = trip_of(desk, "train", "hotel", after=forever)
        desk.failures["undo train"] = 100
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(SagaError, match="book:train"):
                await handle.result(timeout=30)
            desk.failures.clear()
            await admin.resume_workflow(handle.id)
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_does_not_undo_the_saga_around_before_the_resume(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
                async with ctx.saga():
                    await desk.book(ctx, "boat")
                    raise ValueError("no")

        desk.failures["undo boat"] = 100
        ctx = await admin.create_workflow("trip")
        with pytest.raises(SagaError) as caught:
            await trip(ctx)
        assert caught.value.left == ["book:boat", "book:train"]
        desk.failures.clear()
        with pytest.raises(ValueError, match="no"):
            await trip(await admin.resume_workflow(ctx.id()))
        assert desk.log == ["train", "boat", "undo boat BOAT", "undo train TRAIN"]

    async def test_of_an_earlier_saga_is_done_after_the_resume(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            with suppress(ValueError, SagaError):
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    raise ValueError("one")
            async with ctx.saga():
                await desk.book(ctx, "hotel")
                raise ValueError("two")

        desk.failures["undo train"] = 100
        ctx = await admin.create_workflow("trip")
        with pytest.raises(ValueError, match="two"):
            await trip(ctx)
        desk.failures.clear()
        with pytest.raises(ValueError, match="two"):
            await trip(await admin.resume_workflow(ctx.id()))
        assert desk.log == ["train", "hotel", "undo hotel HOTEL", "undo train TRAIN"]

    async def test_of_a_child_undoes_the_saga_of_its_parent(self, admin, desk):
        @step
        async def keep(ctx: PyWorkflow, value: str) -> None:
            raise ValueError("no answer")

        @step(undo=keep)
        async def lend(ctx: PyWorkflow) -> str:
            return "lent"

        @workflow
        async def child(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await lend(ctx)
                raise OSError("full")

        @workflow
        async def parent(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await desk.book(ctx, "train")
                await (await ctx.start(child))

        async with Worker(admin, [parent, child]):
            handle = await admin.enqueue(parent)
            with pytest.raises(StepFailedError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_late_undos_of_a_cancelled_workflow_are_left(self, admin, sql, caplog):
        desk = Desk()
        desk.gate("undo train")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga(undo_timeout=0.3):
                await desk.book(ctx, "train")
                await desk.book(ctx, "hotel")
                await forever(ctx)

        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "hotel", "undo hotel HOTEL"]
        assert "left: book:train" in caplog.text
        assert "left: book:train" in (await row_of(sql, handle.id))["error"]

    async def test_late_undos_after_an_error_fail_the_workflow(self, admin):
        desk = Desk()
        gate = desk.gate("undo train")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga(undo_timeout=2):
                await desk.book(ctx, "train")
                raise ValueError("no")

        ctx = await admin.create_workflow("trip")
        with pytest.raises(SagaError, match="time for it has passed"):
            await trip(ctx)
        gate.open()
        with pytest.raises(ValueError, match="no"):
            await trip(await admin.resume_workflow(ctx.id()))
        assert desk.log == ["train", "undo train TRAIN"]


class TestAnUndoneSaga:
    async def test_stays_undone_when_its_workflow_is_resumed(self, admin, desk):
        trip = trip_of(desk, "train", after=forever)
        async with Worker(admin, [trip]):
            handle = await admin.enqueue(trip)
            await until(status_is, handle, "WAITING")
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=30)
            await admin.resume_workflow(handle.id)
            with pytest.raises(SagaUndoneError):
                await handle.result(timeout=30)
        assert desk.log == ["train", "undo train TRAIN"]

    async def test_needs_no_call_of_its_steps_after_a_code_change(self, admin, desk):
        changed = []

        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            with suppress(OSError):
                async with ctx.saga():
                    if not changed:
                        await desk.book(ctx, "train")
                    await desk.book(ctx, SOLD_OUT)
            if not changed:
                raise Killed
            return "stayed"

        ctx = await admin.create_workflow("trip")
        with pytest.raises(Killed):
            await trip(ctx)
        changed.append(True)
        assert await trip(await admin.get_workflow(ctx.id())) == "stayed"
        assert desk.log == ["train", SOLD_OUT, "undo train TRAIN"]

    async def test_leaves_old_code_unpatched_after_a_resume(self, admin, desk):
        def trip_with(*patches):
            @workflow(name="trip")
            async def trip(ctx: PyWorkflow) -> list[bool]:
                with suppress(ValueError):
                    async with ctx.saga():
                        await desk.book(ctx, "train")
                        raise ValueError("full")
                answers = [await ctx.patched(each) for each in patches]
                await note(ctx, "before")
                await desk.book(ctx, "car")
                return answers

            return trip

        desk.failures["car"] = 1
        ctx = await admin.create_workflow("trip")
        with pytest.raises(OSError, match="car"):
            await trip_with()(ctx)
        resumed = await admin.resume_workflow(ctx.id())
        assert await trip_with("by bus")(resumed) == [False]

    async def test_lets_the_body_go_on_after_it(self, admin, desk):
        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            try:
                async with ctx.saga():
                    await desk.book(ctx, "train")
                    await desk.book(ctx, SOLD_OUT)
            except OSError:
                return await note(ctx, "stay at home")
            return "never"

        ctx = await admin.create_workflow("trip")
        assert await trip(ctx) == "stay at home"
        assert desk.log == ["train", SOLD_OUT, "undo train TRAIN"]


class TestCleanup:
    async def test_steps_run_after_a_cancellation(self, admin, sql, desk):
        gate = desk.gate("train")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            try:
                await desk.book(ctx, "train")
                await note(ctx, "never")
            finally:
                async with ctx.cleanup():
                    await note(ctx, "released")

        ctx = await admin.create_workflow("trip")
        running = asyncio.create_task(trip(ctx))
        async with no_hang():
            await gate.reached.wait()
            await admin.cancel_workflow(ctx.id(), interrupt=True)
            with pytest.raises(WorkflowCancelledError):
                await running
        assert await steps(sql, ctx) == {"book:train": "RUNNING", "note:released": "SUCCESS"}

    async def test_goes_on_in_another_process(self, admin, desk):
        at_train, at_release = desk.gate("train"), desk.gate("release")

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            try:
                await desk.book(ctx, "train")
            finally:
                async with ctx.cleanup():
                    await desk.book(ctx, "release")

        async with Worker(admin, [trip], grace=0):
            handle = await admin.enqueue(trip)
            async with no_hang():
                await at_train.reached.wait()
                await handle.cancel(interrupt=True)
                await at_release.reached.wait()
        assert await handle.status() == "PENDING"
        at_release.open()
        await ends_cancelled(admin, trip, handle)
        assert desk.log == ["release"]

    async def test_steps_run_after_the_deadline(self, admin, desk):
        desk.gate("train")

        @workflow(timeout=0.3)
        async def trip(ctx: PyWorkflow) -> None:
            try:
                await desk.book(ctx, "train")
            finally:
                async with ctx.cleanup():
                    desk.log.append(await note(ctx, "released"))

        with pytest.raises(WorkflowTimeoutError):
            await admin.run(trip)
        assert desk.log == ["released"]

    async def test_is_bounded_in_time(self, admin, desk):
        desk.gate("train")
        desk.gate("never")

        @workflow(timeout=0.2)
        async def trip(ctx: PyWorkflow) -> None:
            try:
                await desk.book(ctx, "train")
            finally:
                async with ctx.cleanup(timeout=0.2):
                    await desk.book(ctx, "never")

        async with no_hang():
            with pytest.raises(WorkflowTimeoutError):
                await admin.run(trip)

    async def test_without_a_stop_is_a_plain_block(self, admin):
        @workflow
        async def trip(ctx: PyWorkflow) -> str:
            async with ctx.cleanup():
                return await note(ctx, "released")

        assert await admin.run(trip) == "released"


async def test_example_runs(admin, capsys):
    async with Worker(admin, [journey]):
        handle = await admin.enqueue(journey, "Ann")
        assert await handle.event("status") == "room 17 is booked"
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=30)
    assert capsys.readouterr().out.splitlines() == [
        "book a room of the Grand Hotel",
        "give room 17 back to the Grand Hotel",
        "refund 9900 cents to Ann: Ann has paid 9900 cents",
    ]


class TestMisuse:
    async def test_saga_within_a_step_is_refused(self, admin):
        @step
        async def outer(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                pass

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            await outer(ctx)

        with pytest.raises(ConfigurationError, match="outside of its function, or within a step"):
            await admin.run(trip)

    def test_undo_that_does_not_take_the_arguments_is_refused(self):
        async def refund(ctx: PyWorkflow, receipt: str) -> None: ...

        with pytest.raises(TypeError, match=r"refund cannot undo .*charge"):

            @step(undo=refund)
            async def charge(ctx: PyWorkflow, order: str) -> str:
                return order

    def test_other_undo_when_is_refused(self):
        async def refund(ctx: PyWorkflow, receipt: str) -> None: ...

        with pytest.raises(ConfigurationError, match="undo_when"):

            @step(undo=refund, undo_when="never")  # type: ignore[call-overload]
            async def charge(ctx: PyWorkflow) -> str:
                return ""
