"""The moves of an operator who limits queues and makes schedules, and of workers that follow them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pgqrs import Rate
from tests.support.model_driver import FUNCTIONS, UNIT
from tests.support.model_flow import Limits, Schedule
from tests.support.model_machine import anyone, names, priorities, processes, queues, some_names, some_queues
from tests.support.model_reference import Workflow
from tests.support.model_talk import TalkingMachine

few = st.sampled_from([None, None, 1, 2])
partition_keys = st.sampled_from(["a", "a", "b"])
schedule_names = st.sampled_from(["nightly", "weekly"])
policies = st.sampled_from(
    [("skip", "last"), ("queue", "last"), ("allow", "last"), ("allow", "all"), ("cancel", "last")]
)


class RegulatedMachine(TalkingMachine):
    """The moves of workflows that talk, in queues with limits, and of schedules."""

    @rule(process=processes, queue=queues, concurrency=few, of_key=few, burst=few)
    def set_queue(
        self, process: int, queue: str, concurrency: int | None, of_key: int | None, burst: int | None
    ) -> None:
        self.model.set_queue(queue, Limits(concurrency, of_key, burst))
        rate = None if burst is None else Rate(1, per=UNIT, burst=burst)
        admin = self.driver.processes[process].admin
        self._run(admin.set_queue(queue, concurrency=concurrency, partition_concurrency=of_key, rate=rate))

    @rule(process=processes, queue=queues, paused=st.booleans())
    def pause_queue(self, process: int, queue: str, paused: bool) -> None:
        admin = self.driver.processes[process].admin
        self._run(admin.pause_queue(queue) if paused else admin.resume_queue(queue))
        self.model.pause_queue(queue, paused=paused)

    @rule(process=processes, queue=queues)
    def delete_queue(self, process: int, queue: str) -> None:
        self._run(self.driver.processes[process].admin.delete_queue(queue))
        self.model.limits.pop(queue, None)

    @rule(
        process=processes,
        name=names,
        queue=queues,
        priority=priorities,
        key=partition_keys,
        count=st.integers(1, 3),
    )
    def enqueue_in_partition(  # noqa: PLR0917
        self, process: int, name: str, queue: str, priority: int, key: str, count: int
    ) -> None:
        new = [Workflow(name, 0, queue, priority=priority, partition_key=key) for _ in range(count)]
        numbers = [self.model.submit(each, None) for each in new]
        options = self.driver.processes[process].admin.options(queue=queue, priority=priority, partition_key=key)
        for number, handle in zip(
            numbers, self._run(options.enqueue_many(FUNCTIONS[name], [(1,)] * count)), strict=True
        ):
            self.came(number, handle.id)

    # Schedules

    @rule(
        process=processes,
        name=schedule_names,
        workflow=names,
        queue=queues,
        policy=policies,
        is_new_rule=st.booleans(),
    )
    def schedule(  # noqa: PLR0917
        self, process: int, name: str, workflow: str, queue: str, policy: tuple[str, str], is_new_rule: bool
    ) -> None:
        overlap, catchup = policy
        self._run(self.driver.schedule(process, name, workflow, queue, overlap, catchup, is_new_rule=is_new_rule))
        new = Schedule(workflow, queue, overlap, catchup, self.model.now + 1)
        self.model.schedule(name, new, is_new_rule=is_new_rule)

    @precondition(lambda self: self.model.schedules)
    @rule(process=processes, pick=anyone, how=st.sampled_from(["pause", "resume", "trigger", "trigger", "delete"]))
    def control(self, process: int, pick: int, how: str) -> None:
        name = sorted(self.model.schedules)[pick % len(self.model.schedules)]
        found = self._run(self.driver.control(process, name, how))
        if how == "pause":
            self.model.schedules[name].paused = True
        elif how == "resume":
            self.model.resume_schedule(name)
        elif how == "delete":
            del self.model.schedules[name]
        else:
            self.came(self.model.start_of(name), found)

    @rule(process=processes, some=some_names, queues=some_queues, units=st.sampled_from([0, 1, 3]))
    def fire(self, process: int, some: list[str], queues: list[str], units: int) -> None:
        """Start what is due, after some time."""
        if units:
            self.pass_time(units)
        self._run(self._fire(process, some, queues))

    async def _fire(self, process: int, some: list[str], queues: list[str]) -> None:
        await self.join(process)
        known = len(self.model.workflows)
        assert await self.driver.fire(process, some, queues) == self.model.fire(some, queues)
        new = await self.driver.new_of_schedules()
        assert len(new) == len(self.model.workflows) - known
        for number, workflow_id in enumerate(new, known):
            self.came(number, workflow_id)
