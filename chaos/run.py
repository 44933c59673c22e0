"""A chaos run: workflows in waves, faults meanwhile, and the comparison at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos.callers import Callers
from chaos.checks import Ledger, Recovery, recoveries
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

AGAIN = 5
"""Number of workflows of the previous wave that each wave enqueues again; the repetition must have no effect."""

Tell = Callable[[str, int, int], None]
"""A callback for progress, with the current activity, the number of ended workflows and the number of faults."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a chaos run; workflows are enqueued and faults injected for `seconds`."""

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
        chance, self._chance = (random.Random(plan.seed + more) for more in (0, 1))  # noqa: S311  # no secret
        self._faults = Faults(server, self._crew, self._tables, chance)
        self._enqueued = 0
        self._done = 0

    async def run(self) -> Result:
        """Run the workload and the faults, and return the results."""
        began = time.monotonic()
        try:
            await self._admin.install()
            await self._tables.make()
            for _ in range(self._plan.workers):
                self._crew.hire()
            await self._faults.wait_for_workers(self._plan.workers, START)
            async with asyncio.TaskGroup() as group:
                callers = Callers(group, random.Random(self._plan.seed + 2))  # noqa: S311  # no secret
                group.create_task(self._enqueue(callers))
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
            own = [number for number in numbers if number % len(FUNCTIONS) == place]
            if own:
                # All of one priority: recovered workflows are claimed first, so a recovery does not queue.
                handles = await self._admin.enqueue_many(function, [(each,) for each in own], key=str)
                await callers.call(function, dict(zip(own, handles, strict=True)))

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
        self._tell(what, await self._tables.ended(), self._done)

    async def _come_to_rest(self) -> None:
        """Wait until all workflows have ended, or the patience is over."""
        deadline = time.monotonic() + self._plan.patience
        while await self._tables.ended() < self._plan.workflows and time.monotonic() < deadline:
            await self._progress("waiting for the rest")
            await asyncio.sleep(0.3)
        await self._progress("comparing")

    async def _result(self, began: float, callers: Callers) -> Result:
        took = time.monotonic() - began
        workflows, steps = await self._tables.workflows(), await self._tables.steps()
        entries, unread = await self._tables.entries(), await self._tables.unread()
        ledger = Ledger.of(workflows, steps, entries, unread, callers.replies)
        damage = self._faults.damage
        violations = [*damage.violations, *ledger.violations(self._plan.workflows)]
        async with Admin(self._dsn) as admin:
            try:
                await admin.verify(deep=True)
            except InvariantError as error:
                violations += error.violations
        found = recoveries(damage.kills, steps, damage.outages)
        return Result(self._plan, took, ledger, damage, self._crew.started, found, violations)
