"""The metrics of an `Admin`, which an observer counts for any library of metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Literal, NamedTuple, Protocol, TypeAlias

from pgqrs.errors import WorkflowFencedError
from pgqrs.observer import Observer, RunFacts
from pgqrs.types import WorkflowStatus
from pgqrs.workflow.batching.plan import BATCH_SUFFIX

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""The bounds of the buckets of the histograms of seconds."""

ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""The bounds of the buckets of the histograms of rows."""


class Metric(NamedTuple):
    """A metric: its name without the suffix of a counter, its kind, its labels, and what it measures."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


Add: TypeAlias = Callable[..., None]
"""Adds an amount to a metric: it takes the amount, then the values of the labels."""


class Instruments(Protocol):
    """The metrics of a library."""

    def adds_to(self, metric: Metric) -> Add:
        """Make a counter or a histogram, and return the function that adds to it."""
        ...


_OF_QUEUE = ("queue", "name")

ENQUEUED = Metric("pgqrs_workflows_enqueued", "counter", _OF_QUEUE, "New workflows for workers.")
STARTED = Metric(
    "pgqrs_workflows_started", "counter", _OF_QUEUE, "Workflows that have started for the first time."
)
SUCCEEDED = Metric("pgqrs_workflows_succeeded", "counter", _OF_QUEUE, "Workflows that have succeeded.")
FAILED = Metric("pgqrs_workflows_failed", "counter", _OF_QUEUE, "Workflows that have failed.")
CANCELLED = Metric("pgqrs_workflows_cancelled", "counter", _OF_QUEUE, "Workflows that were cancelled.")
STEPS = Metric("pgqrs_steps", "counter", ("name", "step", "outcome"), "Executed steps, by their recorded outcome.")
STEP_RETRIES = Metric(
    "pgqrs_step_retries", "counter", ("name", "step"), "Failed attempts of steps that are retried."
)
TAKEOVERS = Metric("pgqrs_takeovers", "counter", (), "Runs of dead executors that were made ready again.")
FENCED = Metric("pgqrs_fenced", "counter", (), "Runs that lost their claim to another run.")
MESSAGES = Metric("pgqrs_messages", "counter", (), "Messages and events of the schema that were sent.")
SCHEDULE_FIRED = Metric("pgqrs_schedule_fired", "counter", ("schedule",), "Workflows that schedules have started.")
LOOP_BLOCKED = Metric(
    "pgqrs_loop_blocked", "counter", (), "Times that code blocked the event loop for over a second."
)
QUEUE_WAIT = Metric(
    "pgqrs_queue_wait_seconds", "histogram", _OF_QUEUE, "Seconds from ready to claimed, at each claim.", SECONDS
)
WORKFLOW_DURATION = Metric(
    "pgqrs_workflow_duration_seconds", "histogram", _OF_QUEUE, "Seconds from the submission to the end.", SECONDS
)
STEP_DURATION = Metric(
    "pgqrs_step_duration_seconds", "histogram", ("name", "step"), "Seconds of a step, to its commit.", SECONDS
)
JOURNAL_COMMIT = Metric(
    "pgqrs_journal_commit_seconds", "histogram", (), "Seconds of one commit of the journal.", SECONDS
)
JOURNAL_ROWS = Metric("pgqrs_journal_batch_rows", "histogram", (), "Records in one commit of the journal.", ROWS)
CLAIM = Metric("pgqrs_claim_seconds", "histogram", (), "Seconds of one claim of a worker.", SECONDS)
REPLAY = Metric(
    "pgqrs_replay_seconds", "histogram", ("name",), "Seconds from a later run to its first new step.", SECONDS
)

EVENTS = (
    ENQUEUED, STARTED, SUCCEEDED, FAILED, CANCELLED, STEPS, STEP_RETRIES, TAKEOVERS, FENCED, MESSAGES,
    SCHEDULE_FIRED, LOOP_BLOCKED, QUEUE_WAIT, WORKFLOW_DURATION, STEP_DURATION, JOURNAL_COMMIT, JOURNAL_ROWS,
    CLAIM, REPLAY,
)  # fmt: skip
"""The counters and histograms, which an observer feeds."""


def step_name(step_id: str) -> str:
    """Return the id of a step without its keys and numbers: a label must have few values."""
    if ":" not in step_id:
        return step_id
    return "/".join(each.partition(":")[0] for each in step_id.split("/"))


class _LiveRun:
    """A run that has not ended: its workflow, its times, and the starts of its executing steps."""

    __slots__ = ("began", "claim", "created_at", "members", "name", "queue", "replays", "steps")

    def __init__(self, run: RunFacts) -> None:
        self.name = run.name
        self.queue = run.queue or ""
        self.claim = run.claim
        self.members = run.members
        self.created_at = None if run.origin is None else run.origin.created_at
        self.began = monotonic()
        self.replays = run.epoch > 1
        self.steps: dict[str, float] = {}


