"""The workload and its ledger: each execution of a step writes a row in a transaction of its own.

A worker process imports this module (``pgqrs worker chaos.work --admin chaos.work:admin``). ``PGQRS_DSN`` names
the database.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import BigInteger, Double, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chaos.control.queues import placement
from pgqrs import Admin, Batch, PyWorkflow, RetryPolicy, Topic, TransientError, Update, step, workflow

EXPIRY = 4.0
"""Seconds of the workers' `heartbeat_timeout`: short, so that a worker that is stopped for long loses its runs."""

IN_PLACE = RetryPolicy(attempts=10_000, initial=0.05, maximum=0.9)
"""Retries with delays that a run waits for in place."""

PARKING = RetryPolicy(attempts=10_000, initial=1.2, factor=1.1, maximum=2.0)
"""Retries with delays for which a run parks."""

TROUBLE = 0.4
"""Probability that a step of `flaky` fails."""


ITEM = Topic("item", int)
"""The topic of the messages to `receiver`."""

ITEMS = 3
"""Messages that each `receiver` gets, with the values from 0 on."""

CHILDREN = 3
"""Children that each `parent`, and each `stamper`, starts by one step."""

BATCH = Batch(8, within=0.3)
"""The batches of `stamp`."""

ASK = Update("ask", int, str)
"""The update of `clerk`."""

REQUESTS = 2
"""Requests that each `clerk` gets, with the values from 0 on."""

FATES = ("succeeds", "fails", "cancelled", "cancelled")
"""The fates of the workflows `saga`, in turn. The program cancels a cancelled one at a random moment."""

REFUSED = "the last step of the saga failed for good"
"""The text of the error of a saga that fails."""


class RefusedError(Exception):
    """The failure of a step that is not retried."""


def admin() -> Admin:
    """Return the `Admin` of a worker."""
    return Admin(os.environ["PGQRS_DSN"], heartbeat_timeout=EXPIRY)


class Base(DeclarativeBase):
    """The declarative base of the ledger."""


class Entry(Base):
    """An execution of a step, as the step itself reports it.

    `epoch` is the epoch of its run. `undoes` is the value that an undo was called with. Times are in seconds;
    `entered_at` is the end, by the clock of the server. The processes and the server are on one machine, so they
    have the same clock.
    """

    __tablename__ = "chaos_ledger"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    workflow_id: Mapped[int] = mapped_column(BigInteger(), index=True)
    step_id: Mapped[str] = mapped_column(Text())
    epoch: Mapped[int] = mapped_column(BigInteger())
    pid: Mapped[int] = mapped_column(BigInteger())
    began_at: Mapped[float] = mapped_column(Double())
    undoes: Mapped[str | None] = mapped_column(Text())
    entered_at: Mapped[float] = mapped_column(
        Double(), server_default=text("extract(epoch FROM clock_timestamp())")
    )


