"""The state machine that moves pgqrs and a plain model of it side by side: workflows, steps, executors, the clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowFencedError
from pgqrs.storage.records import StoredOutcome
from tests.support.model_driver import FUNCTIONS, PATIENCE, UNIT, Driver, plain, signs, text
from tests.support.model_flow import Flow
from tests.support.model_reference import OVER, Claimed, Run, Workflow

T = TypeVar("T")

PROCESSES = 3
LONG_DEAD = "which has long been dead"
"""The violation that is none here: time passes by leaps, and nobody has looked at the queues since."""

processes = st.integers(0, PROCESSES - 1)
anyone = st.integers(0, 999)
names = st.sampled_from(sorted(FUNCTIONS))
some_names = st.sampled_from([["first"], ["second"], ["first", "second"], ["first", "second"]])
some_queues = st.sampled_from([["default"], ["other"], ["default", "other"], ["default", "other"]])
queues = st.sampled_from(["default", "default", "other"])
step_ids = st.sampled_from(["a", "b", "c"])
some_steps = st.sampled_from([(), ("a",), ("a", "b"), ("c", "a")])
priorities = st.sampled_from([0, 0, 0, -1, 5])
keys = st.sampled_from([None, None, "k", "l"])
spans = st.integers(1, 3)
maybe_spans = st.none() | spans
timeouts = st.none() | st.integers(1, 5)
rarely = st.sampled_from([False, False, False, True])


def differences(real: dict[Any, Any], model: dict[Any, Any]) -> dict[Any, Any]:
    """Return what pgqrs and the model have under each key where they differ."""
    return {key: (real.get(key), model.get(key)) for key in real | model if real.get(key) != model.get(key)}


class PgqrsMachine(RuleBasedStateMachine):
    """The moves of three processes, an operator and the clock."""

    def __init__(self, runner: asyncio.Runner, driver: Driver) -> None:
        super().__init__()
        self._run = runner.run
        self.driver = driver
        self.model = Flow(PROCESSES)
        self.runs: list[Run] = []
        self.ticked: set[int] = set()
        self.kept: dict[tuple[int, str], str | None] = {}
        self._texts = 0
        self._run(driver.clear())

    def teardown(self) -> None:
        self._run(self._come_to_rest())

    # Helpers

    def text(self, kind: str) -> str:
        self._texts += 1
        return text(kind, self._texts)

    async def must(self, real: Coroutine[Any, Any, T], answer: object) -> T | None:
        """Await the library's answer; where the model's is an error's class, it must be that error."""
        if isinstance(answer, type) and issubclass(answer, Exception):
            with pytest.raises(answer):
                await real
            return None
        return await real

    def workflow_of(self, pick: int) -> int:
        return len(self.model.workflows) - 1 - pick % len(self.model.workflows)

    def run_of(self, pick: int, *, stale: bool) -> Run:
        """Choose a run: a current one unless `stale`, where there are such; begin one where there is none.

        No rule about runs has a precondition: what is drawn must not depend on which of two processes was faster.
        """
        if not self.runs:
            self.begin(process=0, name="first", timeout=None)
        wanted = [each for each in self.runs if self.is_current(each) is not stale] or self.runs
        return wanted[len(wanted) - 1 - pick % len(wanted)]

    def is_current(self, run: Run) -> bool:
        workflow = self.model.workflows[run.workflow]
        return workflow.epoch == run.epoch and workflow.status == "RUNNING"

    async def join(self, process: int) -> None:
        """Let a process that has stopped, or was forgotten, show itself before it starts something."""
        executor = self.model.executors[process]
        if executor.stopped or not executor.known:
            await self._come_back(process)

    async def _come_back(self, process: int) -> None:
        await self.driver.come_back(process)
        self.model.beat(process)

    def came(self, number: int, workflow_id: int) -> None:
        """Note the id of what was submitted: a new one for a new workflow."""
        if number < len(self.driver.ids):
            assert self.driver.ids[number] == workflow_id, "one key, one workflow"
        else:
            assert workflow_id not in self.driver.ids
            self.driver.ids.append(workflow_id)
            self.model.workflows[number].id = workflow_id

    def took(self, claimed: Claimed, process: int) -> None:
        self.runs.append(Run(claimed.workflow, claimed.epoch, process))

    # Submitting

    @rule(
        process=processes,
        name=names,
        queue=queues,
        priority=priorities,
        key=keys,
        delay=maybe_spans,
        timeout=timeouts,
    )
    def enqueue(  # noqa: PLR0917
        self,
        process: int,
        name: str,
        queue: str,
        priority: int,
        key: str | None,
        delay: int | None,
        timeout: int | None,
    ) -> None:
        number = self.model.submit(Workflow(name, 0, queue, key, priority, timeout), delay)
        submitter = self.driver.processes[process].admin.options(
            key=key,
            queue=queue,
            priority=priority,
            delay=None if delay is None else delay * UNIT,
            timeout=None if timeout is None else timeout * UNIT,
            on_conflict="ignore",
        )
        handle = self._run(submitter.enqueue(FUNCTIONS[name], 1))
        self.came(number, handle.id)

    @rule(
        process=processes,
        name=names,
        queue=queues,
        priority=priorities,
        some=st.lists(keys, min_size=1, max_size=4),
    )
    def enqueue_many(self, process: int, name: str, queue: str, priority: int, some: list[str | None]) -> None:
        options = {"queue": queue, "priority": priority, "on_conflict": "ignore"}
        submitter = self.driver.processes[process].admin.options(**options)
        keyed = all(key is not None for key in some)
        texts = [key if keyed and key else None for key in some]
        numbers = [self.model.submit(Workflow(name, 0, queue, key, priority), None) for key in texts]
        many = submitter.enqueue_many(
            FUNCTIONS[name],
            [(number,) for number in range(len(some))],
            key=(lambda number: str(texts[number])) if keyed else None,
        )
        for number, handle in zip(numbers, self._run(many), strict=True):
            self.came(number, handle.id)

    @rule(process=processes, name=names)
    def create(self, process: int, name: str) -> None:
        number = self.model.create(name)
        context = self._run(self.driver.processes[process].admin.create_workflow(name))
        self.came(number, context.id())

    @rule(process=processes, name=names, timeout=timeouts)
    def begin(self, process: int, name: str, timeout: int | None) -> None:
        self._run(self._begin(process, name, timeout))

    async def _begin(self, process: int, name: str, timeout: int | None) -> None:
        await self.join(process)
        run = self.model.begin(name, process, timeout)
        seconds = None if timeout is None else timeout * UNIT
        workflow_id, claim = await self.driver.processes[process].store.create_and_claim(name, "{}", seconds)
        assert claim.epoch == run.epoch
        self.came(run.workflow, workflow_id)
        self.runs.append(run)

    # Claiming

    @rule(process=processes, some=some_names, queues=some_queues, limit=st.integers(0, 3))
    def claim_ready(self, process: int, some: list[str], queues: list[str], limit: int) -> None:
        self._run(self._claim_ready(process, some, queues, limit))

    async def _claim_ready(self, process: int, some: list[str], queues: list[str], limit: int) -> None:
        await self.join(process)
        least, most = self.model.bounds(some, queues, limit)
        found = await self.driver.claim_ready(process, some, queues, limit)
        taken = [each.workflow for each in found]
        assert least <= len(taken) <= most
        self.model.check_order(some, queues, taken)
        in_order = [each for each in self.model.claimable(some, queues) if each in taken]
        expected = self._start(in_order, process)
        assert found == expected
        for each in expected:
            self.took(each, process)
            await self._check_history(process, each.workflow)

    def _start(self, numbers: list[int], process: int) -> list[Claimed]:
        self.model.check_rooms(numbers)
        self.model.spend(numbers)
        return [self.model.claim_ready(number, process) for number in numbers]

    @rule(limit=st.integers(1, 2), order=st.permutations(range(PROCESSES)))
    def claim_at_once(self, limit: int, order: list[int]) -> None:
        self._run(self._claim_at_once(limit, order[:2]))

    async def _claim_at_once(self, limit: int, order: list[int]) -> None:
        everything = sorted(FUNCTIONS), ["default", "other"]
        for process in order:
            await self.join(process)
        ready = self.model.claimable(*everything)
        claims = (self.driver.claim_ready(process, *everything, limit) for process in order)
        answers = await asyncio.gather(*claims)
        taken = [each for answer in answers for each in answer]
        assert len({each.workflow for each in taken}) == len(taken), "one run, one executor"
        assert (
            self.model.bounds(*everything, limit)[0] <= len(taken) <= self.model.bounds(*everything, 2 * limit)[1]
        )
        assert {each.workflow for each in taken} <= {*ready}
        self.model.check_rooms([each.workflow for each in taken])
        for process, answer in zip(order, answers, strict=True):
            assert self._start([each.workflow for each in answer], process) == answer
            for each in answer:
                self.took(each, process)

    @precondition(lambda self: self.model.workflows)
    @rule(process=processes, pick=anyone, timeout=timeouts)
    def claim(self, process: int, pick: int, timeout: int | None) -> None:
        self._run(self._claim(process, self.workflow_of(pick), timeout))

    async def _claim(self, process: int, number: int, timeout: int | None) -> None:
        await self.join(process)
        await self._doubt()
        expected = self.model.claim(number, process, timeout)
        seconds = None if timeout is None else timeout * UNIT
        claimed = await self.must(
            self.driver.processes[process].store.claim(self.driver.ids[number], seconds), expected
        )
        await self.driver.hold_suspicions()
        if claimed is not None and claimed.succeeded:
            assert claimed.output == expected
        elif claimed is not None:
            assert claimed.epoch == expected
            self.runs.append(Run(number, claimed.epoch, process))
            await self._check_history(process, number)

    async def _doubt(self) -> None:
        """Have suspected whoever shows no life, long enough for a start by hand or a cancellation to believe it."""
        self.model.suspect()
        await self.driver.wait_out(self.model.silent)

    async def _check_history(self, process: int, number: int) -> None:
        history = await self.driver.processes[process].store.history(self.driver.ids[number])
        outcomes = {id_: (plain(each.output), each.error) for id_, each in history.outcomes.items()}
        failed = {id_: each.failures for id_, each in history.failed.items()}
        assert (outcomes, failed) == self.model.history(number)

    # What runs write

    @rule(pick=anyone, stale=rarely, step_id=step_ids, kind=st.sampled_from(["output", "output", "error", "mark"]))
    def record(self, pick: int, stale: bool, step_id: str, kind: str) -> None:
        run = self.run_of(pick, stale=stale)
        output = self.text("output") if kind == "output" else None
        error = self.text("error") if kind == "error" else None
        expected = self.model.record(run, step_id, output, error)
        told = self._run(self.must(self.driver.record(run, step_id, output, error), expected))
        if told is not None:
            assert (told.output, told.error) == (expected.output, expected.error)

    @rule(pick=anyone, step_id=step_ids)
    def record_twice(self, pick: int, step_id: str) -> None:
        self._run(self._record_twice(self.run_of(pick, stale=False), step_id))

    async def _record_twice(self, run: Run, step_id: str) -> None:
        texts = [self.text("output"), self.text("output")]
        outcomes = [await self.driver.outcome(run, step_id, output, None) for output in texts]
        told = await asyncio.gather(
            *(self.driver.recording(each, run.executor) for each in outcomes), return_exceptions=True
        )
        expected = self.model.record(run, step_id, texts[0], None)
        if isinstance(expected, type):
            assert [type(each) for each in told] == [expected, expected]
        else:
            assert told == [StoredOutcome(expected.output, expected.error)] * 2

    @rule(pick=anyone, stale=rarely, step_id=step_ids, delay=spans, again=rarely)
    def fail(self, pick: int, stale: bool, step_id: str, delay: int, again: bool) -> None:
        run = self.run_of(pick, stale=stale)
        there = self.model.workflows[run.workflow].steps.get(step_id)
        if there is not None and there.status == "SUCCESS" and there.epoch < run.epoch:
            return  # a run that has read its history never executes it
        failures = (there.failures if there else 0) + (not again)
        error = self.text("error")
        expected = self.model.fail(run, step_id, error, max(1, failures), delay)
        self._run(self.must(self.driver.fail(run, step_id, error, max(1, failures), delay), expected))

    @rule(
        pick=anyone, stale=rarely, wait=spans, retries=st.none() | st.integers(1, 3),
        status=st.sampled_from(["WAITING", "WAITING", "PENDING", "RUNNING", "CANCELLED"]),
    )  # fmt: skip
    def leave(self, pick: int, stale: bool, wait: int, retries: int | None, status: str) -> None:
        run = self.run_of(pick, stale=stale)
        error = None if retries is None else self.text("error")
        waited = wait if status == "WAITING" else None
        self.model.leave(run, status, waited, retries, error)
        self._run(self.driver.leave(run, status, waited, retries, error))

    @rule(pick=anyone, stale=rarely, fails=st.booleans(), reopen=some_steps)
    def end(self, pick: int, stale: bool, fails: bool, reopen: tuple[str, ...]) -> None:
        run = self.run_of(pick, stale=stale)
        output, error = (None, self.text("error")) if fails else (self.text("output"), None)
        reopened = reopen if fails else ()
        expected = self.model.end(run, output, error, reopened)
        self._run(self.must(self.driver.end(run, output, error, reopened), expected))

    @rule(pick=anyone, step_id=step_ids)
    def record_while_taken_over(self, pick: int, step_id: str) -> None:
        """A run records a step while its own executor starts the workflow again: one of them comes first."""
        self._run(self._record_while_taken_over(self.run_of(pick, stale=False), step_id))

    async def _record_while_taken_over(self, run: Run, step_id: str) -> None:
        process = run.executor
        workflow = self.model.workflows[run.workflow]
        if workflow.executor != process:
            return
        await self.join(process)
        output = self.text("output")
        outcome = await self.driver.outcome(run, step_id, output, None)
        start = self.driver.processes[process].store.claim(self.driver.ids[run.workflow])
        recorded, claimed = await asyncio.gather(
            self.driver.recording(outcome, process), start, return_exceptions=True
        )
        assert not isinstance(claimed, BaseException), claimed
        if isinstance(recorded, StoredOutcome):
            there: Any = self.model.record(run, step_id, output, None)
            assert recorded == StoredOutcome(there.output, there.error)
        else:
            assert isinstance(recorded, WorkflowFencedError)
        assert self.model.claim(run.workflow, process, None) == claimed.epoch
        self.runs.append(Run(run.workflow, claimed.epoch, process))

    # The operator

    @precondition(lambda self: self.model.workflows)
    @rule(process=processes, pick=anyone, interrupt=st.booleans())
    def cancel(self, process: int, pick: int, interrupt: bool) -> None:
        self._run(self._cancel(process, self.workflow_of(pick), interrupt=interrupt))

    async def _cancel(self, process: int, number: int, *, interrupt: bool) -> None:
        await self._doubt()
        answer = self.model.cancel(number, interrupt=interrupt)
        told = answer if isinstance(answer, int) else None
        await self.must(self.driver.cancel(process, number, interrupt=interrupt, told=told), answer)
        await self.driver.hold_suspicions()

    @precondition(lambda self: self.model.workflows)
    @rule(process=processes, pick=anyone)
    def resume(self, process: int, pick: int) -> None:
        number = self.workflow_of(pick)
        answer = self.model.resume(number)
        self._run(self.must(self.driver.processes[process].admin.resume_workflow(self.driver.ids[number]), answer))

    # Life, death and the clock

    @rule(pick=anyone, how=st.sampled_from(["freeze", "lose_lock", "stop", "cut"]))
    def strike(self, pick: int, how: str) -> None:
        """Stop a process with SIGSTOP, kill it, stop it in order, or cut its pulse's connection."""
        living = [number for number, each in enumerate(self.model.executors) if each.beats]
        if not living:
            return
        process = living[pick % len(living)]
        executor = self.model.executors[process]
        self._run(getattr(self.driver, how)(process))
        if how == "freeze":
            executor.beats, executor.expires, executor.suspected = False, self.model.now, self.model.now - 1
        elif how == "lose_lock":
            executor.beats, executor.locked = False, False
        elif how == "stop":
            self.model.stop(process)
            self.ticked.discard(process)
        else:
            self.model.beat(process)

    @rule(pick=anyone)
    def come_back(self, pick: int) -> None:
        gone = [number for number, each in enumerate(self.model.executors) if not each.beats]
        if gone:
            self._run(self._come_back(gone[pick % len(gone)]))

    @rule(units=st.sampled_from([1, 1, 2, 3, 10]))
    def pass_time(self, units: int) -> None:
        self._run(self._pass_time(units))

    async def _pass_time(self, units: int) -> None:
        beating = [number for number, each in enumerate(self.model.executors) if each.beats]
        await self.driver.pass_time(units, beating)
        self.model.pass_time(units)

    @rule(process=processes, some=some_names, queues=some_queues, unknown_too=rarely)
    def tick(self, process: int, some: list[str], queues: list[str], unknown_too: bool) -> None:
        self._run(self._tick(process, some, queues, unknown_too=unknown_too))

    async def _tick(self, process: int, some: list[str], queues: list[str], *, unknown_too: bool) -> None:
        await self.join(process)
        has_due = bool(self.model.due(some, queues))
        expected = self.model.tick(some, queues, unknown_too=unknown_too)
        if unknown_too:
            self.model.delete_received()
        found = await self.driver.tick(process, some, queues, unknown_too=unknown_too)
        assert found.has_due_schedules is has_due
        await self.driver.hold_suspicions()
        left = None if found.next_due is None else round(found.next_due / UNIT)
        assert found._replace(next_due=left)[: len(expected)] == expected

    # What must hold

    @invariant()
    def the_tables_are_the_models(self) -> None:
        self._run(self._compare())

    async def _compare(self) -> None:
        model = self.model
        expected = [self._seen(each) for each in model.workflows]
        assert await self.driver.workflows() == expected
        steps = {
            (number, id_): replace(step, retry_at=None if step.retry_at is None else step.retry_at - model.now)
            for number, workflow in enumerate(model.workflows)
            for id_, step in workflow.steps.items()
        }
        assert differences(await self.driver.steps(), steps) == {}
        messages = [replace(each, taken=None if each.taken is None else 0) for each in model.messages]
        assert await self.driver.messages() == messages
        assert await self.driver.events() == model.events
        assert await self.driver.queues() == model.listed()
        assert await self.driver.schedules(model.now) == model.schedules
        assert await self.driver.executors(model) == [signs(each) for each in model.executors]
        for place, step in steps.items():
            if place in self.kept or step.status == "SUCCESS":
                assert (step.status, step.output) == ("SUCCESS", self.kept.setdefault(place, step.output))

    def _seen(self, workflow: Workflow) -> Workflow:
        due, deadline = (
            None if each is None else each - self.model.now for each in (workflow.due, workflow.deadline)
        )
        return replace(workflow, due=due, deadline=deadline, steps={}, reaps=False)

    async def _come_to_rest(self) -> None:
        """Let whoever died be noticed; then nothing may be amiss, and what has ended gives its result."""
        assert [each for each in await self.driver.violations() if LONG_DEAD not in each] == []
        everything = sorted(FUNCTIONS), ["default", "other"]
        await self._reap(0)
        await self._tick(0, *everything, unknown_too=True)
        await self._pass_time(1)
        await self._tick(0, *everything, unknown_too=True)
        await self._compare()
        assert await self.driver.violations() == []
        for workflow in self.model.workflows:
            assert workflow.executor is None or self.model.seems_alive(workflow.executor)
            if workflow.status in OVER:
                await self._check_result(workflow)

    async def _reap(self, process: int) -> None:
        """Deliver the messages, and end the children of ended parents."""
        await self.join(process)
        assert await self.driver.deliver(process) == self.model.deliver()
        await self.driver.reap(process)
        self.model.reap()
        self.model.deliver()

    async def _check_result(self, workflow: Workflow) -> None:
        result = self.driver.processes[2].admin.handle(workflow.id).result(timeout=PATIENCE)
        if workflow.status == "SUCCESS":
            assert await result == json.loads(workflow.output or "null")
        elif workflow.status == "CANCELLED":
            with pytest.raises(WorkflowCancelledError):
                await result
        else:
            with pytest.raises(PgqrsError):
                await result
