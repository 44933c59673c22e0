"""`Observer`, which receives the events of the runs, steps, writes and workers of a process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgqrs.types import WorkflowStatus


class Observer:
    """Receives the events of runs, steps, writes and workers; each method of this class does nothing.

    A subclass overrides the methods of the events that it needs. The methods are called by the code that causes
    the events, mostly in the event loop. They must return soon and must not raise.
    """

    def run_began(self, workflow_id: int, name: str, epoch: int) -> None:
        """Note the start of a run in this process: a worker claimed it, or the workflow's function was called."""

    def run_released(self, workflow_id: int, status: WorkflowStatus, seconds: float | None) -> None:
        """Note a released run: parked for `seconds`, requeued or continued as new (PENDING), or cancelled."""

    def run_ended(self, workflow_id: int, status: WorkflowStatus) -> None:
        """Note the recorded end of a workflow, as SUCCESS or ERROR."""

    def run_lost(self, workflow_id: int, error: Exception) -> None:
        """Note a run that can write nothing more: it was fenced, or a write failed for good."""

    def step_began(self, workflow_id: int, step_id: str) -> None:
        """Note the start of a step."""

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
