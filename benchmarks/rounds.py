"""The rounds: each system in turn with the same work, on an empty database of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.server import Server
from benchmarks.systems import OURS, PEERS, ROOT, SYSTEMS, System, environment
from benchmarks.works import CLAIMS, LIMITED_CLAIMS, WORKS, Filling, Work

Measurement = dict[str, Any]

PATIENCE = 300


@dataclass(frozen=True)
class Plan:
    """The parameters of a benchmark."""

    rounds: int
    works: tuple[str, ...]
    systems: tuple[str, ...]
    quick: bool

    @property
    def fillings(self) -> dict[str, Filling]:
        """The content of the tables before each work, by the work's name."""
        found = ((name, WORKS[name].filled) for name in self.works)
        return {name: filled.size(quick=self.quick) for name, filled in found if filled is not None}

    def turns(self, number: int) -> Iterator[tuple[Work, System]]:
        """Yield the works and systems of a round; the first system changes from round to round."""
        for name in self.works:
            work = WORKS[name]
            taking_part = [SYSTEMS[each] for each in work.systems if each in self.systems]
            first = number % len(taking_part)
            for system in taking_part[first:] + taking_part[:first]:
                yield work, system


def run_rounds(server: Server, plan: Plan, tell: Callable[[str], None]) -> list[Measurement]:
    """Run all rounds, and return the measurements; a system that fails is reported and missing in its round."""
    for filling in plan.fillings.values():
        began = perf_counter()
        _fill(server, filling)
        seconds = perf_counter() - began
        tell(f"filled with {filling.finished:,} finished and {filling.queued:,} queued ones in {seconds:.0f} s")
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
            tell(f"  {work.name:10} {system.label:22} {_told(measured)}")
    return measurements


def _told(measured: Measurement) -> str:
    if "claim" in measured:
        return f"{1000 * measured['claim']:.2f} ms a claim"
    if "seconds_to_fire" in measured:
        return f"{measured['seconds_to_fire']:.2f} s to start, {measured['seconds_to_end']:.2f} s to end"
    if "median_ms" in measured:
        return f"median {measured['median_ms']:.1f} ms, p99 {measured['p99_ms']:.1f} ms"
    return f"{measured['steps'] / measured['seconds']:>9,.0f} /s  in {measured['seconds']:.2f} s"


def _fill(server: Server, filling: Filling) -> None:
    server.create(filling.database)
    _run(server, OURS, filling.database, "install", (0, 0, 0))
    server.fill(filling.database, filling)


def _measure(server: Server, work: Work, system: System, *, quick: bool) -> Measurement:
    filling = work.filled
    database = f"bench_{system.name}" if filling is None else filling.database
    if filling is None:
        server.create(database)
    elif work.name in (*CLAIMS, *LIMITED_CLAIMS):
        server.vacuum(database)
    server.checkpoint()
    workflows, steps = work.size(system.name, quick=quick)
    measured = _run(server, system, database, work.name, (workflows, work.concurrency, steps, work.workers))
    if work.name == "w2" and system is OURS:
        updates, hot = server.hot_updates(database)
        measured |= {"updates": updates, "hot_updates": hot}
    if filling is None:
        server.drop(database)
    return measured | {"concurrency": work.concurrency}


def _run(server: Server, system: System, database: str, work: str, size: tuple[int, ...]) -> Measurement:
    """Run the program of a system, which prints a line of JSON."""
    options = ("--dsn", server.dsn(database), "--work", work)
    sizes = zip(("--workflows", "--concurrency", "--steps", "--workers"), map(str, size), strict=False)
    command = [system.python(), str(PEERS / system.program), *options, *(part for pair in sizes for part in pair)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, timeout=PATIENCE, cwd=ROOT, env=environment()
    )
    measured: Measurement = json.loads(done.stdout.splitlines()[-1])
    return measured
