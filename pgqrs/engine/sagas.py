"""The sagas of one run: the state that the workflow's row has, and the undos that have failed or are left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from time import monotonic
from typing import Any, Protocol

from pgqrs.engine.lifecycle import INTERRUPT_GRACE, UNWIND_GRACE, RunLifecycle, RunStopped, StopReason, Unwinding
from pgqrs.engine.scope import Retry
from pgqrs.errors import PgqrsError, SagaError
from pgqrs.storage.journal.futures import resolve
from pgqrs.storage.store import Store
from pgqrs.storage.writes.runs import SagaMark
from pgqrs.storage.writes.steps import StartedWait
from pgqrs.types import SagaState

REPLAY_PAUSE = 0.1
"""Seconds without a further replayed step after which all tasks of a run that only replays count as replayed."""

LEAVING_PAUSE = 0.02
"""Seconds between two looks at the tasks beside the body that have not left their sagas."""

_REASONS = {SagaState.CANCELLED: StopReason.CANCELLED, SagaState.TIMED_OUT: StopReason.TIMED_OUT}

_logger = logging.getLogger("pgqrs.engine")


class OpenSaga(Protocol):
    """The part of a saga that its run uses."""

    @property
    def key(self) -> object:
        """The object that identifies the context of the saga."""
        ...

    @property
    def has_steps(self) -> bool:
        """True if a step was called that can be undone."""
        ...

    def is_held_elsewhere(self) -> bool:
        """Return whether another task than the calling one executes the block."""
        ...

    def interrupt(self) -> None:
        """Cancel the task that executes the block."""
        ...

    def raise_if_ended(self) -> None:
        """Raise the error of a saga that is or will be undone: no further step of it begins."""
        ...

    async def go_on(self) -> None:
        """Undo the steps after the end of the body."""
        ...


current_saga: ContextVar[OpenSaga | None] = ContextVar("pgqrs_saga", default=None)
"""The innermost saga of the current task."""


class Claimed(Protocol):
    """The part of a `Run` that its sagas use."""

    context_key: object
    workflow_id: int
    epoch: int
    claim: int
    reads: int
    steps: Any

    def on_write_refused(self, error: BaseException) -> None:
        """Handle a refused write, after which the run may be unable to write anything more."""
        ...


class Sagas:
    """The sagas of a run.

    Args:
        run: The run.
        store: The store of the event loop.
        lifecycle: The lifecycle of the run.
        state: The state in the row of the workflow.

    Attributes:
        state: The state in the row of the workflow.
        entered: The sagas whose blocks are being executed.
        unfinished: The sagas and clean-ups that began to undo and have not ended.
        interrupted: The sagas whose task was cancelled before it had undone them, as by a task group.
        failure: The error of an undo that has failed for good, for a run that was stopped.
        left: The error that names the steps which were not undone in time.
    """

    def __init__(self, run: Claimed, store: Store, lifecycle: RunLifecycle, state: SagaState | None) -> None:
        self._run = run
        self._store = store
        self._lifecycle = lifecycle
        self._order: dict[str, int] | None = None
        self._ages: dict[str, float] = {}
        self._loading = asyncio.Lock()
        self._positions: dict[str, int] = {}
        self._is_left_open = False
        self._unasked = -1
        self._marking = asyncio.Lock()
        self._beginning: set[asyncio.Future[None]] = set()
        self.state = state
        self.entered: set[OpenSaga] = set()
        self.unfinished: set[object] = set()
        self.interrupted: list[OpenSaga] = []
        self.failure: SagaError | None = None
        self.left: SagaError | None = None
        lifecycle.unwinding = Unwinding(self, None if state is None else _REASONS.get(state))

    def check(self) -> None:
        """Raise the stop of a run that only replays, or the error of a saga that is undone."""
        self._lifecycle.raise_if_replaying()
        saga = current_saga.get()
        if saga is not None and saga.key is self._run.context_key and not self._lifecycle.is_sheltered():
            saga.raise_if_ended()

    def has_to_replay(self) -> bool:
        """Return whether an outcome of an earlier run, perhaps of a saga, was not asked for again in this run."""
        return self.state in {None, SagaState.OPEN} and bool(self._run.steps.history.frontier.unasked)

    async def load(self) -> None:
        """Read the order in which earlier runs recorded the steps, and when they decided to undo."""
        async with self._loading:  # any number of sagas of the run may begin to undo at the same time
            if self._order is not None:
                return
            history = self._run.steps.history
            found = [] if self._run.epoch == 1 else await self._store.completed_steps(self._run.workflow_id)
            steps = [each for each in found if history.is_of_earlier_run(each.step_id)]
            self._order = {each.step_id: number for number, each in enumerate(steps)}
            self._ages = {each.step_id: each.age for each in steps if each.age is not None}

    def age(self, step_id: str) -> float:
        """Return the seconds since an earlier run recorded a step; 0 for any other step."""
        return self._ages.get(step_id, 0.0)

    def place(self, step_id: str) -> tuple[bool, int]:
        """Return the place of a step with an outcome in the order of the records.

        The outcomes of this run follow those of earlier runs, whose order their record tells.
        """
        earlier = None if self._order is None else self._order.get(step_id)
        return (True, self._position(step_id)) if earlier is None else (False, earlier)

    def _position(self, step_id: str) -> int:
        """Return the number of a step among the outcomes of the run, to which outcomes are only added."""
        outcomes, positions = self._run.steps.history.outcomes, self._positions
        if len(positions) < len(outcomes):
            new = list(takewhile(lambda each: each not in positions, reversed(outcomes)))
            for each in reversed(new):
                positions[each] = len(positions)
        return positions[step_id]

    async def mark_open(self) -> None:
        """Write, before the first step that can be undone begins, that the workflow is not to be ended at once."""
        if self.state is None:
            async with self._marking:
                if self.state is None:
                    await self._write(SagaState.OPEN)

    async def begin(self, step_id: str) -> None:
        """Write that a step begins, which counts even if the process dies before its outcome is recorded.

        A step of which this is written is to be undone, also if a stop of the run, which this raises, or a
        cancellation of the caller comes in between.
        """
        while not await self._begin(step_id):
            # A cancellation that was requested has kept the record out.
            self._lifecycle.raise_if_stopped()
            self._lifecycle.raise_if_replaying()
            if not await self.acknowledge():
                return
        self._lifecycle.raise_if_stopped()
        self._lifecycle.raise_if_replaying()

    async def _begin(self, step_id: str) -> bool:
        """Write that a step begins; return False if a cancellation was requested, and nothing is written."""
        run, journal = self._run, self._store.journal
        begun = StartedWait(run.workflow_id, run.epoch, step_id, None, None, monotonic(), None, 0.0, run.claim)
        answered: asyncio.Future[None] = self._lifecycle.loop.create_future()

        def on_result(result: Any) -> Any:
            if result is True:
                run.steps.history.failed[step_id] = Retry(0, self._lifecycle.clock.time())
            self._beginning.discard(answered)
            resolve(answered, None)
            return result

        if journal.is_full:
            await journal.wait_for_capacity()
        self._beginning.add(answered)
        with self._handling_refusals():
            return await journal.submit(begun, on_result) is True

    async def until_begun(self) -> None:
        """Wait for the answers to the records of steps that begin; a caller that was cancelled waits no more."""
        while self._beginning:
            await asyncio.wait(self._beginning)

    async def acknowledge(self) -> bool:
        """Write that the workflow is to end and unwinds, and return False if it is not, or if its row says so."""
        lifecycle = self._lifecycle
        if self.state not in {None, SagaState.OPEN} or not lifecycle.is_ending:
            return False
        is_late = (lifecycle.replays_for or lifecycle.stop_reason) is StopReason.TIMED_OUT
        async with self._marking:
            await self._write(SagaState.TIMED_OUT if is_late else SagaState.CANCELLED)
        return True

    def leave_open(self) -> None:
        """Note that the run is released while a saga has steps to undo."""
        self._is_left_open = True

    @property
    def is_left(self) -> bool:
        """True if the run leaves a saga or a clean-up to a later run."""
        return self._is_left_open or bool(self.unfinished)

    async def until_replayed(self) -> None:
        """Wait until all tasks of a later run have called their recorded steps again, as far as they do."""
        history = self._run.steps.history
        before = self._unasked
        # The new steps of the tasks do not count: a task may go on with them for ever.
        while history.unasked() and (self._run.reads or len(history.frontier.unasked) != before):
            before = len(history.frontier.unasked)
            await asyncio.sleep(REPLAY_PAUSE)
        self._unasked = before

    async def go_on(self) -> SagaError | None:
        """Undo the sagas whose task was cancelled before, and return the error of an undo that has failed."""
        failed: SagaError | None = None
        while self.interrupted and self._lifecycle.may_write and not self._lifecycle.is_handed_over:
            try:
                await self.interrupted.pop(0).go_on()
            except SagaError as error:
                failed = error
            except RunStopped:
                break
        return failed

    async def until_left(self) -> None:
        """Wait, after the end of the body, until other tasks have undone their sagas and have cleaned up.

        A task of a cancelled or late run leaves its saga at its next step. One that comes to no step is cancelled,
        as the body would be. A saga that its task does not leave even so is left to a later run.
        """
        if await self._has_left(UNWIND_GRACE):
            return
        for each in self._held():
            each.interrupt()
        if not await self._has_left(INTERRUPT_GRACE):
            self.leave_open()
            _logger.warning(
                "workflow %s is to end, and a task that its function has left behind does not leave its saga: the "
                "workflow is released for another run. Let the function await its tasks.",
                self._run.workflow_id,
                extra={"workflow_id": self._run.workflow_id},
            )

    async def _has_left(self, grace: float) -> bool:
        """Wait for the tasks beside the body; return False after `grace` seconds in which none of them undoes."""
        lifecycle, loop = self._lifecycle, self._lifecycle.loop
        end = loop.time() + grace
        while (is_undoing := lifecycle.has_shelter) or self._held():
            if not lifecycle.may_write:
                break
            if lifecycle.is_handed_over:
                self.leave_open()
                break
            if is_undoing:
                end = loop.time() + grace
            elif loop.time() > end:
                return False
            await asyncio.sleep(LEAVING_PAUSE)
        return True

    def _held(self) -> list[OpenSaga]:
        """Return the sagas with steps that tasks beside the body have to leave before the workflow ends."""
        if not self._lifecycle.is_final:
            return []
        return [each for each in self.entered if each.has_steps and each.is_held_elsewhere()]

    async def clear_stale(self) -> None:
        """Write, before the run parks, that no saga has steps to undo, if that is so."""
        is_open = self.is_left or any(each.has_steps for each in self.entered)
        if self.state is SagaState.OPEN and not is_open:
            await self._write(None)

    async def _write(self, state: SagaState | None) -> None:
        run = self._run
        with self._handling_refusals():
            await self._store.journal.write(SagaMark(run.workflow_id, run.epoch, state, run.claim))
        self.state = state

    @contextmanager
    def _handling_refusals(self) -> Generator[None]:
        """Raise the stop of the run in place of the error of a write that has lost it."""
        try:
            yield
        except PgqrsError as refused:
            self._run.on_write_refused(refused)
            self._lifecycle.raise_if_stopped()
            raise
