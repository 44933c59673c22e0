"""The common parts of the programs of all systems: the command line, the loop, and the line of JSON at the end.

Each system runs in an environment of its own, so this module imports only the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

SLICES = 4
"""The parts in which sends and enqueues are measured in turn."""

MOST_WARMING_UP = 50
"""Maximum workflows that run before the measurement; fewer where fewer run at a time."""


LOOK_SECONDS = 0.05
"""Seconds between two checks of whether a queue is empty."""

SIZES = {"v10k": 10_000, "v100k": 100_000, "v1m": 1_000_000}
"""The characters of the text in each outcome of these works."""

TEXT = 1_000_000
"""The places in the text of hexadecimal digits at which such a text begins; it has twice as many digits."""

WORKER = "worker"
"""The name of the work of a worker process."""


class Arguments(NamedTuple):
    """The work to do."""

    dsn: str
    work: str
    workflows: int
    concurrency: int
    steps: int
    workers: int


def arguments() -> Arguments:
    """Parse the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--work", default="w1")
    for name in ("--workflows", "--concurrency", "--steps"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    return Arguments(**vars(parser.parse_args()))


def report(distribution: str, *, seconds: float, workflows: int, steps: int, **more: Any) -> None:
    """Print the measurement."""
    figures = {"seconds": seconds, "workflows": workflows, "steps": steps, **more}
    print(json.dumps({**figures, "version": version(distribution)}), flush=True)


def small_dict(number: int) -> dict[str, Any]:
    """Return the outcome of every step of every system."""
    return {"step": number, "ok": True}


def size_of(work: str) -> int:
    """Return the characters of the outcomes of a work, 0 for small dicts."""
    return SIZES.get(work, 0)


def outcome(number: int, size: int) -> dict[str, Any]:
    """Return the small dict, or one with a text of `size` characters that no other step of the work has."""
    if not size:
        return small_dict(number)
    return {"step": number, "text": _text()[number * 61 % TEXT :][:size]}


@cache
def _text() -> str:
    """Return hexadecimal digits at random; the same in all processes."""
    return Random(1).randbytes(TEXT).hex()


def step_functions(step: Callable[..., Any], count: int, size: int = 0) -> list[Callable[..., Awaitable[Any]]]:
    """Create `count` functions with different names, and decorate them."""
    functions = []
    for each in range(count):

        async def body(_ctx: object, number: int) -> dict[str, Any]:
            return outcome(number, size)

        body.__name__ = body.__qualname__ = f"step_{each}"
        functions.append(step(body))
    return functions


def tune_collector() -> None:
    """Set Python's garbage collector for a process of many tasks, as in production; the same for all systems.

    By default it scans the young objects after each 700 additional objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def timed(
    run: Callable[[int], Awaitable[Any]],
    workflows: int,
    concurrency: int,
    *,
    warm: Callable[[], Awaitable[None]] | None = None,
) -> float:
    """Run workflows with a limited concurrency, and return the seconds that they took.

    Some workflows run first to warm up. Then `warm` is called, and the clock starts.
    """
    tune_collector()
    await _run_all(run, min(concurrency, MOST_WARMING_UP), concurrency)
    if warm is not None:
        await warm()
    began = time.perf_counter()
    await _run_all(run, workflows, concurrency)
    return time.perf_counter() - began


async def in_slices(
    send: Callable[[int], Awaitable[Any]], enqueue: Callable[[int], Awaitable[Any]], count: int, senders: int
) -> dict[str, float]:
    """Send `count` messages and enqueue `count` workflows, in turn, and return the seconds of the two.

    A part of each runs first to warm up.
    """
    tune_collector()
    each = max(1, count // SLICES)
    taken = {"seconds": 0.0, "seconds_to_enqueue": 0.0}
    for number in range(SLICES + 1):
        for name, run in (("seconds", send), ("seconds_to_enqueue", enqueue)):
            began = time.perf_counter()
            await _run_all(run, each, senders)
            taken[name] += time.perf_counter() - began if number else 0.0
    return taken


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile of latencies, in milliseconds, and their sum in seconds."""
    ordered = sorted(seconds)
    median, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return {"seconds": sum(ordered), "median_ms": median, "p99_ms": p99}


async def busy_millisecond() -> list[float]:
    """Wait for a millisecond, and return the times of the beginning and the end, which all processes share."""
    began = time.time()
    await asyncio.sleep(0.001)
    return [began, time.time()]


def refills(spans: Sequence[tuple[float, ...]], places: int) -> dict[str, float]:
    """Return how long a free place of a queue waits for a workflow, and the most that were executed at once.

    `spans` has the beginning and the end of each execution. While workflows wait, the end that comes at a place in
    the order of all ends lets the beginning follow that is `places` later in the order of all beginnings.
    """
    begins, ends = (sorted(each[side] for each in spans) for side in (0, 1))
    waits = [max(0.0, begin - end) for end, begin in zip(ends, begins[places:], strict=False)]
    most = max(number - bisect_left(ends, begin) for number, begin in enumerate(begins, 1))
    latency = percentiles(waits)
    return {"refill_ms": latency["median_ms"], "refill_p99_ms": latency["p99_ms"], "most_at_once": most}


class Memory:
    """The resident memory of this process, in MiB: now, and the maximum since this object was made."""

    def __init__(self) -> None:
        gc.collect()
        with Path("/proc/self/clear_refs").open("w", encoding="ascii") as refs:
            refs.write("5")
        self._before = self._read("VmRSS")

    def grown(self) -> float:
        """Return by how much the maximum exceeds the memory at the beginning."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


async def _run_all(run: Callable[[int], Awaitable[Any]], workflows: int, concurrency: int) -> None:
    numbers = iter(range(workflows))

    async def some() -> None:
        for number in numbers:
            await run(number)

    await asyncio.gather(*(some() for _ in range(min(concurrency, workflows))))


@contextmanager
def worker_processes(asked: Arguments, work: str = WORKER) -> Iterator[None]:
    """Start worker processes of the running program, wait until each `is_ready`, and kill them at the end."""
    options = {**asked._asdict(), "work": work}
    command = [sys.executable, sys.argv[0], *(f"--{name}={value}" for name, value in options.items())]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(asked.workers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def is_ready() -> None:
    """Report to the parent process that this worker is ready, and end when the parent ends."""
    tune_collector()
    print("ready", flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


async def worked_off(
    enqueue: Callable[[int], Awaitable[None]], ended: Callable[[], Awaitable[int]], workflows: int
) -> tuple[float, float]:
    """Enqueue workflows for the workers, and return the seconds until all were enqueued and until all had ended.

    Some workflows run first to warm up. Then the clock starts.
    """
    await enqueue(MOST_WARMING_UP)
    await until_ended(ended, MOST_WARMING_UP)
    began = time.perf_counter()
    await enqueue(workflows)
    enqueued = time.perf_counter() - began
    await until_ended(ended, MOST_WARMING_UP + workflows)
    return enqueued, time.perf_counter() - began


async def until_ended(ended: Callable[[], Awaitable[int]], count: int) -> None:
    """Wait until this number of workflows has ended."""
    while await ended() < count:  # noqa: ASYNC110  # another process ends them
        await asyncio.sleep(LOOK_SECONDS)