class MetricsObserver(Observer):
    """Counts the events of an `Admin`.

    Args:
        instruments: The metrics of a library.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._add = {metric.name: instruments.adds_to(metric) for metric in EVENTS}
        self._ends = {
            WorkflowStatus.SUCCESS: self._add[SUCCEEDED.name],
            WorkflowStatus.ERROR: self._add[FAILED.name],
            WorkflowStatus.CANCELLED: self._add[CANCELLED.name],
        }
        self._count_step, self._time_step = self._add[STEPS.name], self._add[STEP_DURATION.name]
        self._runs: dict[int, _LiveRun] = {}

    def workflows_enqueued(self, name: str, queue: str, count: int) -> None:
        """Count new workflows."""
        self._add[ENQUEUED.name](count, queue, name)

    def workflow_ended(self, name: str, queue: str | None, status: WorkflowStatus) -> None:
        """Count the end of a workflow without a run."""
        self._ends[status](1, queue or "", name)

    def message_sent(self) -> None:
        """Count a message."""
        self._add[MESSAGES.name](1)

    def run_began(self, run: RunFacts) -> None:
        """Count a first start, and the wait before the claim."""
        known = self._runs.get(run.workflow_id)
        if known is not None and known.claim == run.claim:
            return  # its body begins anew
        live = self._runs[run.workflow_id] = _LiveRun(run)
        if run.epoch == 1:
            self._of_run(self._add[STARTED.name], live)
        if run.origin is not None and run.origin.waited is not None:
            self._add[QUEUE_WAIT.name](max(0.0, run.origin.waited), live.queue, run.name)

    def run_released(self, workflow_id: int, status: WorkflowStatus, seconds: float | None) -> None:  # noqa: ARG002
        """Forget a run; count a cancellation as an end."""
        if status is WorkflowStatus.CANCELLED:
            self.run_ended(workflow_id, status)
        else:
            self._runs.pop(workflow_id, None)

    def run_ended(self, workflow_id: int, status: WorkflowStatus) -> None:
        """Count the end of a workflow, and the ends of the submissions of a batch."""
        run = self._runs.pop(workflow_id, None)
        if run is None:
            return
        self._of_run(self._ends[status], run)
        seconds = monotonic() - run.began
        if run.created_at is not None:
            seconds = max(0.0, (datetime.now(UTC) - run.created_at).total_seconds())
        self._add[WORKFLOW_DURATION.name](seconds, run.queue, run.name)

    @staticmethod
    def _of_run(add: Add, run: _LiveRun) -> None:
        """Count a workflow, and the submissions of a batch."""
        add(1, run.queue, run.name)
        if run.members:
            add(run.members, run.queue, run.name.removesuffix(BATCH_SUFFIX))

    def run_lost(self, workflow_id: int, error: Exception) -> None:
        """Count a fenced run."""
        self._runs.pop(workflow_id, None)
        if isinstance(error, WorkflowFencedError):
            self._add[FENCED.name](1)

    def run_abandoned(self, workflow_id: int) -> None:
        """Forget a run."""
        self._runs.pop(workflow_id, None)

    def step_began(self, workflow_id: int, step_id: str, attempt: int) -> None:  # noqa: ARG002
        """Note the start of a step, and the end of a replay."""
        run = self._runs.get(workflow_id)
        if run is None:
            return
        run.steps[step_id] = now = monotonic()
        if run.replays:
            run.replays = False
            self._add[REPLAY.name](now - run.began, run.name)

    def step_recorded(self, workflow_id: int, step_id: str, *, failed: bool) -> None:
        """Count an outcome of a step that this run has executed."""
        run = self._runs.get(workflow_id)
        began = None if run is None else run.steps.pop(step_id, None)
        if run is not None and began is not None:
            step = step_name(step_id)
            self._count_step(1, run.name, step, "error" if failed else "success")
            self._time_step(monotonic() - began, run.name, step)

    def step_abandoned(self, workflow_id: int, step_id: str) -> None:
        """Forget a step."""
        run = self._runs.get(workflow_id)
        if run is not None:
            run.steps.pop(step_id, None)

    def attempt_failed(self, workflow_id: int, step_id: str, attempt: int, delay: float) -> None:  # noqa: ARG002
        """Count a failed attempt."""
        run = self._runs.get(workflow_id)
        if run is not None:
            self._add[STEP_RETRIES.name](1, run.name, step_name(step_id))

    def rows_committed(self, count: int, seconds: float) -> None:
        """Note a commit of the journal."""
        self._add[JOURNAL_ROWS.name](count)
        self._add[JOURNAL_COMMIT.name](seconds)

    def claim_answered(self, seconds: float) -> None:
        """Note a claim."""
        self._add[CLAIM.name](seconds)

    def runs_recovered(self, count: int) -> None:
        """Count the runs of dead executors."""
        self._add[TAKEOVERS.name](count)

    def schedule_fired(self, schedule: str, workflow_id: int, scheduled_for: datetime, lateness: float) -> None:  # noqa: ARG002
        """Count a start by a schedule."""
        self._add[SCHEDULE_FIRED.name](1, schedule)

    def loop_blocked(self, workflow_id: int | None, step_id: str | None) -> None:  # noqa: ARG002
        """Count a blocked event loop."""
        self._add[LOOP_BLOCKED.name](1)
