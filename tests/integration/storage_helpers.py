"""What the tests of the storage share: waiting, records handed to the journal, and what stands in the tables."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

from sqlalchemy import select

from pgqrs.models import Workflow
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.journal import futures as answers
from pgqrs.storage.journal.creation import NewRun
from pgqrs.storage.journal.runs import RunStart

DEADLINE = 20.0


async def become_true(condition):
    """Wait until a condition holds, and fail when it does not in time."""
    async with asyncio.timeout(DEADLINE):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.005)


async def claimed(database, *records):
    """Return records with the claim of their run: of the one with their epoch, or of one that is started among them."""
    ids = [record.workflow_id for record in records if hasattr(record, "epoch") and not record.claim]
    runs = {}
    if ids:
        query = select(Workflow.id, Workflow.epoch, Workflow.claim).where(Workflow.id.in_(ids))
        rows = await database.run_with_retries(lambda connection: connection.execute(query))
        runs = {(row.id, row.epoch): row.claim for row in rows}
    for record in records:
        if isinstance(record, RunStart | NewRun):
            runs[record.workflow_id, 1] = record.claim if isinstance(record, RunStart) else record.token
    return [
        record._replace(claim=runs.get((record.workflow_id, record.epoch)) or 0)
        if hasattr(record, "epoch") and not record.claim else record
        for record in records
    ]  # fmt: skip


async def end_run(store, record):
    """Record the end of the run of a workflow."""
    await store.write_end(*await claimed(store.database, record))


async def leave_run(store, record):
    """Record that the run of a workflow was left."""
    await store.write_end(*await claimed(store.database, record))


async def fail_attempt(store, record):
    """Record a failed attempt of a step."""
    await store.record_failure(*await claimed(store.database, record))


async def submit(journal, record):
    """Hand a record in and return the future of what becomes of it."""
    (record,) = await claimed(journal._database, record)
    await journal.wait_for_capacity()
    future = asyncio.get_running_loop().create_future()
    journal.submit(record, partial(answers.resolve, future))
    return future


async def offered(journal, records):
    """Submit records in one go, so that they gather in a batch, and wait until each has an answer."""
    futures = [await submit(journal, record) for record in await claimed(journal._database, *records)]
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*futures, return_exceptions=True)


@asynccontextmanager
async def watching(store, executor_id=None, on_notify=lambda queue: None):
    """Watch the queues for an executor, or for one whose signs of life the test makes up."""
    watch = (
        await store.claim_connection(on_notify)
        if executor_id is None
        else ClaimConnection(store.database, executor_id, on_notify)
    )
    try:
        yield watch
    finally:
        await watch.close()


async def planted_executor(
    truth,
    executor_id=None,
    *,
    lock_key=None,
    backend_pid=None,
    expires_in=3600.0,
    expiry=None,
    suspected=None,
    stopped=False,
):
    """Register an executor that lives as long as the test says; `suspected` is since how many seconds."""
    executor_id = executor_id or uuid4()
    await truth.execute(
        "INSERT INTO pgqrs_executors"
        " (id, lock_key, host, pid, expires_at, suspected_at, stopped_at, backend_pid, expiry)"
        " VALUES ($1, $2, 'planted', 1, now() + $3 * interval '1 second', now() - $4 * interval '1 second', $5, $6, $7)",
        executor_id, lock_key, expires_in, suspected, await truth.fetchval("SELECT now()") if stopped else None,
        backend_pid, expiry,
    )  # fmt: skip
    return executor_id


async def row_of(truth, workflow_id):
    return await truth.fetchrow("SELECT * FROM pgqrs_workflows WHERE id = $1", workflow_id)


async def tables(truth):
    """Return everything that is recorded, as text."""
    workflows = await truth.fetch("SELECT w::text FROM pgqrs_workflows w ORDER BY id")
    return workflows, await truth.fetch("SELECT s::text FROM pgqrs_workflow_steps s ORDER BY workflow_id, step_id")
