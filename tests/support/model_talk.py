"""The moves of workflows that talk: messages, events, waits, children, sagas and continuations."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pgqrs.errors import WorkflowCancelledError, WorkflowTimeoutError
from pgqrs.storage.records import StoredOutcome
from tests.support.model_driver import FUNCTIONS, plain
from tests.support.model_machine import (
    PgqrsMachine,
    anyone,
    maybe_spans,
    names,
    processes,
    queues,
    rarely,
    timeouts,
)
from tests.support.model_messages import CHILDREN, UNDOABLE, Talk, Wait
from tests.support.model_reference import ABANDONED, Run, Step, Workflow

topics = st.sampled_from(["paid", "paid", "sent"])
keys = st.sampled_from([None, None, "k", "l"])
starting = st.sampled_from(sorted(CHILDREN))
waiting = st.sampled_from(["v", "w"])
some_addresses = st.sampled_from(
    [
        ("m/paid",),
        ("m/paid", "m/sent"),
        ("e/closed",),
        ("m/sent", "e/closed"),
        ("c/s",),
        ("c/t",),
        ("c/t", "m/paid"),
    ]
)
some_waits = st.lists(st.tuples(waiting, some_addresses), min_size=1, max_size=2, unique_by=lambda each: each[0])
outcomes = st.sampled_from(["error", "output"])
undone = st.sampled_from([("a",), ("a", "b"), ("c", "a"), UNDOABLE])


class TalkingMachine(PgqrsMachine):
    """The moves of workflows, and those in which they talk to each other and to the driver."""

    # Messages

    @precondition(lambda self: self.model.workflows)
    @rule(process=processes, pick=anyone, topic=topics, key=keys)
    def send(self, process: int, pick: int, topic: str, key: str | None) -> None:
        number, value = self.workflow_of(pick), self.text("message")
        answer = self.model.send(number, topic, value, key)
        self._run(self.must(self.driver.send(process, number, topic, value, key), answer))

    @precondition(lambda self: self.model.workflows)
    @rule(process=processes, pick=anyone, topic=topics, key=keys, commits=st.booleans())
    def send_in_session(self, process: int, pick: int, topic: str, key: str | None, commits: bool) -> None:
        """Send in a caller's session; a delivery before its commit must not see the message."""
        self._run(self._send_in_session(process, self.workflow_of(pick), topic, key, commits=commits))

    async def _send_in_session(
        self, process: int, number: int, topic: str, key: str | None, *, commits: bool
    ) -> None:
        value = self.text("message")
        before = list(self.model.messages)
        answer = self.model.send(number, topic, value, key)
        after, self.model.messages = self.model.messages, before
        if answer is not None:
            await self.must(
                self.driver.send_in_session(
                    process, number, topic, value, key, commits=commits, meanwhile=self._deliver
                ),
                answer,
            )
            return
        new = after[len(before) :]
        await self.driver.send_in_session(
            process, number, topic, value, key, commits=commits, meanwhile=self._deliver
        )
        if commits:
            self.model.messages = [*self.model.messages, *new]

    @rule(process=processes, name=st.sampled_from(["closed", "opened"]), again=st.booleans())
    def emit(self, process: int, name: str, again: bool) -> None:
        value = '"again"' if again else self.text("event")
        assert self._run(self.driver.emit(process, name, value)) == self.model.emit(name, value)

    def wait_of(self, run: Run, step_id: str, addresses: tuple[str, ...], timeout: int | None, kind: str) -> Wait:
        """Return a wait at addresses of the run's own workflow."""
        workflow = self.model.workflows[run.workflow]
        ended = timeout is not None
        return Wait(
            step_id,
            tuple(self._address(run.workflow, workflow, each) for each in addresses),
            timeout,
            self.text("output") if ended and kind == "output" else None,
            self.text("error") if ended and kind == "error" else None,
        )

    @staticmethod
    def _address(number: int, workflow: Workflow, short: str) -> str:
        kind, _, name = short.partition("/")
        if kind == "c" and workflow.generation is not None:
            name = f"{workflow.generation}//{name}"
        return short if kind == "e" else f"{kind}/{number}/{name}"

    def waits_here(self, run: Run, step_id: str) -> bool:
        """Tell whether a run may wait in a step: it is not over, and knows no outcome of the step."""
        workflow = self.model.workflows[run.workflow]
        if workflow.epoch == run.epoch and (workflow.status != "RUNNING" or workflow.executor == ABANDONED):
            return False
        there = workflow.steps.get(step_id)
        return there is None or there.status == "RUNNING" or there.reopened

    async def _start_awaited(self, run: Run, addresses: tuple[str, ...]) -> None:
        """Start the children that a run is to wait for, unless the step that starts them is there."""
        for address in addresses:
            kind, _, step_id = address.partition("/")
            if kind == "c" and step_id not in self.model.workflows[run.workflow].steps:
                await self._talk(
                    run, step_id, Talk(children=self.children_of(step_id, "first", "other", None, ends=True))
                )

    async def _answer(self, process: int, number: int, address: str, *, partly: bool) -> None:
        """Send the message, emit the event, or end the children, or one of them, for which a workflow waits."""
        kind, _, rest = address.partition("/")
        if kind == "e":
            value = self.text("event")
            assert await self.driver.emit(process, rest, value) == self.model.emit(rest, value)
        elif kind == "m":
            topic, value = rest.partition("/")[2], self.text("message")
            answer = self.model.send(number, topic, value, None)
            await self.must(self.driver.send(process, number, topic, value, None), answer)
        else:
            step = rest.partition("/")[2]
            for own, child in enumerate(self.model.workflows):
                if (child.parent, child.parent_step) == (number, step) and child.lives:
                    await self._end_child(process, own, child)
                    if partly:
                        return

    async def _end_child(self, process: int, number: int, child: Workflow) -> None:
        if child.status != "RUNNING":
            await self._claim(process, number, None)
        if child.executor not in {None, ABANDONED}:
            run, output = Run(number, child.epoch, child.executor or 0), self.text("output")
            await self.must(self.driver.end(run, output, None, ()), self.model.end(run, output, None, ()))

    @rule(
        process=processes, pick=anyone, partly=rarely, addresses=some_addresses,
        how=st.sampled_from(["deliver", "deliver seen", "leave", "receive"]),
    )  # fmt: skip
    def answer(self, process: int, pick: int, partly: bool, addresses: tuple[str, ...], how: str) -> None:
        """Answer a workflow that waits, and park one where there is none; or answer a run that goes on."""
        if how == "receive":
            self._run(self._receive_answer(process, pick, addresses))
        else:
            self._run(self._answer_one(process, pick, addresses, partly=partly, how=how))

    async def _receive_answer(self, process: int, pick: int, addresses: tuple[str, ...]) -> None:
        """Receive an answer in a run that goes on; begin one where there is none."""
        fresh = [
            (run, step_id)
            for run in self.runs
            for step_id in ("v", "w")
            if self.is_current(run)
            and self.model.workflows[run.workflow].cancel is None
            and self.waits_here(run, step_id)
        ]
        if not fresh:
            await self._begin(process, "second", None)
            fresh = [(self.runs[-1], "v")]
        run, step_id = fresh[pick % len(fresh)]
        await self._receive(run, step_id, addresses, sent=True, late=False, kind="error")

    async def _answer_one(
        self, process: int, pick: int, addresses: tuple[str, ...], *, partly: bool, how: str
    ) -> None:
        if not any(each.waits for each in self.model.workflows):
            await self._begin(process, "second", None)
            await self._park(self.runs[-1], [("w", addresses)], None, "error")
        if how == "deliver seen":  # the search has seen the waits before the messages are there
            await self._deliver(process)
        waits = [
            (number, address)
            for number, each in enumerate(self.model.workflows)
            for _, address in sorted(each.waits)
        ]
        if waits:
            await self._answer(process, *waits[pick % len(waits)], partly=partly)
            if how != "leave":
                await self._deliver(process)

    @rule(
        pick=anyone, stale=rarely, step_id=waiting, addresses=some_addresses, sent=st.booleans(), late=rarely,
        kind=outcomes,
    )  # fmt: skip
    def receive(  # noqa: PLR0917
        self,
        pick: int,
        stale: bool,
        step_id: str,
        addresses: tuple[str, ...],
        sent: bool,
        late: bool,
        kind: str,
    ) -> None:
        self._run(
            self._receive(self.run_of(pick, stale=stale), step_id, addresses, sent=sent, late=late, kind=kind)
        )

    async def _receive(
        self, run: Run, step_id: str, addresses: tuple[str, ...], *, sent: bool, late: bool, kind: str
    ) -> None:
        if not self.waits_here(run, step_id):
            return
        await self._start_awaited(run, addresses)
        if sent and self.model.workflows[run.workflow].lives:
            own = self.wait_of(run, step_id, addresses, None, kind)
            await self._answer(run.executor, run.workflow, own.addresses[-1], partly=False)
        wait = self.wait_of(run, step_id, addresses, 0 if late else None, kind)
        expected = self.model.receive(run, wait)
        both = await self.driver.receive_twice(run, wait)
        for told in both:
            if isinstance(expected, Step):
                assert isinstance(told, StoredOutcome)
                assert (plain(told.output), told.error) == (expected.output, expected.error)
            else:
                assert (told if expected is None else type(told)) is expected

    @rule(pick=anyone, stale=rarely, waits=some_waits, timeout=maybe_spans, kind=outcomes)
    def park(
        self, pick: int, stale: bool, waits: list[tuple[str, tuple[str, ...]]], timeout: int | None, kind: str
    ) -> None:
        self._run(self._park(self.run_of(pick, stale=stale), waits, timeout, kind))

    async def _park(
        self, run: Run, waits: list[tuple[str, tuple[str, ...]]], timeout: int | None, kind: str
    ) -> None:
        if all(self.waits_here(run, step_id) for step_id, _ in waits):
            for _, addresses in waits:
                await self._start_awaited(run, addresses)
            own = [self.wait_of(run, step_id, addresses, timeout, kind) for step_id, addresses in waits]
            self.model.park(run, own)
            await self.driver.park(run, own)

    @rule(process=processes, pick=anyone, how=st.sampled_from(["cancel", "claim", "resume", "late"]))
    def disturb(self, process: int, pick: int, how: str) -> None:
        """End a wait without a message: cancel, start by hand or resume the workflow, or let its time pass."""
        if not any(each.waits for each in self.model.workflows):
            self._run(self._begin(process, "second", None))
            self._run(self._park(self.runs[-1], [("w", ("m/paid",)), ("v", ("e/opened",))], 2, "error"))
        waiting = [number for number, each in enumerate(self.model.workflows) if each.waits]
        if not waiting:
            return
        number = waiting[pick % len(waiting)]
        if how == "cancel":
            self._run(self._cancel(process, number, interrupt=False))
        elif how == "claim":
            self._run(self._claim(process, number, None))
        elif how == "resume":
            self.resume(process, len(self.model.workflows) - 1 - number)
        else:
            self._run(self._pass_time(2))
            self._run(self._tick(process, sorted(FUNCTIONS), ["default", "other"], unknown_too=False))

    @rule(process=processes)
    def deliver(self, process: int) -> None:
        self._run(self._deliver(process))

    async def _deliver(self, process: int = 0) -> None:
        await self.join(process)
        assert await self.driver.deliver(process) == self.model.deliver()

    @rule(process=processes)
    def reap(self, process: int) -> None:
        self._run(self._reap(process))

    # Steps that send, set and start

    @rule(
        pick=anyone, to=anyone, stale=rarely, step_id=st.sampled_from(["x", "y"]), topic=topics, sets=st.booleans()
    )
    def talk(self, pick: int, to: int, stale: bool, step_id: str, topic: str, sets: bool) -> None:  # noqa: PLR0917
        run = self.run_of(pick, stale=stale)
        address = f"m/{self.workflow_of(to)}/{topic}"
        sent, event = (address, self.text("message")), ("status", self.text("event"))
        talk = Talk(events=(event,)) if sets else Talk(messages=(sent,))
        self._run(self._talk(run, step_id, talk))

    async def _talk(self, run: Run, step_id: str, talk: Talk) -> None:
        if not self.is_known(run, step_id):
            return
        output = self.text("output")
        ids = await self.driver.draw(run.executor, len(talk.children))
        known = len(self.model.workflows)
        expected = self.model.record_talk(run, step_id, output, talk)
        told = await self.must(self.driver.talk(run, step_id, output, ids, talk), expected)
        if isinstance(expected, Step):
            assert isinstance(told, StoredOutcome)
            assert (told.output, told.error) == (expected.output, expected.error)
        else:
            assert told is (None if isinstance(expected, type) else expected)
        self._name(known, ids, talk.children)

    def is_known(self, run: Run, step_id: str) -> bool:
        """Tell whether a run may execute a step: it has not left it to a later run."""
        workflow = self.model.workflows[run.workflow]
        there = workflow.steps.get(step_id)
        is_left = workflow.epoch == run.epoch and workflow.status != "RUNNING"
        return not is_left and (there is None or there.status != "ERROR" or there.epoch == run.epoch)

    def _name(self, known: int, ids: list[int], children: tuple[Workflow, ...] | list[Workflow]) -> None:
        """Note the ids of new children."""
        for number in range(known, len(self.model.workflows)):
            new = self.model.workflows[number]
            place = next(at for at, each in enumerate(children) if each is new)
            self.came(number, ids[place])

    def children_of(
        self, step_id: str, name: str, queue: str, timeout: int | None, ends: bool
    ) -> tuple[Workflow, ...]:
        return tuple(
            Workflow(name, 0, queue, timeout=timeout, ready=True, place=place, ends_with_parent=ends)
            for place in range(CHILDREN[step_id])
        )

    @rule(
        pick=anyone, stale=rarely, step_id=starting, name=names, queue=queues, timeout=timeouts,
        ends=st.sampled_from([True, True, False]),
    )  # fmt: skip
    def start(  # noqa: PLR0917
        self, pick: int, stale: bool, step_id: str, name: str, queue: str, timeout: int | None, ends: bool
    ) -> None:
        children = self.children_of(step_id, name, queue, timeout, ends)
        self._run(self._talk(self.run_of(pick, stale=stale), step_id, Talk(children=children)))

    @rule(
        pick=anyone, stale=rarely, name=names, queue=queues, places=st.sampled_from([(0,), (0, 1), (1, 2)]),
        goes_on=st.booleans(),
    )  # fmt: skip
    def start_some(  # noqa: PLR0917
        self, pick: int, stale: bool, name: str, queue: str, places: tuple[int, ...], goes_on: bool
    ) -> None:
        """Start some children of a step, as a run does that dies before it has recorded the step, or goes on."""
        run = self.run_of(pick, stale=stale)
        self._run(self._start_some(run, name, queue, places))
        if goes_on:
            self._run(self._talk(run, "t", Talk(children=self.children_of("t", name, queue, None, ends=True))))

    async def _start_some(self, run: Run, name: str, queue: str, places: tuple[int, ...]) -> None:
        there = self.model.workflows[run.workflow].steps.get("t")
        if there is not None or not self.is_known(run, "t"):
            return
        children = [each for each in self.children_of("t", name, queue, None, ends=True) if each.place in places]
        ids = await self.driver.draw(run.executor, len(children))
        known = len(self.model.workflows)
        expected = self.model.start_some(run, "t", children)
        told = await self.must(self.driver.start_some(run, "t", ids, children), expected)
        if not isinstance(expected, type):
            assert told == expected
        self._name(known, ids, children)

    # Sagas and continuations

    @rule(pick=anyone, stale=rarely)
    def open_saga(self, pick: int, stale: bool) -> None:
        run = self.run_of(pick, stale=stale)
        if self.waits_here(run, "saga:1"):
            self._run(self.must(self.driver.open_saga(run), self.model.open_saga(run)))

    @rule(process=processes, steps=undone, name=names, timeout=timeouts)
    def begin_saga(self, process: int, steps: tuple[str, ...], name: str, timeout: int | None) -> None:
        """Begin a workflow whose saga has steps to undo, and park it."""
        self.begin(process, name, timeout)
        run = self.runs[-1]
        self._run(self.must(self.driver.open_saga(run), self.model.open_saga(run)))
        for step_id in steps:
            self.record(0, stale=False, step_id=step_id, kind="output")
        self._run(self._park(run, [("w", ("m/paid",))], 2, "output"))

    @rule(process=processes, pick=anyone, steps=undone)
    def undo(self, process: int, pick: int, steps: tuple[str, ...]) -> None:
        """Run a workflow that unwinds, by the engine."""
        unwinding = [
            number
            for number, each in enumerate(self.model.workflows)
            if each.unwinds
            and each.status == "PENDING"
            and "saga:1" not in each.steps
            and not any(each.steps[own].status == "ERROR" for own in UNDOABLE if own in each.steps)
        ]
        if not unwinding:
            self.begin_saga(process, steps, "first", None)
            unwinding = [len(self.model.workflows) - 1]
            self.cancel(process, 0, interrupt=False)
        self._run(self._undo(process, unwinding[pick % len(unwinding)]))

    async def _undo(self, process: int, number: int) -> None:
        await self.join(process)
        workflow = self.model.workflows[number]
        epoch = self.model.claim(number, process, None)
        assert isinstance(epoch, int)
        error = WorkflowCancelledError if workflow.saga == "CANCELLED" else WorkflowTimeoutError
        self.model.undo(Run(number, epoch, process))
        with pytest.raises(error):
            await self.driver.undo(process, number, workflow.name)

    @rule(pick=anyone, stale=rarely, timeout=timeouts)
    def continue_as_new(self, pick: int, stale: bool, timeout: int | None) -> None:
        self._run(self._continue_as_new(self.run_of(pick, stale=stale), timeout))

    async def _continue_as_new(self, run: Run, timeout: int | None) -> None:
        if not self.waits_here(run, "a new generation"):
            return
        expected = self.model.continue_as_new(run, timeout)
        await self.must(self.driver.continue_as_new(run, timeout), expected)
        if isinstance(expected, int):
            self.kept = {place: output for place, output in self.kept.items() if place[0] != run.workflow}
            self.runs.append(Run(run.workflow, expected, run.executor))
