"""Handles: waiting for results without a polling storm, errors as a replay would raise them, cancelling."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import event

from pgqrs import (
    Admin,
    DatabaseUnavailableError,
    PgqrsError,
    PyWorkflow,
    Worker,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowHandle,
    WorkflowNotFoundError,
    step,
    workflow,
)
from tests.support.database import connected
from tests.support.recorded import is_replay
from tests.support.waiting import no_hang, until
from tests.support.wire import Wire
from tests.support.workflows import Gate


class NoStockError(Exception):
    def __init__(self, sku: str, missing: int) -> None:
        super().__init__(f"{sku}: {missing} missing")
        self.sku, self.missing = sku, missing


@step
async def reserve(ctx: PyWorkflow, sku: str) -> str:
    return f"reserved {sku}"


@workflow
async def buy(ctx: PyWorkflow, sku: str) -> dict[str, str]:
    return {"sku": sku, "state": await reserve(ctx, sku)}


@workflow
async def sold_out(ctx: PyWorkflow, sku: str) -> None:
    raise NoStockError(sku, 3)


@workflow
async def nothing(ctx: PyWorkflow) -> None: ...


async def test_handle_returns_status_result_and_steps(admin):
    handle = await admin.enqueue(buy, "lamp")
    assert repr(handle) == f"<WorkflowHandle {handle.id}>"
    assert await handle.status() == "PENDING"
    assert await handle.steps() == []
    async with no_hang(), Worker(admin, [buy, nothing]):
        assert await handle.result() == {"sku": "lamp", "state": "reserved lamp"}
        assert await (await admin.enqueue(nothing)).result() is None
    assert await handle.status() == "SUCCESS"
    assert [(each.step_id, each.output) for each in await handle.steps()] == [("reserve", "reserved lamp")]
    same = admin.handle(handle.id)
    assert isinstance(same, WorkflowHandle)
    assert await same.result(timeout=5) == {"sku": "lamp", "state": "reserved lamp"}


async def test_handle_raises_the_replayed_error(admin):
    handle = await admin.enqueue(sold_out, "lamp")
    async with no_hang(), Worker(admin, [sold_out]):
        for _ in range(2):
            with pytest.raises(NoStockError, match="lamp: 3 missing") as caught:
                await handle.result()
            assert is_replay(caught.value, NoStockError)
            assert (caught.value.missing, caught.value.workflow_id) == (3, handle.id)


async def test_result_timeout_does_not_stop_the_workflow(admin):
    handle = await admin.enqueue(buy, "lamp")
    with pytest.raises(TimeoutError, match=rf"workflow {handle.id} did not end within 0.05 s"):
        await handle.result(timeout=0.05)
    async with no_hang(), Worker(admin, [buy]):
        assert (await handle.result())["sku"] == "lamp"


@pytest.mark.parametrize("missing", [1, 2**63 - 1, 2**63, 0, -1])
async def test_handle_of_a_missing_workflow_raises_not_found(admin, missing):
    handle = admin.handle(missing)
    for use in (handle.status, handle.result, handle.steps, handle.cancel):
        with pytest.raises(WorkflowNotFoundError):
            await use()


@pytest.mark.parametrize("odd", ["1", None, 1.0, True])
async def test_handle_id_must_be_an_int(admin, odd):
    with pytest.raises(TypeError, match="int"):
        admin.handle(odd)


async def test_queued_workflow_can_be_cancelled_and_resumed(admin):
    handle = await admin.enqueue(buy, "lamp")
    waiting = asyncio.create_task(handle.result())
    await handle.cancel()
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await waiting
        assert await handle.status() == "CANCELLED"
        await admin.cancel_workflow(handle.id)
        await admin.resume_workflow(handle.id)
        assert await handle.status() == "PENDING"
        async with Worker(admin, [buy]):
            assert (await handle.result())["sku"] == "lamp"
        with pytest.raises(WorkflowFinishedError):
            await handle.cancel()


@pytest.mark.parametrize("interrupt", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_running_workflow_is_cancelled_in_any_process(admin, dsn, schema, interrupt, elsewhere):
    gate, after = Gate(), []
    first = gate.step("first")

    @step
    async def second(ctx: PyWorkflow) -> None:
        after.append(1)

    @workflow
    async def two(ctx: PyWorkflow) -> None:
        await first(ctx)
        await second(ctx)

    async with no_hang(), Admin(dsn, schema) as other, Worker(other, [two]):
        handle = await admin.enqueue(two)
        await gate.reached.wait()
        own = handle if elsewhere else other.handle(handle.id)
        await own.cancel(interrupt=interrupt)
        if not interrupt:
            assert await handle.status() == "RUNNING"
            gate.open()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    recorded = {each.step_id: each.status for each in await handle.steps()}
    assert recorded.get("first") != ("SUCCESS" if interrupt else "RUNNING")
    assert after == []


async def test_a_thousand_handles_wait_with_few_statements(dsn, schema, engine, admin):
    seen = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: seen.append(told[2]))
    async with asyncio.timeout(30), Admin(engine, schema) as own:
        handles = await own.enqueue_many(nothing, [()] * 1000)
        waiting = [asyncio.create_task(each.result()) for each in handles]
        began, before = time.monotonic(), len(seen)
        with pytest.raises(TimeoutError):
            await handles[0].result(timeout=1.5)
        assert len(seen) - before <= 20  # 0.01 s apart at first, 0.5 s in the end
        async with Worker(admin, [nothing]):
            assert await asyncio.gather(*waiting) == [None] * 1000
        assert len(seen) - before <= 20 + 100 * (time.monotonic() - began)


async def test_end_in_the_same_process_resolves_the_result_at_once(admin):
    async with no_hang(), Worker(admin, [nothing]):
        await (await admin.enqueue(nothing)).result()
        go_on = asyncio.Event()

        @workflow
        async def late(ctx: PyWorkflow) -> float:
            await go_on.wait()
            return time.monotonic()

        async with Worker(admin, [late]):
            handle = await admin.enqueue(late)
            waiting = asyncio.create_task(handle.result())
            with pytest.raises(TimeoutError):
                await handle.result(timeout=2)  # by now the polls are far apart
            go_on.set()
            ended = await waiting
            assert time.monotonic() - ended < 0.2


async def test_result_survives_an_outage_within_its_timeout(dsn, schema, admin, sql):
    async with no_hang(), Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as far:
        handle = await far.enqueue(buy, "lamp")
        waiting = [asyncio.create_task(far.handle(handle.id).result()) for _ in range(3)]
        await asyncio.sleep(0)
        await wire.cut()
        async with Worker(admin, [buy]):
            assert (await admin.handle(handle.id).result())["sku"] == "lamp"
        await wire.restore()
        assert [each["sku"] for each in await asyncio.gather(*waiting)] == ["lamp"] * 3


async def test_outage_beyond_its_timeout_fails_all_waiting_results(dsn, schema, admin, sql):
    async with no_hang(), Wire(dsn, sql) as wire:
        far = Admin(wire.dsn, schema, outage_timeout=0.5, timeout=2)
        handle = await far.enqueue(buy, "lamp")
        waiting = [asyncio.create_task(handle.result()) for _ in range(3)]
        await asyncio.sleep(0)
        await wire.cut()
        for each in waiting:
            with pytest.raises(DatabaseUnavailableError):
                await each
        await wire.restore()
        assert await handle.status() == "PENDING"
        await far.close()
    await admin.cancel_workflow(handle.id)


async def test_closing_the_admin_fails_waiting_results(dsn, schema, admin):
    own = Admin(dsn, schema)
    handle = await own.enqueue(buy, "lamp")
    waiting = asyncio.create_task(handle.result())
    here = await own.loop_state()

    async def waits():
        return handle.id in here.results._waiting

    await until(waits)
    await own.close()
    with pytest.raises(PgqrsError, match="closed"):
        await waiting


async def test_deleting_an_awaited_workflow_raises_not_found(admin, dsn, schema):
    kept, deleted = await admin.enqueue(nothing), await admin.enqueue(nothing)
    waiting = [asyncio.ensure_future(each.result()) for each in (kept, deleted)]
    async with no_hang():
        await until(_is_awaited, admin, deleted.id)
        async with connected(dsn) as connection:
            await connection.execute(f"DELETE FROM {schema}.pgqrs_workflows WHERE id = $1", deleted.id)
        with pytest.raises(WorkflowNotFoundError):
            await waiting[1]
        assert not waiting[0].done()
        async with Worker(admin, [nothing]):
            assert await waiting[0] is None


async def _is_awaited(admin, workflow_id):
    return workflow_id in (await admin.loop_state()).results._waiting


async def test_blocked_event_loop_is_not_an_outage(dsn, installed):
    """Each look of a handle runs into its time limit while the loop is blocked, and the database is there."""

    @step(key=lambda n: n)
    async def blocks(ctx: PyWorkflow, n: int) -> None:
        time.sleep(0.3)  # noqa: ASYNC251  # it is what it must not do

    @workflow
    async def heavy(ctx: PyWorkflow) -> int:
        for n in range(6):
            await blocks(ctx, n)
        return 1

    async with no_hang(), Admin(dsn, installed, timeout=0.2, outage_timeout=1.5) as admin, Worker(admin, [heavy]):
        handles = [await admin.enqueue(heavy) for _ in range(2)]
        assert [await each.result() for each in handles] == [1, 1]
