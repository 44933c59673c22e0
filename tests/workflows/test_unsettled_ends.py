"""Whatever an error does while the end of a step or of a run is settled, no run is left RUNNING and held."""

from __future__ import annotations

import asyncio
import gc
import importlib
import weakref
from contextlib import suppress

import pytest

from pgqrs import PyWorkflow, RetryPolicy, StepFailedError, TransientError, Worker, step, workflow
from pgqrs.engine.replay.failure_trace import FailureTrace
from pgqrs.storage.queries.executors import ABANDONED
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang, until

POLICY = RetryPolicy(attempts=2, initial=0.01)

PLACES = {
    "to_reopen": [(FailureTrace, "to_reopen")],
    "delay": [(RetryPolicy, "delay")],
    "dump_error": [("pgqrs.engine.run", "dump_error"), ("pgqrs.engine.step_runner", "dump_error")],
}


class Break:
    """Makes functions of pgqrs raise, for so many calls, or for all."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self.calls = 0

    def __call__(self, where, *, times=10**9):
        for place, name in where:
            path = (f"{place}.{name}",) if isinstance(place, str) else (place, name)
            original = self._original(place, name)

            def broken(*args, _original=original, **kwargs):
                self.calls += 1
                if self.calls <= times:
                    raise RecursionError("one of pgqrs's own")
                return _original(*args, **kwargs)

            self._monkeypatch.setattr(*path, broken)

    @staticmethod
    def _original(place, name):
        return getattr(importlib.import_module(place) if isinstance(place, str) else place, name)


@pytest.fixture
def breaks(monkeypatch):
    return Break(monkeypatch)


@step(retry=POLICY)
async def charge(ctx: PyWorkflow) -> None:
    raise OSError("the card's network is away")


@workflow(retry=POLICY)
async def pay(ctx: PyWorkflow) -> None:
    await charge(ctx)


@pytest.mark.without_replay("a replay raises the recorded error in the place of the user's")
@pytest.mark.parametrize("where", PLACES)
async def test_awaited_run_ends_with_the_application_error(admin, sql, breaks, caplog, where):
    breaks(PLACES[where])
    ctx = await admin.create_workflow("pay")
    async with no_hang():
        with pytest.raises(OSError, match="network is away"):
            await pay(ctx)
    assert await status(sql, ctx) == "ERROR"
    recorded = await sql.fetch("SELECT error->>'type' AS type, error->>'message' AS message FROM pgqrs_workflows")
    assert [(row["type"], row["message"]) for row in recorded] == [("OSError", "the card's network is away")]
    assert await steps(sql, ctx) == {"charge": "ERROR"}
    assert "RecursionError: one of pgqrs's own" in caplog.text


@pytest.mark.parametrize("where", PLACES)
async def test_worker_run_ends_with_the_application_error(admin, breaks, where):
    breaks(PLACES[where])
    async with no_hang(), Worker(admin, [pay]):
        with pytest.raises(StepFailedError, match="network is away"):
            await (await admin.enqueue(pay)).result()


SEALED = [("pgqrs.engine.outcomes", "seal_error"), ("pgqrs.engine.step_runner", "seal_error")]


async def test_awaited_run_with_an_unrecordable_error_is_abandoned(admin, sql, breaks):
    breaks(SEALED, times=6)
    ctx = await admin.create_workflow("pay")
    async with no_hang():
        with pytest.raises(RecursionError):
            await pay(ctx)
        assert await steps(sql, ctx) == {}
        query = "SELECT executor = $1 FROM pgqrs_workflows WHERE status = 'RUNNING'"
        await until(sql.fetchval, query, ABANDONED)
        assert breaks.calls == 6
        with pytest.raises(OSError, match="network is away"):
            await pay(await admin.get_workflow(ctx.id()))
    assert await status(sql, ctx) == "ERROR"


async def test_worker_run_with_an_unrecordable_error_is_claimed_again(admin, breaks):
    breaks(SEALED, times=6)
    async with no_hang(), Worker(admin, [pay]):
        with pytest.raises(StepFailedError, match="network is away"):
            await (await admin.enqueue(pay)).result()
    assert breaks.calls > 6


async def test_error_with_a_long_chain_of_causes_is_recorded(admin, sql):
    @step
    async def poll(ctx: PyWorkflow) -> None:
        last = None
        for n in range(1500):
            error = ConnectionError(f"attempt {n}")
            error.__cause__, last = last, error
        raise last

    @workflow
    async def polls(ctx: PyWorkflow) -> None:
        await poll(ctx)

    ctx = await admin.create_workflow("polls")
    with pytest.raises(ConnectionError, match="attempt 1499"):
        await polls(ctx)
    assert await status(sql, ctx) == "ERROR"
    assert await steps(sql, ctx) == {"poll": "ERROR"}


@pytest.mark.parametrize("after", [10**13, 10**19, 10**400])
async def test_huge_retry_after_parks_for_at_most_a_day(admin, sql, after):
    @step(retry=3)
    async def busy(ctx: PyWorkflow) -> None:
        raise TransientError("503", retry_after=after)

    @workflow(retry=3)
    async def asks(ctx: PyWorkflow, within: bool) -> None:
        if within:
            await busy(ctx)
        raise TransientError("503", retry_after=after)

    async with no_hang(), Worker(admin, [asks]):
        await admin.enqueue_many(asks, [(True,), (False,)])
        query = """
            SELECT count(*) = 2 FROM pgqrs_workflows
             WHERE status = 'WAITING' AND due_at - now() BETWEEN '23 hours' AND '25 hours'
        """
        await until(sql.fetchval, query)
    assert len(await admin.list_workflows()) == 2


class Page:
    """What a step holds while it fails."""


async def test_run_does_not_keep_caught_errors_alive(admin):
    pages = []

    @step(key=lambda n: n)
    async def poll(ctx: PyWorkflow, n: int) -> None:
        page = Page()
        pages.append(weakref.ref(page))
        raise RuntimeError("not ready yet")

    @workflow
    async def polls(ctx: PyWorkflow) -> int:
        for n in range(3):
            with suppress(RuntimeError):
                await poll(ctx, n)
        await asyncio.sleep(0)
        gc.collect()
        return sum(page() is not None for page in pages)

    assert await admin.run(polls) == 0


@pytest.mark.without_replay("a replay raises the recorded error in the place of the user's")
async def test_error_instance_shared_by_two_runs_reopens_both_steps(admin, sql):
    shared = ConnectionError("the pool's one connection")

    @step
    async def connect(ctx: PyWorkflow) -> str:
        if not mended:
            raise shared
        return "connected"

    @workflow
    async def connects(ctx: PyWorkflow) -> str:
        return await connect(ctx)

    mended = []
    contexts = [await admin.create_workflow("connects") for _ in range(2)]
    ends = await asyncio.gather(*map(connects, contexts), return_exceptions=True)
    assert ends == [shared, shared]
    mended.append(1)
    assert [await connects(ctx) for ctx in contexts] == ["connected", "connected"]
