"""What the programs of all systems share: the command line, the loop, the line of JSON at the end.

Every system runs in an environment of its own, so nothing here imports more than the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, NamedTuple

MOST_WARMING_UP = 50
"""How many workflows run before the measured ones, at most; otherwise as many as run at a time."""


class Arguments(NamedTuple):
    """The work to be done."""

    dsn: str
    work: str
    workflows: int
    concurrency: int
    steps: int


def arguments() -> Arguments:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--work", default="w1")
    for name in ("--workflows", "--concurrency", "--steps"):
        parser.add_argument(name, type=int, required=True)
    return Arguments(**vars(parser.parse_args()))


def report(distribution: str, *, seconds: float, workflows: int, steps: int, **more: Any) -> None:
    """Print what was measured."""
    figures = {"seconds": seconds, "workflows": workflows, "steps": steps, **more}
    print(json.dumps({**figures, "version": version(distribution)}), flush=True)


def small_dict(number: int) -> dict[str, Any]:
    """Return what every step of every system returns."""
    return {"step": number, "ok": True}


def step_functions(step: Callable[..., Any], count: int) -> list[Callable[..., Awaitable[Any]]]:
    """Make `count` functions with names of their own, and decorate them."""
    functions = []
    for each in range(count):

        async def body(_ctx: object, number: int) -> dict[str, Any]:
            return small_dict(number)

        body.__name__ = body.__qualname__ = f"step_{each}"
        functions.append(step(body))
    return functions


async def timed(
    run: Callable[[int], Awaitable[Any]],
    workflows: int,
    concurrency: int,
    *,
    warm: Callable[[], None] = lambda: None,
) -> float:
    """Run workflows, so many at a time, and return the seconds that they took.

    First some run to warm up; then `warm` is called, and the clock starts.
    """
    await _run_all(run, min(concurrency, MOST_WARMING_UP), concurrency)
    warm()
    began = time.perf_counter()
    await _run_all(run, workflows, concurrency)
    return time.perf_counter() - began


async def _run_all(run: Callable[[int], Awaitable[Any]], workflows: int, concurrency: int) -> None:
    numbers = iter(range(workflows))

    async def some() -> None:
        for number in numbers:
            await run(number)

    await asyncio.gather(*(some() for _ in range(min(concurrency, workflows))))
