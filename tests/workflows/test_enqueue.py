"""Enqueueing: keys, options, `enqueue_many`, and submissions that are refused before they are written."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    NotInstalledError,
    PyWorkflow,
    SerializationError,
    Worker,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.client import enqueue as submitter
from tests.support.waiting import no_hang


@workflow
async def greet(ctx: PyWorkflow, name: str, *, loud: bool = False) -> str:
    return f"hello {name}{'!' if loud else ''}"


@workflow(name="other")
async def other(ctx: PyWorkflow, name: str) -> str:
    return name


async def test_enqueue_stores_the_workflow_before_it_returns(admin, sql):
    handle = await admin.enqueue(greet, "ann", loud=True)
    row = await sql.fetchrow("SELECT * FROM pgqrs_workflows WHERE id = $1", handle.id)
    assert (row["name"], row["status"], row["queue"], row["priority"]) == ("greet", "PENDING", "default", 0)
    assert row["input"] == '{"args":["ann"],"kwargs":{"loud":true}}'
    assert row["ready_at"] is not None
    assert (row["due_at"], row["executor"], row["key"], row["timeout"]) == (None, None, None, None)


async def test_options_are_recorded(admin, sql):
    submit = admin.options(key="k", queue="q", priority=-7, delay=timedelta(hours=1), timeout=90)
    handle = await submit.enqueue(greet, "ann")
    row = await sql.fetchrow(
        "SELECT *, due_at - created_at AS delay FROM pgqrs_workflows WHERE id = $1", handle.id
    )
    assert (row["key"], row["queue"], row["priority"], row["timeout"]) == ("k", "q", -7, 90.0)
    assert (row["ready_at"], row["delay"]) == (None, timedelta(hours=1))


async def test_calls_with_one_key_return_one_workflow(admin, dsn, schema):
    async with Admin(dsn, schema) as elsewhere:
        given = [each.options(key="k").enqueue(greet, "ann") for n in range(25) for each in (admin, elsewhere)]
        handles = await asyncio.gather(*given)
    assert len({each.id for each in handles}) == 1
    assert (await admin.options(key="k").enqueue(other, "ann")).id != handles[0].id
    assert (await admin.options(key="K").enqueue(greet, "ann")).id != handles[0].id
    assert len(await admin.list_workflows()) == 3


async def test_a_key_outlives_the_end_of_its_workflow(admin):
    async with no_hang(), Worker(admin, [greet]):
        first = await admin.options(key="k").enqueue(greet, "ann")
        assert await first.result() == "hello ann"
        second = await admin.options(key="k", on_conflict="ignore").enqueue(greet, "bob")
        assert (second.id, await second.result()) == (first.id, "hello ann")


async def test_enqueue_many_keeps_order_and_every_workflow_runs(admin):
    handles = await admin.enqueue_many(greet, ((str(n),) for n in range(500)))
    assert [each.id for each in handles] == sorted({each.id for each in handles})
    async with no_hang(), Worker(admin, [greet]):
        results = await asyncio.gather(*(each.result() for each in handles))
    assert results == [f"hello {n}" for n in range(500)]


async def test_enqueue_many_bounds_rows_and_bytes_of_a_batch(admin, sql, monkeypatch):
    monkeypatch.setattr(submitter, "BATCH_SIZE", 40)
    monkeypatch.setattr(submitter, "BATCH_BYTES", 10_000)
    query = "SELECT count(*) FROM pgqrs_workflows WHERE queue = $1 GROUP BY xmin::text ORDER BY min(id)"
    for queue, size, counts in (("small", 10, [40, 40, 20]), ("large", 4_000, [3] * 33 + [1])):
        handles = await admin.options(queue=queue).enqueue_many(greet, [("x" * size,)] * 100)
        assert len({each.id for each in handles}) == 100
        assert [row["count"] for row in await sql.fetch(query, queue)] == counts
    huge = [("x" * 20_000,)] * 2
    await admin.options(queue="huge").enqueue_many(greet, huge)
    assert [row["count"] for row in await sql.fetch(query, "huge")] == [1, 1]


async def test_enqueue_many_consumes_its_input_batch_by_batch(admin, monkeypatch):
    monkeypatch.setattr(submitter, "BATCH_SIZE", 2)

    def names():
        yield from [("ann",), ("bob",)]
        raise LookupError

    with pytest.raises(LookupError):
        await admin.enqueue_many(greet, names())
    assert len(await admin.list_workflows()) == 2


async def test_enqueue_many_reuses_workflows_of_repeated_keys(admin):
    before = await admin.options(key="n0").enqueue(greet, "0")
    names = [("0",), ("1",), ("2",), ("1",), ("0",), ("3",)]
    handles = await admin.enqueue_many(greet, names, key=lambda name: f"n{name}")
    ids = [each.id for each in handles]
    assert ids[0] == ids[4] == before.id
    assert ids[1] == ids[3]
    assert len(set(ids)) == 4
    again = await admin.options(queue="q").enqueue_many(greet, names, key=lambda name: f"n{name}")
    assert [each.id for each in again] == ids
    assert len(await admin.list_workflows()) == 4


async def test_concurrent_enqueue_many_with_reversed_keys_agree(admin, dsn, schema):
    names = [(str(n),) for n in range(300)]

    async def enqueued(own, inputs):
        return {
            each[0]: handle.id
            for each, handle in zip(inputs, await own.enqueue_many(greet, inputs, key=str), strict=True)
        }

    async with no_hang(), Admin(dsn, schema) as elsewhere:
        one, two = await asyncio.gather(enqueued(admin, names), enqueued(elsewhere, names[::-1]))
    assert one == two


async def test_enqueue_many_sends_few_statements(admin, sql):
    began = time.monotonic()
    handles = await admin.enqueue_many(greet, ((str(n),) for n in range(20_000)))
    assert time.monotonic() - began < 10
    assert len({each.id for each in handles}) == 20_000
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 20_000
    # Rows of one statement have one transaction time.
    assert await sql.fetchval("SELECT count(DISTINCT created_at) FROM pgqrs_workflows") <= 4


async def test_delayed_workflow_starts_when_due(admin):
    async with no_hang(), Worker(admin, [greet]):
        began = time.monotonic()
        assert await (await admin.options(delay=0.5).enqueue(greet, "ann")).result() == "hello ann"
        assert 0.5 <= time.monotonic() - began < 3


async def test_submitted_timeout_overrides_the_workflow_timeout(admin):
    @step
    async def endless(ctx: PyWorkflow) -> None:
        await asyncio.Event().wait()

    @workflow(timeout=3600)
    async def slow(ctx: PyWorkflow) -> None:
        await endless(ctx)

    async with no_hang(), Worker(admin, [slow]):
        with pytest.raises(WorkflowTimeoutError):
            await (await admin.options(timeout=0.3).enqueue(slow)).result()


async def test_run_with_a_key_uses_the_existing_workflow(admin):
    submit = admin.options(key="k", queue="nobody", priority=3, on_conflict="ignore")
    assert await submit.run(greet, "ann") == "hello ann"
    assert await submit.run(greet, "bob") == "hello ann"
    queued = await admin.options(key="q", queue="nobody").enqueue(greet, "cid", loud=True)
    assert await admin.options(key="q", on_conflict="ignore").run(greet, "dan") == "hello cid!"
    assert await queued.result() == "hello cid!"
    [first] = await admin.list_workflows(after=2)
    assert (first.queue, first.priority, first.key) == ("nobody", 3, "k")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": ""}, InvalidNameError),
        ({"key": 7}, InvalidNameError),
        ({"key": "a\0"}, InvalidNameError),
        ({"key": "k" * 513}, InvalidNameError),
        ({"queue": ""}, InvalidNameError),
        ({"queue": None}, InvalidNameError),
        ({"queue": "\ud800"}, InvalidNameError),
        ({"priority": True}, TypeError),
        ({"priority": 1.0}, TypeError),
        ({"priority": 2**63}, ConfigurationError),
        ({"priority": -(2**63) - 1}, ConfigurationError),
        ({"delay": -0.1}, ConfigurationError),
        ({"delay": float("nan")}, ConfigurationError),
        ({"delay": float("inf")}, ConfigurationError),
        ({"delay": 10**400}, ConfigurationError),
        ({"delay": timedelta(seconds=-1)}, ConfigurationError),
        ({"delay": "1"}, TypeError),
        ({"delay": True}, TypeError),
        ({"timeout": 0}, ConfigurationError),
        ({"timeout": float("nan")}, ConfigurationError),
        ({"timeout": timedelta.max}, ConfigurationError),
    ],
    ids=str,
)
async def test_invalid_options_are_refused(admin, options, error):
    with pytest.raises(error):
        admin.options(**options)


@pytest.mark.parametrize("priority", [2**63 - 1, -(2**63)])
async def test_bigint_limits_are_valid_priorities(admin, priority):
    handle = await admin.options(priority=priority, delay=0, key="k" * 512, queue="q" * 512).enqueue(greet, "ann")
    async with no_hang(), Worker(admin, [greet], queues=["q" * 512]):
        assert await handle.result() == "hello ann"


async def test_invalid_submissions_raise_in_the_caller(admin):
    with pytest.raises(
        TypeError, match="'greet' does not accept these arguments: missing a required argument: 'name'"
    ):
        await admin.enqueue(greet)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lowd'"):
        await admin.enqueue(greet, "ann", lowd=True)
    with pytest.raises(TypeError, match="not a workflow"):
        await admin.enqueue(print, "ann")
    with pytest.raises(SerializationError):
        await admin.enqueue(greet, object())
    with pytest.raises(TypeError, match="must be a tuple of arguments, got str"):
        await admin.enqueue_many(greet, ["ann"])
    with pytest.raises(TypeError, match="too many positional"):
        await admin.enqueue_many(greet, [("ann", "bob")])
    with pytest.raises(InvalidNameError):
        await admin.enqueue_many(greet, [("ann",)], key=len)
    with pytest.raises(ConfigurationError, match="a key identifies one workflow"):
        await admin.options(key="k").enqueue_many(greet, [("ann",)])
    with pytest.raises(ConfigurationError, match="no delay"):
        await admin.options(delay=1).run(greet, "ann")
    assert await admin.enqueue_many(greet, []) == []
    assert await admin.list_workflows() == []


async def test_missing_tables_raise_not_installed(dsn):
    async with Admin(dsn, "no_such_schema_here") as bare:
        with pytest.raises(NotInstalledError):
            await bare.enqueue(greet, "ann")
        with pytest.raises(NotInstalledError):
            await Worker(bare, [greet]).run()
