"""The rounds: every system in turn on the same work, on an empty database of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.server import Server
from benchmarks.systems import OURS, PEERS, ROOT, SYSTEMS, System, environment
from benchmarks.works import FINISHED_WORKFLOWS, QUICK_FINISHED_WORKFLOWS, WORKS, Work

Measurement = dict[str, Any]

PATIENCE = 300
FILLED = "bench_filled"
FILL_STEPS = 5


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    rounds: int
    works: tuple[str, ...]
    systems: tuple[str, ...]
    quick: bool

    @property
    def finished_workflows(self) -> int:
        """How many finished workflows W6 finds in the tables."""
        return QUICK_FINISHED_WORKFLOWS if self.quick else FINISHED_WORKFLOWS

    def turns(self, number: int) -> Iterator[tuple[Work, System]]:
        """Yield whose turn it is in a round; who begins changes from round to round."""
        for name in self.works:
            work = WORKS[name]
            taking_part = [SYSTEMS[each] for each in work.systems if each in self.systems]
            first = number % len(taking_part)
            for system in taking_part[first:] + taking_part[:first]:
                yield work, system


def run_rounds(server: Server, plan: Plan, tell: Callable[[str], None]) -> list[Measurement]:
    """Run everything; return what was measured. A system that fails is told and left out of that round."""
    if "w6" in plan.works:
        tell(f"filling the tables with {plan.finished_workflows:,} finished workflows ...")
        _fill(server, plan.finished_workflows)
    measurements = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        for work, system in plan.turns(number):
            try:
                measured = _measure(server, work, system, quick=plan.quick)
            except (subprocess.SubprocessError, ValueError) as error:
                tell(f"  {work.name}  {system.label}: FAILED ({type(error).__name__})")
                continue
            measurements.append({"round": number, "work": work.name, "system": system.name, **measured})
            rate = measured["steps"] / measured["seconds"]
            tell(f"  {work.name}  {system.label:22} {rate:>9,.0f} /s  in {measured['seconds']:.2f} s")
    return measurements


def _fill(server: Server, workflows: int) -> None:
    server.create(FILLED)
    _run(server, OURS, FILLED, "install", (0, 0, 0))
    server.fill(FILLED, workflows, FILL_STEPS)


def _measure(server: Server, work: Work, system: System, *, quick: bool) -> Measurement:
    database = FILLED if work.name == "w6" else f"bench_{system.name}"
    if database != FILLED:
        server.create(database)
    server.checkpoint()
    workflows, steps = work.size(system.name, quick=quick)
    measured = _run(server, system, database, work.name, (workflows, work.concurrency, steps))
    if work.name == "w2" and system is OURS:
        updates, hot = server.hot_updates(database)
        measured |= {"updates": updates, "hot_updates": hot}
    if database != FILLED:
        server.drop(database)
    return measured | {"concurrency": work.concurrency}


def _run(server: Server, system: System, database: str, work: str, size: tuple[int, int, int]) -> Measurement:
    """Run a system's program; it prints one line of JSON."""
    options = ("--dsn", server.dsn(database), "--work", work)
    sizes = zip(("--workflows", "--concurrency", "--steps"), map(str, size), strict=True)
    command = [system.python(), str(PEERS / system.program), *options, *(part for pair in sizes for part in pair)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, timeout=PATIENCE, cwd=ROOT, env=environment()
    )
    measured: Measurement = json.loads(done.stdout.splitlines()[-1])
    return measured
