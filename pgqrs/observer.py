"""`Observer`, which receives the events of the runs, steps, writes and workers of a process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime
from typing import Any, NamedTuple

from pgqrs.types import WorkflowStatus


class RunOrigin(NamedTuple):
    """The past of a workflow that a worker has claimed, as far as the claim has read it.

    Attributes:
        trace: The trace context of the submission, as `Observer.submitting` returned it; None without one.
        token: The random token of the workflow; None for a row that another program has written.
        created_at: The time of the submission, by the database's clock.
        previous: The epoch of the run before this one; None for the first run, and if unknown.
        waited: The seconds from the time at which the workflow became ready to the claim; None if unknown.
        schedule: The name of the schedule that has started the workflow; None without one.
    """

    trace: str | None
    token: int | None
    created_at: datetime
    previous: int | None
    waited: float | None
    schedule: str | None


class RunFacts(NamedTuple):
    """The facts of a run that begins.

    Attributes:
        workflow_id: The id of the workflow.
        name: The name of the workflow.
        epoch: The epoch of the run. A body that begins anew within a run has the same epoch and claim.
        claim: The random token of the run.
        attempt: The number of the attempt of the workflow, from 1, by its retry policy.
        queue: The queue of the workflow; None if it is unknown.
        parent_id: The id of the parent of a child; None if it is unknown.
        members: The number of the submissions of a batch; 0 for any other workflow.
        origin: The past of the workflow; None for a run that no worker has claimed.
    """

    workflow_id: int
    name: str
    epoch: int
    claim: int
    attempt: int
    queue: str | None
    parent_id: int | None
    members: int
    origin: RunOrigin | None


class Observer:
    """Receives the events of runs, steps, writes and workers; each method of this class does nothing.

    A subclass overrides the methods of the events that it needs. The methods are called by the code that causes
    the events, mostly in the event loop. They must return soon and must not raise.
    """

    def submitting(self, name: str, queue: str, count: int) -> AbstractContextManager[str | None]:  # noqa: ARG002
        """Surround the write of the submissions of `count` workflows to a queue.

        The context is the trace context that is stored with the workflows: a text of a line for each header, None
        for none.
        """
        return nullcontext()

    def trace(self) -> str | None:
        """Return the trace context of the calling task, which its children are stored with; None for none."""
        return None

    def workflows_enqueued(self, name: str, queue: str, count: int) -> None:
        """Note new workflows of a queue: submissions, children, or starts by a schedule."""

    def workflow_ended(self, name: str, queue: str | None, status: WorkflowStatus) -> None:
        """Note the end of a workflow that was not running: it was cancelled, or its deadline has passed."""

    def message_sent(self) -> None:
        """Note a message, or an event of the schema, that was written."""

    def run_began(self, run: RunFacts) -> None:
        """Note the start of a run in this process: a worker claimed it, or the workflow's function was called."""

    def body_entered(self, workflow_id: int) -> None:
        """Note that the calling task begins to execute the workflow's function."""

    def body_left(self, workflow_id: int) -> None:
        """Note that the calling task, which was told by `body_entered`, executes the function no longer."""

    def run_released(self, workflow_id: int, status: WorkflowStatus, seconds: float | None) -> None:
        """Note a released run: parked for `seconds`, requeued or continued as new (PENDING), or cancelled."""

    def run_ended(self, workflow_id: int, status: WorkflowStatus) -> None:
        """Note the recorded end of a workflow, as SUCCESS or ERROR."""

    def run_lost(self, workflow_id: int, error: Exception) -> None:
        """Note a run that can write nothing more: it was fenced, or a write failed for good."""

    def run_abandoned(self, workflow_id: int) -> None:
        """Note a run that is left as after a crash: a worker will recover its workflow."""

    def step_began(self, workflow_id: int, step_id: str, attempt: int) -> None:
        """Note that the calling task begins to execute a step; earlier runs have made the attempts before."""

    def step_left(self, workflow_id: int, step_id: str) -> None:
        """Note that the calling task has executed a step; the outcome may be written later, by another task."""

    def step_abandoned(self, workflow_id: int, step_id: str) -> None:
        """Note that an execution of a step has ended without an outcome, as when its run parks or is stopped."""

    def step_replayed(self, workflow_id: int, step_id: str) -> None:
        """Note a call of a step that its recorded outcome has answered."""

    def step_recorded(self, workflow_id: int, step_id: str, *, failed: bool) -> None:
        """Note the committed outcome of a step: its value, or its error if `failed`."""

    def attempt_failed(self, workflow_id: int, step_id: str, attempt: int, delay: float) -> None:
        """Note a failed attempt of a step; the next attempt follows after `delay` seconds."""

    async def writing(self, records: Sequence[object]) -> None:
        """Precede the commit of these records in one transaction; the write waits for this call."""

    async def written(self, records: Sequence[object]) -> None:
        """Follow the commit of these records; the code that waits for their results waits for this call."""

    def rows_committed(self, count: int, seconds: float) -> None:
        """Note the commit of `count` records of a journal in one transaction, which took `seconds`."""

    def claim_answered(self, seconds: float) -> None:
        """Note the seconds of one claim of a worker, whether or not it has found workflows."""

    def runs_claimed(self, count: int) -> None:
        """Note the number of runs that a worker has claimed at once."""

    def runs_recovered(self, count: int) -> None:
        """Note the number of runs of dead executors that a worker has made ready again."""

    def timers_fired(self, count: int) -> None:
        """Note the number of parked runs that a worker has made ready because their time had come."""

    def messages_delivered(self, count: int) -> None:
        """Note the number of parked runs that a worker has made ready because their message had come."""

    def schedule_fired(self, schedule: str, workflow_id: int, scheduled_for: datetime, lateness: float) -> None:
        """Note a workflow that a worker has started for a time of a schedule, `lateness` seconds after the time.

        The delay of a start by `jitter` does not count. A workflow that is started by hand is no event.
        """

    def worker_notified(self) -> None:
        """Note a notification of a worker about ready workflows in its queues."""

    def loop_blocked(self, workflow_id: int | None, step_id: str | None) -> None:
        """Note that a step, a body (no step) or unknown code blocks the event loop; called in a thread."""


