"""Records handed to the journal, with the claim of their run."""

import asyncio

from sqlalchemy import select

from pgqrs.models import Workflow
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import NewRun, Submission
from pgqrs.storage.writes.runs import RunStart
from tests.support.waiting import DEADLINE


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
    await store.journal.write(*await claimed(store.database, record))


async def enqueue(store, name, text, *, queue="default", priority=0, delay=None, timeout=None, key=None):
    """Write a workflow for workers, and return its id."""
    (workflow_id,) = await enqueue_many(store, [Submission(0, name, text, queue, priority, delay, timeout, key)])
    return workflow_id


async def enqueue_many(store, submissions):
    """Write workflows of one name for workers, and return their ids."""
    new = [each._replace(token=new_token()) for each in submissions]
    return [each.workflow_id for each in await store.operations.submit(new)]


async def submit(journal, record):
    """Hand a record in and return the future of what becomes of it."""
    (record,) = await claimed(journal._database, record)
    await journal.wait_for_capacity()
    return journal.submit(record)


async def offered(journal, records):
    """Submit records in one go, so that they gather in a batch, and wait until each has an answer."""
    futures = [await submit(journal, record) for record in await claimed(journal._database, *records)]
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*futures, return_exceptions=True)
