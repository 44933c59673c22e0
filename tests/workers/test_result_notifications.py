"""Results of workflows that run in another process: their callers hear of the end, and poll all the same."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from pgqrs import Admin, PyWorkflow, Worker, workflow
from pgqrs.client import poller, result_poller
from pgqrs.storage import result_listener
from pgqrs.storage.sql.channels import RESULTS, mark_of, parse_ids, result_channel
from tests.support.waiting import no_hang, until


@workflow
async def waiter(ctx: PyWorkflow) -> str:
    return await ctx.receive("word")


@asynccontextmanager
async def worker_elsewhere(dsn, schema):
    """A worker of another `Admin`, which shares nothing with the one that waits but the server; yield its notifier."""
    async with Admin(dsn, schema) as other, Worker(other, [waiter]) as worker:
        yield worker._services._results


@pytest.fixture
def unpolled(monkeypatch):
    """Let the first poll of a wait be the last one that is not due to a notification."""
    monkeypatch.setattr(poller, "MIN_POLL_INTERVAL", 3600.0)
    monkeypatch.setattr(result_poller, "LISTEN_AFTER", -1.0)


async def listening(admin):
    store = await admin.store()
    await until(lambda: store.results._connection.is_open and store.results._task is None)
    return store.results._connection.driver


async def test_caller_hears_of_an_end_in_another_process(admin, dsn, schema, unpolled):
    async with no_hang(), worker_elsewhere(dsn, schema) as notifier:
        handles = [await admin.enqueue(waiter) for _ in range(3)]
        results = asyncio.gather(*(each.result() for each in handles))
        await until(lambda: notifier._until)  # it knows that another process listens
        for each in handles:
            await admin.send(each.id, "word", "hello")
        assert await results == ["hello"] * 3


async def test_caller_listens_again_after_its_connection_was_lost(admin, dsn, schema, sql, monkeypatch):
    monkeypatch.setattr(result_poller, "LISTEN_AFTER", -1.0)
    monkeypatch.setattr(result_listener, "RENEWAL", 0.05)
    async with no_hang(), worker_elsewhere(dsn, schema):
        handle = await admin.enqueue(waiter)
        result = asyncio.create_task(handle.result())
        lost = await listening(admin)
        await sql.execute("SELECT pg_terminate_backend($1)", lost.get_server_pid())
        await until(lost.is_closed)
        await until(lambda: _another(admin, lost))
        await admin.send(handle.id, "word", "hello")
        assert await result == "hello"


async def _another(admin, lost):
    driver = (await admin.store()).results._connection.driver
    return driver is not None and driver is not lost and not driver.is_closed()


async def test_idle_connection_is_closed_and_opened_again(admin):
    listener = (await admin.store()).results
    for _ in range(2):
        listener.keep_listening()
        driver = await listening(admin)
        listener.keep_listening()  # it does, for a while
        assert listener._task is None
        listener._close_if_idle()
        await until(driver.is_closed)
        listener._due = 0.0


async def test_short_wait_opens_no_connection(admin, dsn, schema, monkeypatch):
    monkeypatch.setattr(result_poller, "LISTEN_AFTER", 3600.0)
    async with no_hang(), worker_elsewhere(dsn, schema):
        handle = await admin.enqueue(waiter)
        await admin.send(handle.id, "word", "hello")
        assert await handle.result() == "hello"
    assert (await admin.store()).results._connection.driver is None


async def test_notifications_of_other_roles_are_harmless(admin, sql, unpolled):
    looks = []
    state = await admin.loop_state()
    look = state.results._results

    async def counted(ids):
        looks.append(ids)
        return await look(ids)

    state.results._results = counted
    handle = await admin.enqueue(waiter)
    result = asyncio.create_task(handle.result())
    await listening(admin)
    channel = result_channel(admin.schema)
    began = asyncio.get_running_loop().time()
    for payload in ("", "x", f"{2**70}", "-1", "1,,2", f"{handle.id}", *[f"{handle.id}"] * 500):
        await sql.execute("SELECT pg_notify($1, $2)", channel, payload)
    seconds = asyncio.get_running_loop().time() - began
    assert len(looks) <= 3 + seconds / result_poller.MIN_LOOK_INTERVAL
    assert not result.done()
    result.cancel()


def test_payload_of_another_role_has_only_its_ids():
    assert parse_ids("1,x,,-2,3.5,99999999999999999999999,7") == [1, 7]
    assert mark_of(RESULTS) != mark_of("results")
