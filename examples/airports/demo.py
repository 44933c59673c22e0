"""The demo: one process is killed in the middle of a step, another carries its workflow on.

``python -m examples.airports.demo [--dsn postgresql://...]``; without a DSN it starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from examples.airports.check import Check, check
from examples.airports.models import Airport, StepRun, create_tables
from examples.airports.run import connect
from pgqrs import Admin, embedded
from pgqrs.types import StepStatus

KILLED_IN = "transform:Europe"

console = Console(highlight=False)


class Worker:
    """A process that runs the workflow, as its parent sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.workflow_id = 0
        self.result: dict[str, Any] = {}

    @classmethod
    async def start(cls, dsn: str, *arguments: str) -> Worker:
        """Start the process; with a workflow's id it carries that one on."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.airports.run", *arguments),
            env={**os.environ, "PGQRS_DSN": dsn},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def progress(self) -> AsyncIterator[tuple[str, int, int]]:
        """Yield how far which step is; the process goes on when the next one is asked for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            self.workflow_id = message.get("workflow", self.workflow_id)
            self.result = message.get("result", self.result)
            if "step" in message:
                yield message["step"], message["done"], message["total"]
            self._process.stdin.write(b"go on\n")

    async def kill(self) -> int:
        """Send SIGKILL; return the signal that the process really ended by."""
        self._process.kill()
        return -await self._process.wait()

    async def end(self) -> None:
        """Wait for the process to end by itself, with a result."""
        code = await self._process.wait()
        if code != 0 or not self.result:
            raise SystemExit(f"process {self.pid} ended with exit code {code}")


async def main(dsn: str) -> int:
    """Run the demo; return its exit code."""
    engine = connect(dsn)
    try:
        await create_tables(engine)
        first = await Worker.start(dsn)
        console.print(f"\n[bold]Process {first.pid} starts the workflow[/]")
        await _watch(first, kill_in=KILLED_IN)
        console.print(f"  left behind: {await _left_behind(engine, first.workflow_id)}", soft_wrap=True)

        second = await Worker.start(dsn, str(first.workflow_id))
        console.print(f"\n[bold]Process {second.pid} carries workflow {first.workflow_id} on[/]")
        await _watch(second)

        counted = await _counted(engine, first, second)
        return _verdict([*counted, *await check(engine)], second.result)
    finally:
        await engine.dispose()


async def _watch(worker: Worker, *, kill_in: str | None = None) -> None:
    """Show the progress of the process; kill it once it has stored half of what the step `kill_in` stores."""
    began = time.perf_counter()
    columns = (
        TextColumn("  {task.description:22}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[rows]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", rows="")
        async for step_id, done, total in worker.progress():
            rows = f"{done:,} of {total:,} rows" if total else ""
            bars.update(task, description=step_id, completed=done, total=total or 1, rows=rows)
            if done == 0:
                began = time.perf_counter()
            elif done == total:
                seconds = time.perf_counter() - began
                bars.print(f"  {step_id:22} {done:>6,} rows  {seconds:5.2f} s")
            elif step_id == kill_in and done >= total / 2:
                number = await worker.kill()
                bars.print(f"  {step_id:22} {rows:>20}: [red]killed by signal {number}[/]")
                return
    await worker.end()


async def _left_behind(engine: AsyncEngine, workflow_id: int) -> str:
    """Tell what the killed process left in the database."""
    status = await _recorded(engine, workflow_id)
    finished = sum(state == StepStatus.SUCCESS for state in status.values())
    async with AsyncSession(engine) as session:
        stored = len((await session.scalars(select(Airport.icao))).all())
    interrupted = status.get(KILLED_IN, "not recorded")
    return f"{finished} finished steps, {stored:,} airports; {KILLED_IN} is {interrupted}"


async def _recorded(engine: AsyncEngine, workflow_id: int) -> dict[str, StepStatus]:
    """Return what pgqrs has recorded of each step."""
    async with Admin(engine) as admin:
        return {record.step_id: record.status for record in await admin.list_steps(workflow_id)}


async def _counted(engine: AsyncEngine, first: Worker, second: Worker) -> list[Check]:
    """Show which step ran how many times in which process; return what should be so."""
    async with AsyncSession(engine) as session:
        runs = (await session.scalars(select(StepRun).order_by(StepRun.id))).all()
    status = await _recorded(engine, first.workflow_id)
    ran = Counter((run.step_id, run.pid) for run in runs)
    times = Counter(run.step_id for run in runs)
    table = Table("step", f"process {first.pid}", f"process {second.pid}", "ran", "recorded", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    for step_id, count in times.items():
        by_process = [str(ran[step_id, worker.pid] or "") for worker in (first, second)]
        recorded = status.get(step_id, "no")
        table.add_row(step_id, *by_process, str(count), recorded, style="yellow" if count > 1 else "")
    console.print("\n[bold]How often each step's function ran[/]")
    console.print(table)
    return [
        Check("steps recorded", sum(state == StepStatus.SUCCESS for state in status.values()), len(times)),
        Check("steps that ran twice", " ".join(step_id for step_id, n in times.items() if n != 1), KILLED_IN),
    ]


def _verdict(checks: Sequence[Check], result: dict[str, Any]) -> int:
    """Show the checks and the result; return the exit code."""
    console.print("\n[bold]Checked against the data set in memory[/]")
    for one in checks:
        verdict = "[green]ok[/]" if one.passed else f"[red]WRONG, expected {one.expected}[/]"
        console.print(f"  {one.what:36} {_shown(one.stored):>18}  {verdict}")
    lonely = result["loneliest"]
    console.print(
        f"\n{result['airports']:,} airports in {result['countries']} countries, edition {result['edition']}. "
        f"The loneliest: {lonely['name']} ({lonely['icao']}), {lonely['km']:,} km from the next.",
        soft_wrap=True,
    )
    return 0 if all(one.passed for one in checks) else 1


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", default="embedded://", help="the database; embedded:// by default")
    return parser.parse_args()


if __name__ == "__main__":
    given: str = _arguments().dsn
    sys.exit(asyncio.run(main(embedded.start(given) if embedded.is_embedded(given) else given)))