def engine_for(dsn: str, **options: Any) -> AsyncEngine:
    """Return an engine for a DSN as the driver reads it."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), **options)


@cache
def _sessions() -> async_sessionmaker[Any]:
    return async_sessionmaker(engine_for(os.environ["PGQRS_DSN"], pool_size=10, max_overflow=5))


async def _enter(ctx: PyWorkflow, step_id: str, seconds: float, undoes: str | None = None) -> str:
    """Execute a step: wait for a while, write a row into the ledger, and return its id."""
    began_at = time.time()
    run: Any = ctx._run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # no public attribute has the epoch
    epoch: int = run.epoch
    await asyncio.sleep(seconds)
    entry = uuid4()
    async with _sessions().begin() as session:
        session.add(
            Entry(
                id=entry,
                workflow_id=ctx.id(),
                step_id=step_id,
                epoch=epoch,
                pid=os.getpid(),
                began_at=began_at,
                undoes=undoes,
            )
        )
    return str(entry)


# A step is retried after any error, because a driver raises many kinds for a lost connection.
@step(id="note", key=lambda name, *_: name, retry=IN_PLACE, transient=(Exception,))
async def note(ctx: PyWorkflow, name: str, seconds: float = 0.0) -> str:
    """Write a row."""
    return await _enter(ctx, f"note:{name}", seconds)


@step(id="try", key=lambda name, *_: name, retry=IN_PLACE, transient=(Exception,))
async def attempt(ctx: PyWorkflow, name: str) -> str:
    """Write a row, and fail in many cases although the row is written."""
    entry = await _enter(ctx, f"try:{name}", 0.0)
    if random.random() < TROUBLE:  # noqa: S311  # no secret
        raise TransientError("the step failed by chance")
    return entry


@step(id="wait", key=lambda name, *_: name, retry=PARKING, transient=(Exception,))
async def attempt_later(ctx: PyWorkflow, name: str) -> str:
    """Write a row, or fail with a retry so late that the run parks."""
    entry = await _enter(ctx, f"wait:{name}", 0.0)
    if random.random() < TROUBLE:  # noqa: S311  # no secret
        raise TransientError("the step failed by chance, and is retried later")
    return entry


@step(retry=IN_PLACE, transient=(Exception,))
async def undo_do(ctx: PyWorkflow, value: str, name: str, _seconds: float) -> str:
    """Write the row of an undo."""
    return await _enter(ctx, f"undo/do:{name}", 0.0, value)


@step(retry=IN_PLACE, transient=(Exception,))
async def undo_dare(ctx: PyWorkflow, value: str | None, name: str, _is_refused: bool) -> str:
    """Write the row of an undo, and fail in many cases although the row is written."""
    entry = await _enter(ctx, f"undo/dare:{name}", 0.05, value)
    if random.random() < TROUBLE:  # noqa: S311  # no secret
        raise TransientError("the undo failed by chance")
    return entry


@step(id="do", key=lambda name, *_: name, retry=IN_PLACE, transient=(Exception,), undo=undo_do)
async def do(ctx: PyWorkflow, name: str, seconds: float = 0.0) -> str:
    """Write a row, which is undone if it is recorded."""
    return await _enter(ctx, f"do:{name}", seconds)


@step(
    id="dare", key=lambda name, *_: name, retry=IN_PLACE, transient=(Exception,), terminal=(RefusedError,),
    undo=undo_dare, undo_when="began",
)  # fmt: skip
async def dare(ctx: PyWorkflow, name: str, is_refused: bool = False) -> str:  # noqa: FBT002
    """Write a row, which is undone even if the step then fails."""
    entry = await _enter(ctx, f"dare:{name}", 0.05)
    if is_refused:
        raise RefusedError(REFUSED)
    if random.random() < TROUBLE:  # noqa: S311  # no secret
        raise TransientError("the step failed by chance")
    return entry


@workflow(name="chaos.quick")
async def quick(ctx: PyWorkflow, number: int) -> list[str]:
    """Execute three short steps."""
    return [await note(ctx, name, number % 3 / 100) for name in "abc"]


@workflow(name="chaos.slow")
async def slow(ctx: PyWorkflow, number: int) -> list[str]:
    """Execute four steps of up to a second."""
    return [await note(ctx, name, 0.2 + (number * 7 + place) % 9 / 10) for place, name in enumerate("abcd")]


@workflow(name="chaos.flaky")
async def flaky(ctx: PyWorkflow, number: int) -> list[str]:
    """Execute steps that fail, some of which park the run, and two steps at once."""
    first = await attempt(ctx, "a")
    second = await attempt_later(ctx, "b")
    third, fourth = await asyncio.gather(attempt(ctx, "c"), note(ctx, "d", number % 5 / 10))
    return [first, second, third, fourth]


@workflow(name="chaos.sleepy")
async def sleepy(ctx: PyWorkflow, number: int) -> list[str]:
    """Sleep between the steps, long enough to park."""
    first = await note(ctx, "a")
    await ctx.sleep(1 + number % 3)
    second = await note(ctx, "b", 0.1)
    await ctx.sleep(0.2)
    return [first, second, await note(ctx, "c")]


@workflow(name="chaos.receiver")
async def receiver(ctx: PyWorkflow, number: int) -> list[str]:
    """Receive the messages that the program, or a parent, sends; each value names a step."""
    pause = number % 3 / 10
    return [await note(ctx, f"item {await ctx.receive(ITEM)}", pause) for _ in range(ITEMS)]


@workflow(name="chaos.child")
async def child(ctx: PyWorkflow, number: int) -> list[str]:
    """Execute two steps; some children sleep between them, long enough to park."""
    first = await note(ctx, "a", number % 4 / 10)
    if number % 3 == 0:
        await ctx.sleep(1.2)
    return [first, await note(ctx, "b")]


@workflow(name="chaos.parent")
async def parent(ctx: PyWorkflow, number: int) -> list[str]:
    """Start a receiver, send it messages without keys, start other children, and wait for all.

    The children have limits if the parent has none.
    """
    first = await note(ctx, "a")
    own = ctx.options(**placement(number + 1)._asdict())
    listener = await own.start(receiver, number)
    for item in range(ITEMS):
        await ctx.send(listener.id, ITEM, item)
    children = await own.start_many(child, [(number + place,) for place in range(CHILDREN)])
    outputs = [await listener, *await ctx.gather(children)]
    return [first, *chain.from_iterable(outputs), await note(ctx, "b")]


@workflow(name="chaos.saga")
async def saga(ctx: PyWorkflow, number: int) -> list[str]:
    """Execute steps that are undone by a failure or a cancellation; nothing follows the block."""
    async with ctx.saga():
        first = await do(ctx, "a", number % 3 / 10)
        second, third = await asyncio.gather(dare(ctx, "b"), do(ctx, "c", number % 5 / 10))
        await ctx.sleep(0.1 if number % 2 else 1.2)
        fourth = await dare(ctx, "d", fate(number) == "fails")
        await ctx.sleep(0.1 if number % 3 else 1.2)
        return [first, second, third, fourth, await do(ctx, "e")]


@workflow(name="chaos.clerk")
async def clerk(ctx: PyWorkflow, number: int) -> list[str]:
    """Receive the requests that the program sends; each value names a step, whose value is the reply."""
    replies: dict[int, str] = {}
    for _ in range(REQUESTS):
        request = await ctx.receive(ASK)
        replies[request.value] = await note(ctx, f"request {request.value}", number % 3 / 10)
        await request.reply(replies[request.value])
    return [replies[value] for value in range(REQUESTS)]


@workflow(name="chaos.stamp", batch=BATCH)
async def stamp(ctx: PyWorkflow, numbers: list[int]) -> list[list[str]]:
    """Execute a step for each submission of a batch; some batches sleep, long enough to park."""
    first, *rest = (stamp_name(place, number) for place, number in enumerate(numbers))
    outcomes = [await note(ctx, first)]
    if sum(numbers) % 3 == 0:
        await ctx.sleep(1.2)
    outcomes += await asyncio.gather(*(note(ctx, name, 0.1) for name in rest))
    return [[outcome] for outcome in outcomes]


@workflow(name="chaos.stamper")
async def stamper(ctx: PyWorkflow, number: int) -> list[str]:
    """Start children that run in batches, and wait for all. The children have limits if the parent has none."""
    first = await note(ctx, "a")
    own = ctx.options(**placement(number + 1)._asdict())
    children = await own.start_many(stamp, [(number + place,) for place in range(CHILDREN)])
    return [first, *chain.from_iterable(await ctx.gather(children)), await note(ctx, "b")]


@workflow(name="chaos.tick")
async def tick(ctx: PyWorkflow, pause: float) -> list[str]:
    """Execute a step, and sleep long enough to park; a schedule starts it."""
    first = await note(ctx, "a")
    if pause:
        await ctx.sleep(pause)
    return [first, await note(ctx, time_name(ctx.scheduled_for))]


def time_name(time: datetime | None) -> str:
    """Return the name of the step of a time of a schedule."""
    return "no time" if time is None else f"{time.timestamp():.0f}"


def stamp_name(place: int, number: int) -> str:
    """Return the name of the step of a submission, by its place in the batch and its input.

    A run with another list than the run before executes a step of another name.
    """
    return f"{place} for {number}"


STEPS: dict[str, tuple[str, ...]] = {
    "chaos.quick": ("note:a", "note:b", "note:c"),
    "chaos.slow": ("note:a", "note:b", "note:c", "note:d"),
    "chaos.flaky": ("try:a", "wait:b", "try:c", "note:d"),
    "chaos.sleepy": ("note:a", "note:b", "note:c"),
    "chaos.receiver": tuple(f"note:item {item}" for item in range(ITEMS)),
    "chaos.child": ("note:a", "note:b"),
    "chaos.parent": ("note:a", "note:b"),
    "chaos.saga": ("do:a", "dare:b", "do:c", "dare:d", "do:e"),
    "chaos.clerk": tuple(f"note:request {value}" for value in range(REQUESTS)),
    "chaos.stamper": ("note:a", "note:b"),
}
"""The steps of each workflow, in the order of the outcomes in its output.

The step of a stamp is a step of its batch.

In the output of a parent, the outputs of its children follow the first outcome.
"""

FAMILIES: dict[str, tuple[str, ...]] = {
    "chaos.parent": ("chaos.receiver", *["chaos.child"] * CHILDREN),
    "chaos.stamper": ("chaos.stamp",) * CHILDREN,
}
"""The names of the children of each parent, in the order in which it starts them."""

FUNCTIONS: tuple[Callable[..., Any], ...] = (
    quick, slow, saga, flaky, sleepy, receiver, parent, saga, clerk, stamp, stamper,
)  # fmt: skip
"""The workflows that are enqueued, in turn.

Their number is prime to the number of placements, so each of them gets each placement. The two sagas are at an
even and at an odd place, so the sagas of each fate are in queues with limits, and in the queue without.
"""


def fate(number: int) -> str:
    """Return the fate of the saga of a number."""
    return FATES[number // len(FUNCTIONS) % len(FATES)]
