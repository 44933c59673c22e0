"""``python -m benchmarks.at_once``: the lag of the event loop while one process runs 10,000 workflows at once.

All workflows are enqueued, claimed by one worker and started. Each executes steps of different lengths, long
enough that all workflows have started before the first ends. The lag of the loop is the lateness of a timer that
is due every five milliseconds. A late timer also counts for the timers that it delayed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.server import running
from pgqrs import Admin, PyWorkflow, Worker, step, workflow

BEAT = 0.005
"""Seconds between two measurements of the loop."""

DATABASE = "at_once"


class Lags:
    """The lags of the running loop, in seconds, during one period.

    `own` has the lags that this process alone would have, without the processor time that other processes take.
    """

    def __init__(self) -> None:
        self.all: list[float] = []
        self.own: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._used = time.thread_time()
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        while self._due <= now:
            self.all.append(now - self._due)
            self._due += BEAT
        used = time.thread_time()
        busy, self._used = used - self._used, used
        self.own.append(busy)
        while (busy := busy - BEAT) > 0:
            self.own.append(busy)
        self._timer = self._loop.call_at(self._due, self._beat)

    def stop(self) -> Lags:
        """Stop the measurement."""
        self._timer.cancel()
        return self


class Crowd:
    """`total` workflows of `steps` steps; each step takes between half and one and a half of `pause` seconds."""

    def __init__(self, total: int, steps: int, pause: float) -> None:
        self.inside = self.most = 0
        self.all_have_begun = asyncio.Event()
        self.all_have_ended = asyncio.Event()

        @step(key=lambda number: number)
        async def rest(ctx: PyWorkflow, number: int) -> int:
            await asyncio.sleep(pause * (0.5 + (ctx.id() * 7919 + number * 104729) % 1000 / 1000))
            return number

        @workflow(name="crowd")
        async def crowd(ctx: PyWorkflow) -> int:
            self._came(total)
            numbers = [await rest(ctx, number) for number in range(steps)]
            self._went()
            return sum(numbers)

        self.workflow = crowd

    def _came(self, total: int) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside == total:
            self.all_have_begun.set()

    def _went(self) -> None:
        self.inside -= 1
        if self.inside == 0:
            self.all_have_ended.set()


class Part(NamedTuple):
    """The measurements of a part of the run; times in seconds."""

    name: str
    seconds: float
    all: list[float]
    own: list[float]

    def __str__(self) -> str:
        return (
            f"{self.name:<22} {self.seconds:6.1f} s   lag {_percentiles(self.all)}   "
            f"of its own {_percentiles(self.own)}"
        )


def _percentiles(lags: list[float]) -> str:
    ordered = sorted(lags)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"p50 {p50:6.1f}, p99 {p99:6.1f}, max {1000 * ordered[-1]:6.1f} ms"


async def measure(dsn: str, *, total: int, steps: int, pause: float) -> list[str]:
    """Run the crowd, and return the lines to print."""
    crowd = Crowd(total, steps, pause)
    async with Admin(dsn) as admin:
        await admin.install()
        await _warm_up(admin)
        before, threads = _resident(), threading.active_count()
        handles = await admin.enqueue_many(crowd.workflow, [()] * total)
        async with Worker(admin, [crowd.workflow], concurrency=total):
            lags, began = Lags(), time.monotonic()
            await crowd.all_have_begun.wait()
            parts = [_part("all are claimed, begin", began, lags)]
            added = threading.active_count() - threads
            per_workflow = (_resident() - before) / total
            lags, began = Lags(), time.monotonic()
            await crowd.all_have_ended.wait()
            parts.append(_part(f"{steps} steps each, end", began, lags))
            results = await asyncio.gather(*(each.result() for each in handles))
        assert set(results) == {sum(range(steps))}
        assert crowd.most == total
    begin, end = parts
    parts.append(Part("together", begin.seconds + end.seconds, begin.all + end.all, begin.own + end.own))
    return [
        f"{total:,} workflows at once in one process",
        f"{added} threads more than before; {per_workflow / 1024:.1f} KiB of resident memory a workflow",
        *map(str, parts),
        f"{total * steps / end.seconds:,.0f} steps/s",
    ]


def _part(name: str, began: float, lags: Lags) -> Part:
    seen = lags.stop()
    return Part(name, time.monotonic() - began, seen.all, seen.own)


async def _warm_up(admin: Admin) -> None:
    @workflow(name="warm")
    async def warm(ctx: PyWorkflow) -> None:
        await ctx.now()

    async with Worker(admin, [warm]):
        await (await admin.enqueue(warm)).result()
    gc.collect()


def _resident() -> int:
    """Return the resident memory of this process in bytes, or its maximum so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print."""
    options = _options()
    rounds: list[list[str]] = []
    with running() as server:
        for _ in range(options.rounds):
            server.create(DATABASE)
            rounds.append(
                asyncio.run(
                    measure(
                        server.dsn(DATABASE), total=options.workflows, steps=options.steps, pause=options.pause
                    )
                )
            )
            print(*rounds[-1], sep="\n", end="\n\n", flush=True)
    print(f"load average {statistics.mean(os.getloadavg()):.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.at_once", description=__doc__)
    parser.add_argument("--workflows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pause", type=float, default=3.0, help="what a step takes, in seconds")
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
