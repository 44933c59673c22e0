"""Workflows that many tests run, and places in them at which a run waits, dies or is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from pgqrs import PyWorkflow, step, workflow
from pgqrs.observer import Observer
from tests.support.waiting import no_hang


@step
async def greet(ctx: PyWorkflow, name: str) -> str:
    return f"hello {name}"


@workflow
async def greeting(ctx: PyWorkflow, name: str) -> str:
    """The specification's first workflow."""
    return await greet(ctx, name)


@step(key=lambda name: name)
async def note(ctx: PyWorkflow, name: str) -> str:
    """Return the name, and be executed once for each."""
    return name


@step(key=lambda n: n)
async def numbered(ctx: PyWorkflow, n: int) -> int:
    """Return the number, and be executed once for each."""
    return n


class Killed(BaseException):
    """Ends a run as the death of its process does: nothing of it is recorded."""


class Gate:
    """A place at which a run waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def stop(self) -> None:
        """Wait here, unless the gate is open."""
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        """Let each run that waits or comes go on."""
        self._opened.set()

    def step(self, name: str, value: str = "done") -> Any:
        """Return a step that waits here before it returns the value."""

        @step(id=name)
        async def waiting(ctx: PyWorkflow) -> str:
            await self.stop()
            return value

        return waiting


class HeldRecord(Observer):
    """Holds the write of the outcome of one step, until the test opens the gate."""

    def __init__(self, step_id: str) -> None:
        self.gate = Gate()
        self._step_id = step_id

    async def writing(self, records: Sequence[object]) -> None:
        """Wait at the gate with a batch that has a record of the step."""
        if any(getattr(each, "step_id", None) == self._step_id for each in records):
            await self.gate.stop()


async def cancel_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has ended cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_once_begun(run: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    """Start a run, and cancel its task when it has begun."""
    task = asyncio.create_task(run)
    async with no_hang():
        await begun.wait()
        await cancel_task(task)