class Observers(Observer):
    """Several observers as one: each event goes to all of them, in their order.

    Args:
        *observers: The observers.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        own = vars(Observers)
        for event in vars(Observer):
            if not event.startswith("_") and event not in own:
                setattr(self, event, _to_all([getattr(each, event) for each in observers if _has(each, event)]))

    def submitting(self, name: str, queue: str, count: int) -> AbstractContextManager[str | None]:
        """Surround the write with all observers; the trace context is the first one that an observer has."""
        return _submitting([each.submitting(name, queue, count) for each in self._observers])

    def trace(self) -> str | None:
        """Return the first trace context that an observer has."""
        return _first(each.trace() for each in self._observers)

    async def writing(self, records: Sequence[object]) -> None:
        """Call the observers one after the other."""
        for each in self._observers:
            await each.writing(records)

    async def written(self, records: Sequence[object]) -> None:
        """Call the observers one after the other."""
        for each in self._observers:
            await each.written(records)


def _has(observer: Observer, event: str) -> bool:
    """Return whether an observer does something at an event."""
    return getattr(getattr(observer, event), "__func__", None) is not getattr(Observer, event)


def _to_all(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    if len(methods) == 1:
        return methods[0]

    def tell(*args: Any, **kwargs: Any) -> None:
        for each in methods:
            each(*args, **kwargs)

    return tell


def _first(traces: Iterable[str | None]) -> str | None:
    return next((each for each in traces if each is not None), None)


@contextmanager
def _submitting(parts: Sequence[AbstractContextManager[str | None]]) -> Generator[str | None]:
    with ExitStack() as stack:
        yield _first([stack.enter_context(each) for each in parts])
