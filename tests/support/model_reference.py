"""The model of pgqrs in plain Python: workflows, steps, claims, timers and executors.

Time is counted in units; nothing happens between two of them. A method takes what the library is asked, changes
the state as it should change there, and returns the answer that the library should give, an error's class for an
error.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pgqrs.errors import WorkflowCancelledError, WorkflowFencedError, WorkflowFinishedError, WorkflowLockedError

EXPIRY = 10
"""How many units after its last beat an executor counts as dead."""

ABANDONED = -1
"""The executor of a run that its own process gave up."""

OVER = frozenset({"SUCCESS", "ERROR", "CANCELLED"})


@dataclass
class Executor:
    """An executor, and the signs of its life."""

    beats: bool = True
    locked: bool = True
    expires: int = EXPIRY
    suspected: int | None = None
    stopped: bool = False
    known: bool = True


@dataclass
class Step:
    """What is recorded of a step."""

    status: str
    epoch: int
    output: str | None = None
    error: str | None = None
    failures: int = 0
    retry_at: int | None = None
    reopened: bool = False
    address: str | None = None


@dataclass
class Workflow:
    """One workflow."""

    name: str
    id: int = 0
    queue: str | None = None
    key: str | None = None
    priority: int = 0
    timeout: int | None = None
    status: str = "PENDING"
    epoch: int = 0
    attempts: int = 0
    retries: int = 0
    ready: bool = False
    due: int | None = None
    executor: int | None = None
    deadline: int | None = None
    cancel: bool | None = None
    output: str | None = None
    error: str | None = None
    parent: int | None = None
    parent_step: str | None = None
    place: int | None = None
    ends_with_parent: bool = False
    saga: str | None = None
    generation: int | None = None
    started: bool = False
    partition_key: str | None = None
    schedule: str | None = None
    waits: frozenset[tuple[str, str]] = frozenset()
    reaps: bool = False
    """Whether its end has yet to end its children."""
    has_children: bool = False
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.status not in OVER

    @property
    def unwinds(self) -> bool:
        """Whether its saga is to be undone before it ends."""
        return self.saga not in {None, "OPEN"}

    def unhold(self) -> None:
        """Take it from wherever it is: with an executor, ready, due, or waiting for messages."""
        self.ready, self.due, self.executor, self.waits = False, None, None, frozenset()

    def over(self, status: str) -> None:
        """End it."""
        self.reaps = self.reaps or (self.lives and status in OVER and self.has_children)
        self.unhold()
        self.status, self.deadline, self.cancel = status, None, None

    def hand_over(self, state: str) -> None:
        """Have a worker undo its saga."""
        self.unhold()
        self.status, self.ready, self.deadline, self.cancel = "PENDING", True, None, None
        self.saga, self.queue = state, self.queue or "default"

    def has_progressed(self) -> bool:
        """Tell whether the newest run has recorded a step."""
        return any(step.epoch == self.epoch and step.status != "RUNNING" for step in self.steps.values())


class Run(NamedTuple):
    """A run as the process that claimed it knows it; it may be stale."""

    workflow: int
    epoch: int
    executor: int


class Claimed(NamedTuple):
    """A run as a worker's claim returns it."""

    workflow: int
    epoch: int
    attempts: int
    left: int | None


class Tick(NamedTuple):
    """What a look at the queues should find and do."""

    ready: bool
    woken: int
    recovered: int
    timed_out: int
    suspects: int
    next_due: int | None


Answer = str | int | None | type[Exception]


def is_failed_end(step: Step) -> bool:
    """Tell whether the outcome of a step is the end of children of which one has not succeeded."""
    if step.status != "SUCCESS" or not (step.address or "").startswith("c/"):
        return False
    end = json.loads(step.output or "null")
    return bool(end["failed"]) if "failed" in end else end["status"] != "SUCCESS"


