"""A chaos run: workflows in waves, faults meanwhile, and the comparison at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from chaos.callers import Callers, Handle
from chaos.checks import Ledger, Recovery, recoveries
from chaos.control.limits import Slots
from chaos.control.queues import QUEUES, Placement, Regulator, placement
from chaos.control.schedules import Timetable
from chaos.crew import Crew
from chaos.faults import Damage, Faults
from chaos.server import Server
from chaos.tables import Tables
from chaos.work import FUNCTIONS
from pgqrs import Admin
from pgqrs.errors import InvariantError

WAVE = 0.5
"""Seconds between two waves."""

START = 60.0
"""Maximum seconds to wait for the first workers."""

REST = 3600.0
"""Maximum seconds to wait for the last workflows, however many of them still end."""

AGAIN = 5
"""Number of workflows of the previous wave that each wave enqueues again; the repetition must have no effect."""

Tell = Callable[[str, int, int], None]
"""A callback for progress, with the current activity, the number of ended workflows and the number of faults."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a chaos run; workflows are enqueued and faults injected for `seconds`.

    The run then waits for the last workflows, and gives up when none has ended for `patience` seconds.
    """

    workflows: int
    faults: int
    seconds: float
    workers: int
    seed: int
    patience: float


@dataclass(frozen=True)
class Result:
    """The results of a chaos run."""

    plan: Plan
    took: float
    ledger: Ledger
    slots: Slots
    damage: Damage
    started: int
    recoveries: list[Recovery]
    violations: list[str]


class Chaos:
    """The parts of a chaos run."""

    def __init__(self, plan: Plan, server: Server, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        self._dsn = server.dsn
        self._admin = Admin(server.dsn, outage_timeout=120)
        self._tables = Tables(server.dsn)
        self._crew = Crew(server.dsn, server.folder)
        chance, self._chance, turns = (random.Random(plan.seed + more) for more in (0, 1, 3))  # noqa: S311  # no secret
        self._faults = Faults(server, self._crew, self._tables, chance)
        self._regulator = Regulator(self._admin, turns)
        self._timetable = Timetable(self._admin)
        self._enqueued = 0
        self._done = 0

    async def run(self) -> Result:
        """Run the workload and the faults, and return the results."""
        began = time.monotonic()
        try:
            await self._admin.install()
            await self._tables.make()
            await self._regulator.begin()
            for _ in range(self._plan.workers):
                self._crew.hire()
            await self._faults.wait_for_workers(self._plan.workers, START)
            async with asyncio.TaskGroup() as group:
                callers = Callers(group, random.Random(self._plan.seed + 2))  # noqa: S311  # no secret
                await self._timetable.begin(self._plan.seconds)
                group.create_task(self._enqueue(callers))
                group.create_task(self._regulator.regulate(self._plan.seconds))
                group.create_task(self._strike())
            await self._faults.settle()
            await self._come_to_rest()
            await callers.ask_all()
            return await self._result(began, callers)
        finally:
            self._crew.close()
            await self._tables.close()
            await self._admin.close()

    async def _enqueue(self, callers: Callers) -> None:
        """Enqueue all workflows in waves over the whole time, some of them twice."""
        plan, began = self._plan, time.monotonic()
        while self._enqueued < plan.workflows:
            share = min(1.0, (time.monotonic() - began + WAVE) / plan.seconds)
            first, last = self._enqueued, max(self._enqueued + 1, round(share * plan.workflows))
            last = min(last, plan.workflows)
            await self._enqueue_wave(list(range(max(0, first - AGAIN), last)), callers)
            self._enqueued = last
            await asyncio.sleep(WAVE)

    async def _enqueue_wave(self, numbers: list[int], callers: Callers) -> None:
        for place, function in enumerate(FUNCTIONS):
            placed: dict[Placement, list[int]] = defaultdict(list)
            for number in numbers:
                if number % len(FUNCTIONS) == place:
                    placed[placement(number)].append(number)
            handles: dict[int, Handle] = {}
            for (queue, key), own in placed.items():
                # All of one priority: recovered workflows are claimed first, so a recovery does not queue.
                submitter = self._admin.options(queue=queue, partition_key=key)
                found = await submitter.enqueue_many(function, [(each,) for each in own], key=str)
                handles |= zip(own, found, strict=True)
            if handles:
                await callers.call(function, handles)

    async def _strike(self) -> None:
        plan = self._plan
        planned = self._faults.plan(plan.faults)
        moments = sorted(self._chance.uniform(0.0, plan.seconds) for _ in planned)
        began = time.monotonic()
        for kind, moment in zip(planned, moments, strict=True):
            await self._wait_until(began + moment)
            await self._faults.inject(kind)
            self._done += 1
            await self._progress(kind)

    async def _wait_until(self, moment: float) -> None:
        while (rest := moment - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 1.0))
            await self._progress("")

    async def _progress(self, what: str) -> None:
        await self._faults.replace_fallen()
        self._tell(what, (await self._tables.ended()).enqueued, self._done)

    async def _come_to_rest(self) -> None:
        """Wait until all workflows have ended, or none has ended for long: a backlog may be large."""
        latest, before = time.monotonic(), 0
        end = latest + REST
        while time.monotonic() < min(latest + self._plan.patience, end):
            ended = await self._tables.ended()
            if ended.enqueued >= self._plan.workflows and not await self._tables.scheduled():
                break
            if ended.total > before:
                latest, before = time.monotonic(), ended.total
            await self._progress("waiting for the rest")
            await asyncio.sleep(0.3)
        await self._progress("comparing")

    async def _result(self, began: float, callers: Callers) -> Result:
        took = time.monotonic() - began
        workflows, steps = await self._tables.workflows(), await self._tables.steps()
        entries, unread = await self._tables.entries(), await self._tables.unread()
        ledger = Ledger.of(workflows, steps, entries, unread, callers.replies)
        exclusive = {each.name for each in QUEUES if each.is_exclusive}
        slots = Slots.of(await self._tables.slots(), self._regulator.changes, exclusive)
        damage = self._faults.damage
        violations = [
            *damage.violations,
            *ledger.violations(self._plan.workflows),
            *slots.violations(entries),
            *self._timetable.violations(workflows),
        ]
        async with Admin(self._dsn) as admin:
            try:
                await admin.verify(deep=True)
            except InvariantError as error:
                violations += error.violations
        found = recoveries(damage.kills, steps, damage.outages)
        return Result(self._plan, took, ledger, slots, damage, self._crew.started, found, violations)
