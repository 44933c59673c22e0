"""Waiting for conditions, with a deadline and a message of the condition; never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

DEADLINE = 60.0
"""The seconds after which a test that waits fails: a process that starts takes many of them on a busy machine."""

_PAUSE = 0.005


async def until(condition: Callable[..., Any], *arguments: Any, seconds: float = DEADLINE) -> Any:
    """Wait until `condition`, a function or an async function, answers with something true; return that."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            while not (answer := await _answer(condition, arguments)):  # noqa: ASYNC110  # conditions of any kind
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        if not deadline.expired():
            raise  # the condition's own
        pytest.fail(_missed(condition, arguments, seconds))
    return answer


def blocking_until(condition: Callable[..., Any], *arguments: Any, seconds: float = DEADLINE) -> Any:
    """Wait as `until` does, in a test that has no event loop."""
    end = time.monotonic() + seconds
    while not (answer := condition(*arguments)):
        if time.monotonic() > end:
            pytest.fail(_missed(condition, arguments, seconds))
        time.sleep(_PAUSE)
    return answer


@asynccontextmanager
async def no_hang() -> AsyncIterator[None]:
    """Fail, and do not hang, when the block does not end."""
    async with asyncio.timeout(DEADLINE):
        yield


async def _answer(condition: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    answer = condition(*arguments)
    return await answer if inspect.isawaitable(answer) else answer


def _missed(condition: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> str:
    """Say which condition did not come true: a lambda by its source, any other function by its name and arguments."""
    if isinstance(condition, partial):
        return _missed(condition.func, (*condition.args, *arguments), seconds)
    name = getattr(condition, "__qualname__", repr(condition))
    if name.endswith("<lambda>"):
        name = f"`{inspect.getsource(condition).strip()}`"
    given = f" for {', '.join(map(repr, arguments))}" if arguments else ""
    return f"{name}{given} did not come true within {seconds:g} seconds"
