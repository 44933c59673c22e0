"""The model of messages, events, waits, children, sagas and continuations, on top of the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pgqrs.errors import WorkflowCancelledError, WorkflowFencedError, WorkflowFinishedError
from tests.support.model_reference import Answer, Reference, Run, Step, Workflow

KEPT = 4
"""Units for which a received message without a key of its sender is kept."""

CHILDREN = {"s": 1, "t": 3}
"""How many children a step starts."""

UNDOABLE = ("a", "b", "c")
"""The steps that a saga undoes."""


@dataclass
class Message:
    """A message, or an event of the schema; `key` is the sender's own."""

    address: str
    value: str
    key: str | None = None
    taken: int | None = None


class Wait(NamedTuple):
    """A step that waits, with what becomes of it at its timeout."""

    step_id: str
    addresses: tuple[str, ...]
    timeout: int | None
    output: str | None
    error: str | None


class Talk(NamedTuple):
    """What a step does beside its outcome: it sends one message, or it sets events and starts children."""

    messages: tuple[tuple[str, str], ...] = ()
    events: tuple[tuple[str, str], ...] = ()
    children: tuple[Workflow, ...] = ()


class Conversation(Reference):
    """Workflows that talk. An address names its workflow by its number, as ``m/0/paid``."""

    def __init__(self, executors: int) -> None:
        super().__init__(executors)
        self.messages: list[Message] = []
        self.events: dict[tuple[int, str], str] = {}

    # Messages

    def send(self, number: int, topic: str, value: str, key: str | None) -> Answer:
        """Send a message to a workflow."""
        address = f"m/{number}/{topic}"
        if key is not None and any((each.address, each.key) == (address, key) for each in self.messages):
            return None
        if not self.workflows[number].lives:
            return WorkflowFinishedError
        self.messages.append(Message(address, value, key))
        return None

    def emit(self, name: str, value: str) -> bool:
        """Emit an event of the schema; the first value stays."""
        text = json.dumps({"codec": None, "value": json.loads(value)})
        for each in self.messages:
            if each.address == f"e/{name}":
                return each.value == text
        self.messages.append(Message(f"e/{name}", text))
        return True

    def _answer(self, addresses: Sequence[str]) -> tuple[int, str, str] | None:
        """Return the oldest answer to one of the addresses: its place in the order, its address and its text."""
        for place, each in enumerate(self.messages):
            if each.address in addresses and each.taken is None:
                return place, each.address, each.value
        for address in addresses:
            ended = self._end_of_children(address) if address.startswith("c/") else None
            if ended is not None:
                return len(self.messages), address, ended
        return None

    def _end_of_children(self, address: str) -> str | None:
        _, parent, step = address.split("/", 2)
        children = [each for each in self.workflows if (each.parent, each.parent_step) == (int(parent), step)]
        if not children or any(each.lives for each in children):
            return None
        if len(children) > 1:
            places = sorted(each.place or 0 for each in children if each.status != "SUCCESS")
            return json.dumps({"failed": places})
        (child,) = children
        value = json.loads(child.output or child.error or "null")
        return json.dumps({"id": child.id, "status": child.status, "value": value})

    def _take(self, address: str, place: int) -> None:
        if not address.startswith(("e/", "c/")):
            self.messages[place].taken = self.now

    def receive(self, run: Run, wait: Wait) -> Answer | Step:
        """Receive the oldest message in a run that goes on; a step with a timeout that has passed has its outcome."""
        if refused := self._refused(run):
            return refused
        workflow = self.workflows[run.workflow]
        there = workflow.steps.get(wait.step_id)
        if there is not None and there.status != "RUNNING" and not there.reopened:
            return there
        if workflow.cancel is not None:
            return None
        answer = self._answer(wait.addresses)
        if answer is not None:
            place, address, text = answer
            self._take(address, place)
            step = Step("SUCCESS", run.epoch, text, address=address)
        elif wait.output is None and wait.error is None:
            return None
        else:
            step = Step("ERROR" if wait.error else "SUCCESS", run.epoch, wait.output, wait.error)
        workflow.steps[wait.step_id] = step
        return step

    def park(self, run: Run, waits: Sequence[Wait]) -> None:
        """Park a run that waits for messages."""
        timeouts = [each.timeout for each in waits if each.timeout is not None]
        workflow = self.workflows[run.workflow]
        applies = workflow.epoch == run.epoch and workflow.status == "RUNNING"
        self.leave(run, "WAITING", min(timeouts, default=None), None, None)
        if not (applies and workflow.status == "WAITING"):
            return
        workflow.waits = frozenset((each.step_id, address) for each in waits for address in each.addresses)
        for each in waits:
            there = workflow.steps.get(each.step_id)
            until = None if each.timeout is None else self.now + each.timeout
            if there is not None and not there.reopened and there.retry_at is not None:
                until = there.retry_at
            workflow.steps[each.step_id] = Step("RUNNING", run.epoch, each.output, each.error, 0, until)

    def deliver(self) -> int:
        """Give each parked workflow the oldest message that it waits for; return the number of the workflows."""
        woken = 0
        for workflow in self.workflows:
            found = []
            for step_id, address in workflow.waits:
                answer = self._answer([address])
                if answer is not None:
                    found.append((answer[0], step_id, address, answer[2]))
            if found:
                place, step_id, address, text = min(found)
                step = workflow.steps[step_id]
                step.status, step.output, step.error, step.address = "SUCCESS", text, None, address
                step.retry_at = None
                self._take(address, place)
                workflow.unhold()
                workflow.status, workflow.ready = "PENDING", True
                woken += 1
        return woken

    def delete_received(self) -> None:
        """Delete what was received long ago, unless its sender has a key."""
        self.messages = [
            each
            for each in self.messages
            if each.key is not None or each.taken is None or self.now - each.taken < KEPT
        ]

    # Steps that send, and children

    def record_talk(self, run: Run, step_id: str, output: str, talk: Talk) -> Answer | Step:
        """Record a step together with what it sends, sets and starts; False for a receiver that has ended."""
        if refused := self._refused(run):
            return refused
        workflow = self.workflows[run.workflow]
        there = workflow.steps.get(step_id)
        if there is not None and not self._gives_way(there, run.epoch):
            return there
        if workflow.cancel is not None:
            return None
        receivers = [int(address.split("/")[1]) for address, _ in talk.messages]
        if not all(self.workflows[each].lives for each in receivers):
            return False
        step = workflow.steps[step_id] = Step("SUCCESS", run.epoch, output)
        self.messages += [Message(address, value) for address, value in talk.messages]
        self.events |= {(run.workflow, name): value for name, value in talk.events}
        self._start_children(run, step_id, talk.children)
        return step

    def start_some(self, run: Run, step_id: str, children: Sequence[Workflow]) -> Answer | bool:
        """Start some of the children of a step that has no outcome yet."""
        if refused := self._refused(run):
            return refused
        if self.workflows[run.workflow].cancel is not None:
            return None
        self._start_children(run, step_id, children)
        return True

    def _start_children(self, run: Run, step_id: str, children: Sequence[Workflow]) -> None:
        parent = self.workflows[run.workflow]
        step = step_id if parent.generation is None else f"{parent.generation}//{step_id}"
        there = {(each.parent, each.parent_step, each.place) for each in self.workflows}
        for child in children:
            if (run.workflow, step, child.place) not in there:
                child.parent, child.parent_step, child.deadline = run.workflow, step, parent.deadline
                self.workflows.append(child)
        parent.has_children = parent.has_children or bool(children)

    def reap(self) -> None:
        """End the children of ended parents, and their children, unless the parent lives again."""
        while ended := [number for number, each in enumerate(self.workflows) if each.reaps]:
            for number in ended:
                self.workflows[number].reaps = False
                if not self.workflows[number].lives:
                    for child in self.workflows:
                        if child.parent == number and child.lives and child.ends_with_parent:
                            self._end_with_parent(child)

    @staticmethod
    def _end_with_parent(child: Workflow) -> None:
        if child.status == "RUNNING":
            if child.cancel is None and not child.unwinds:
                child.cancel = False
        elif child.saga is None:
            child.over("CANCELLED")
        elif child.saga == "OPEN":
            child.hand_over("CANCELLED")

    # Sagas and continuations

    def open_saga(self, run: Run) -> Answer:
        """Note that a run has steps which are to be undone."""
        if refused := self._refused(run):
            return refused
        workflow = self.workflows[run.workflow]
        workflow.saga = workflow.saga if workflow.unwinds else "OPEN"
        return None

    def undo(self, run: Run) -> None:
        """Undo the recorded steps, and end the workflow."""
        workflow = self.workflows[run.workflow]
        recorded = [each for each in UNDOABLE if self._is_recorded(workflow, each)]
        reason = "cancelled" if workflow.saga == "CANCELLED" else "timed_out"
        if recorded:
            decision = {"steps": recorded, "reason": reason, "error": None}
            workflow.steps["saga:1"] = Step("SUCCESS", run.epoch, json.dumps(decision))
        for step_id in recorded:
            output = json.dumps(json.loads(workflow.steps[step_id].output or "null"))
            workflow.steps[f"undo/{step_id}"] = Step("SUCCESS", run.epoch, output)
        if workflow.saga == "CANCELLED":
            workflow.over("CANCELLED")
            workflow.queue = workflow.queue or "default"
        else:
            workflow.over("ERROR")
            workflow.error = "timeout"

    @staticmethod
    def _is_recorded(workflow: Workflow, step_id: str) -> bool:
        step = workflow.steps.get(step_id)
        return step is not None and step.status == "SUCCESS"

    def continue_as_new(self, run: Run, timeout: int | None) -> Answer:
        """Begin the workflow anew in the same process, without its steps; return the epoch of the next run."""
        workflow = self.workflows[run.workflow]
        if workflow.epoch != run.epoch:
            return WorkflowCancelledError if workflow.status == "CANCELLED" else WorkflowFencedError
        workflow.attempts = workflow.retries = 0
        workflow.error = workflow.saga = None
        if workflow.cancel is not None:
            workflow.over("CANCELLED")
            return WorkflowCancelledError
        given = workflow.timeout if workflow.timeout is not None else timeout
        own = None if given is None else self.now + given
        latest = None if workflow.parent is None else self.workflows[workflow.parent].deadline
        workflow.deadline = min((each for each in (own, latest) if each is not None), default=None)
        workflow.generation = workflow.epoch
        workflow.epoch += 1
        workflow.steps.clear()
        return workflow.epoch