class Reference:
    """All of it. Workflows have numbers in the order in which they were made, executors from 0."""

    def __init__(self, executors: int) -> None:
        self.now = 0
        self.executors = [Executor() for _ in range(executors)]
        self.workflows: list[Workflow] = []

    # Submitting

    def submit(self, new: Workflow, delay: int | None) -> int:
        """Enqueue a workflow; where the key is taken, return that one."""
        if new.key is not None:
            for number, each in enumerate(self.workflows):
                if (each.name, each.key) == (new.name, new.key):
                    return number
        ready = delay is None
        due = None if delay is None else self.now + delay
        self.workflows.append(replace(new, ready=ready, due=due))
        return len(self.workflows) - 1

    def create(self, name: str) -> int:
        """Make a workflow that nobody claims."""
        self.workflows.append(Workflow(name))
        return len(self.workflows) - 1

    def begin(self, name: str, executor: int, timeout: int | None) -> Run:
        """Make a workflow that runs already."""
        deadline = None if timeout is None else self.now + timeout
        self.workflows.append(
            Workflow(
                name,
                status="RUNNING",
                epoch=1,
                executor=executor,
                timeout=timeout,
                deadline=deadline,
                started=True,
            )
        )
        return Run(len(self.workflows) - 1, 1, executor)

    # Claiming

    def claimable(self, names: Collection[str], queues: Collection[str]) -> list[int]:
        """Return the workflows that a claim may take, in the order in which it takes them."""
        ready = [
            (-each.priority, each.id, number)
            for number, each in enumerate(self.workflows)
            if each.ready and each.name in names and each.queue in queues
        ]
        return [number for _, _, number in sorted(ready)]

    def claim_ready(self, number: int, executor: int) -> Claimed:
        """Claim one workflow that is ready."""
        workflow = self.workflows[number]
        assert workflow.ready
        workflow.attempts += 1
        self._start(workflow, executor, None)
        left = None if workflow.deadline is None else workflow.deadline - self.now
        return Claimed(number, workflow.epoch, workflow.attempts, left)

    def claim(self, number: int, executor: int, timeout: int | None) -> Answer:
        """Start a run by hand; the epoch, or the output of a success."""
        workflow = self.workflows[number]
        if workflow.status == "SUCCESS":
            return workflow.output
        if workflow.status == "CANCELLED":
            return WorkflowCancelledError
        if workflow.executor not in {None, ABANDONED, executor} and self.seems_alive(workflow.executor):
            return WorkflowLockedError
        self._start(workflow, executor, timeout)
        return workflow.epoch

    def _start(self, workflow: Workflow, executor: int, timeout: int | None) -> None:
        workflow.unhold()
        workflow.status, workflow.executor, workflow.error = "RUNNING", executor, None
        workflow.epoch += 1
        given = workflow.timeout if workflow.timeout is not None else timeout
        own = None if given is None else self.now + given
        if workflow.deadline is None:
            workflow.deadline = own
        elif not workflow.started and own is not None:  # a child with the deadline of its parent
            workflow.deadline = min(workflow.deadline, own)
        workflow.started = True

    # What a run writes

    def _refused(self, run: Run) -> type[Exception] | None:
        workflow = self.workflows[run.workflow]
        if workflow.epoch == run.epoch:
            return None
        return WorkflowCancelledError if workflow.status == "CANCELLED" else WorkflowFencedError

    def record(self, run: Run, step_id: str, output: str | None, error: str | None) -> Answer | Step:
        """Record an outcome, or that the step runs where there is none; what is recorded then, or an error."""
        if refused := self._refused(run):
            return refused
        steps = self.workflows[run.workflow].steps
        there = steps.get(step_id)
        if there is None or self._gives_way(there, run.epoch):
            status = "SUCCESS" if output is not None else "ERROR" if error is not None else "RUNNING"
            kept = {} if there is None else {"failures": there.failures, "retry_at": there.retry_at}
            there = steps[step_id] = Step(status, run.epoch, output, error, **kept)
        return there

    @staticmethod
    def _gives_way(step: Step, epoch: int) -> bool:
        older = step.epoch < epoch
        return step.status != "SUCCESS" and (older or step.status == "RUNNING")

    def fail(self, run: Run, step_id: str, error: str, failures: int, delay: int) -> Answer:
        """Record a failed attempt that is to be followed by another."""
        if refused := self._refused(run):
            return refused
        steps = self.workflows[run.workflow].steps
        there = steps.get(step_id)
        counted = there is not None and there.epoch == run.epoch and there.failures >= failures
        if there is None or (self._gives_way(there, run.epoch) and not counted):
            steps[step_id] = Step("RUNNING", run.epoch, None, error, failures, self.now + delay)
        return None

    def leave(self, run: Run, status: str, wait: int | None, retries: int | None, error: str | None) -> None:
        """Leave a run; a stale one leaves nothing."""
        workflow = self.workflows[run.workflow]
        if workflow.epoch != run.epoch or workflow.status != "RUNNING" or workflow.executor == ABANDONED:
            return
        if workflow.cancel is not None and workflow.saga is None:
            status = "CANCELLED"
        elif workflow.cancel is not None:
            status = "PENDING" if status == "WAITING" else status
            workflow.saga = "CANCELLED" if workflow.saga == "OPEN" else workflow.saga
        workflow.cancel = None
        if status == "WAITING":
            workflow.attempts = 0
        elif status == "PENDING":  # handed back, which burns none
            workflow.attempts = 0 if workflow.has_progressed() else max(0, workflow.attempts - 1)
        workflow.queue = workflow.queue or "default"
        workflow.retries = workflow.retries if retries is None else retries
        workflow.error = error
        if status == "CANCELLED":
            workflow.over(status)
            return
        workflow.unhold()
        workflow.status = status
        if status == "RUNNING":
            workflow.executor = ABANDONED
        elif status == "PENDING":
            workflow.ready = True
        else:
            workflow.due = None if wait is None else self.now + wait

    def end(self, run: Run, output: str | None, error: str | None, reopen: Sequence[str]) -> Answer:
        """End the workflow; one that is to be cancelled is cancelled, and its run's result is dropped."""
        if refused := self._refused(run):
            return refused
        workflow = self.workflows[run.workflow]
        status = "SUCCESS" if error is None else "ERROR"
        if workflow.status != "RUNNING":
            if workflow.status == "CANCELLED":
                return WorkflowCancelledError
            return None if workflow.status == status else WorkflowFinishedError
        cancelled = workflow.cancel is not None and workflow.saga != "OPEN"
        workflow.over("CANCELLED" if cancelled else status)
        workflow.output, workflow.error = (None, None) if cancelled else (output, error)
        for step_id in reopen:
            step = workflow.steps.get(step_id)
            if step is not None and step.status == "ERROR":
                step.reopened, step.failures, step.retry_at = True, 0, None
        return WorkflowCancelledError if cancelled else None

    # What an operator asks

    def cancel(self, number: int, *, interrupt: bool) -> Answer:
        """Cancel a workflow; returns the executor that has to be told of it, if any."""
        workflow = self.workflows[number]
        if workflow.status in {"SUCCESS", "ERROR"}:
            return WorkflowFinishedError
        if workflow.status == "CANCELLED":
            return None
        if workflow.status != "RUNNING":
            if workflow.saga is None:
                workflow.over("CANCELLED")
            elif workflow.saga == "OPEN":
                workflow.hand_over("CANCELLED")
            return None
        assert workflow.executor is not None
        if self.seems_alive(workflow.executor):
            if workflow.unwinds:
                return None
            workflow.cancel = bool(workflow.cancel) or interrupt
            return workflow.executor
        if workflow.saga is None:
            workflow.over("CANCELLED")
        else:
            workflow.hand_over("CANCELLED")
        workflow.epoch += 1  # whatever its run writes when its process wakes comes too late
        return None

    def resume(self, number: int) -> Answer:
        """Make a workflow runnable again."""
        workflow = self.workflows[number]
        if workflow.status == "SUCCESS":
            return WorkflowFinishedError
        workflow.over("PENDING")
        workflow.epoch += 1
        workflow.ready = workflow.queue is not None
        workflow.attempts = workflow.retries = 0
        workflow.error = None
        workflow.saga = None if workflow.saga is None else "OPEN"
        if workflow.parent is not None and not self.workflows[workflow.parent].lives:
            workflow.ends_with_parent = False
        for step in workflow.steps.values():
            if step.status == "ERROR":
                step.reopened, step.failures, step.retry_at = True, 0, None
            elif step.address is not None and is_failed_end(step):
                step.status, step.output, step.address, step.retry_at = "RUNNING", None, None, None
        return None

    # Life and death

    def seems_alive(self, executor: int | None) -> bool:
        """Tell whether an executor shows all signs of life."""
        if executor is None or executor == ABANDONED:
            return False
        each = self.executors[executor]
        return each.known and not each.stopped and each.locked and not self._expired(each)

    def _expired(self, executor: Executor) -> bool:
        return self.now >= executor.expires

    def _is_dead(self, executor: Executor) -> bool:
        doubted = executor.suspected is not None and executor.suspected < self.now
        return not executor.known or executor.stopped or (doubted and self._is_silent(executor))

    def _is_silent(self, executor: Executor) -> bool:
        return not executor.locked or self._expired(executor)

    @property
    def silent(self) -> list[int]:
        """The executors that a look begins to suspect, unless it has before."""
        return [
            number
            for number, each in enumerate(self.executors)
            if each.known and not each.stopped and self._is_silent(each)
        ]

    def stop(self, executor: int) -> None:
        """Stop an executor in order; it is forgotten unless it holds something."""
        self.executors[executor].stopped, self.executors[executor].beats = True, False
        self._forget([executor])

    def _forget(self, candidates: Collection[int]) -> None:
        held = {each.executor for each in self.workflows}
        for number in {*candidates} - held:
            self.executors[number] = replace(self.executors[number], known=False, beats=False)

    def _long_dead(self) -> list[int]:
        return [number for number, each in enumerate(self.executors) if self.now > each.expires]

    def beat(self, executor: int) -> None:
        """Let an executor show that it lives."""
        self.executors[executor] = Executor(expires=self.now + EXPIRY)

    def pass_time(self, units: int) -> None:
        """Let time pass; who beats goes on beating."""
        self.now += units
        for each in self.executors:
            if each.beats:
                each.expires, each.suspected = self.now + EXPIRY, None

    # The look after the queues

    def tick(self, names: Collection[str], queues: Collection[str], *, unknown_too: bool) -> Tick:
        """Wake what is due, take over what the dead left, end what is too late."""
        ready = bool(self.claimable(names, queues))
        dead = {
            number
            for number, each in enumerate(self.executors)
            if self._is_dead(each) and (each.known or unknown_too)
        } | {ABANDONED}
        expired = [
            each
            for each in self.workflows
            if each.deadline is not None
            and each.deadline <= self.now
            and (each.saga is None or (each.executor is None and not each.unwinds))
        ]
        times = [
            time - self.now
            for each in self.workflows
            for time in (each.due, each.deadline)
            if time is not None and time > self.now
        ]
        next_due = min([*times, *self.next_times(names, queues)], default=None)
        doubted = self.suspect()
        woken = [each for each in self.workflows if each.due is not None and each.due <= self.now]
        lost = [each for each in self.workflows if each.executor in dead]
        for each in woken:
            self._time_out_waits(each)
            each.unhold()
            each.status, each.ready = "PENDING", True
        for each in lost:
            self._recover(each)
        late = [each for each in expired if each.deadline is not None and each.saga is None]
        for each in expired:
            if each.saga == "OPEN":
                each.hand_over("TIMED_OUT")
        for each in late:
            each.over("ERROR")
            each.epoch += 1
            each.error = "timeout"
        if unknown_too:
            self._forget(self._long_dead())
        return Tick(ready, len(woken), len(lost), len(late), doubted, next_due)

    def next_times(self, names: Collection[str], queues: Collection[str]) -> list[int]:
        """Return the units until further times at which a worker has something to do."""
        return []

    def suspect(self) -> int:
        """Begin to suspect those that show no life, and return how many are suspected since now."""
        for each in (self.executors[number] for number in self.silent):
            if each.suspected is None:
                each.suspected = self.now
        return sum(each.known and each.suspected == self.now for each in self.executors)

    @staticmethod
    def _recover(workflow: Workflow) -> None:
        workflow.queue = workflow.queue or "default"
        workflow.attempts = 0 if workflow.has_progressed() else workflow.attempts
        workflow.epoch += 1
        if workflow.cancel is not None and workflow.saga is None:
            workflow.over("CANCELLED")
            return
        if workflow.cancel is not None and workflow.saga == "OPEN":
            workflow.saga = "CANCELLED"
        workflow.unhold()
        workflow.status, workflow.ready, workflow.cancel = "PENDING", True, None

    def _time_out_waits(self, workflow: Workflow) -> None:
        for step_id, _ in workflow.waits:
            step = workflow.steps[step_id]
            if step.status == "RUNNING" and step.retry_at is not None and step.retry_at <= self.now:
                step.status, step.retry_at = "SUCCESS" if step.error is None else "ERROR", None

    def history(self, number: int) -> tuple[dict[str, tuple[str | None, str | None]], dict[str, int]]:
        """Return the outcomes that a new run should find, and the failures of what is being retried."""
        steps = {id_: step for id_, step in self.workflows[number].steps.items() if not step.reopened}
        outcomes = {id_: (step.output, step.error) for id_, step in steps.items() if step.status != "RUNNING"}
        failed = {
            id_: step.failures
            for id_, step in steps.items()
            if step.status == "RUNNING" and step.retry_at is not None
        }
        return outcomes, failed
