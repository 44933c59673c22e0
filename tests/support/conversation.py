"""Workflows that send, receive, set events, select and have children, for each way to reach the database."""

from __future__ import annotations

import asyncio

import pytest

from pgqrs import (
    Event,
    PyWorkflow,
    Receive,
    Sleep,
    Topic,
    Worker,
    WorkflowCancelledError,
    WorkflowStatus,
    workflow,
)
from tests.support.families import double, nap
from tests.support.waiting import no_hang, until

GO = Topic("go", int)
ASKED = Topic("asked", list)
ANSWERED = Topic("answered", int)
COUNT = 20


@workflow
async def answering(ctx: PyWorkflow, count: int) -> int:
    """Answer questions of other workflows with the sum of their numbers."""
    for _ in range(count):
        asker, *numbers = await ctx.receive(ASKED)
        await ctx.send(asker, ANSWERED, sum(numbers))
    return count


@workflow
async def asking(ctx: PyWorkflow, other: int, count: int) -> list[object]:
    """Gather children, wait for a message or an event, and ask another workflow."""
    doubled = await ctx.gather(await ctx.start_many(double, ((each,) for each in range(count))))
    await ctx.start(nap)
    await ctx.set_event("status", "waits")
    branch, value = await ctx.select(go=Receive(GO), closed=Event("closed"), late=Sleep(3600))
    await ctx.send(other, ASKED, [ctx.id(), *doubled])
    return [branch, value, await ctx.receive(ANSWERED, timeout=600)]


@workflow
async def waiting(ctx: PyWorkflow, depth: int) -> None:
    """Wait for a child that waits, and so on down to a nap."""
    await (await (ctx.start(waiting, depth - 1) if depth else ctx.start(nap)))


FUNCTIONS = [answering, asking, waiting, double, nap]


async def converse(admin, elsewhere=None, *, pairs=3):
    """Run all of it in a worker of `admin`, and send from it and, in another event loop, from `elsewhere`."""
    async with no_hang(), Worker(admin, FUNCTIONS, concurrency=10):
        await _talk(admin, elsewhere or _here, pairs)
        await _cancel_a_tree(admin)


async def _here(asked):
    return await asked


async def _talk(admin, elsewhere, pairs):
    others = [await admin.enqueue(answering, 1) for _ in range(pairs)]
    handles = [await admin.enqueue(asking, other.id, COUNT) for other in others]
    assert await asyncio.gather(*(handle.event("status") for handle in handles)) == ["waits"] * pairs
    for handle in handles:
        await until(_is, handle, WorkflowStatus.WAITING)
    for number, handle in enumerate(handles[1:]):
        await elsewhere(admin.send(handle.id, GO, number))
    assert await elsewhere(admin.emit("closed", "early"))
    total = COUNT * (COUNT - 1)
    results = [["closed", "early", total], *(["go", number, total] for number in range(pairs - 1))]
    assert await asyncio.gather(*(handle.result() for handle in handles)) == results
    assert await asyncio.gather(*(other.result() for other in others)) == [1] * pairs
    naps = await admin.list_workflows(name="nap")
    assert len(naps) == pairs
    for each in naps:
        with pytest.raises(WorkflowCancelledError):
            await admin.handle(each.id).result()


async def _cancel_a_tree(admin):
    top = await admin.enqueue(waiting, 2)
    await until(_has_tree, admin, WorkflowStatus.WAITING)
    await top.cancel()
    await until(_has_tree, admin, WorkflowStatus.CANCELLED)


async def _has_tree(admin, status):
    """Return whether the newest nap, and the three workflows above it, have a status."""
    found = await admin.list_workflows(name="waiting")
    naps = sorted(await admin.list_workflows(name="nap"), key=lambda each: each.id)
    return len(found) == 3 and naps and {each.status for each in (*found, naps[-1])} == {status}


async def _is(handle, status):
    return await handle.status() == status
