"""Executors: their claim connections, and rows of executors that a test makes up."""

from contextlib import asynccontextmanager
from uuid import uuid4

from pgqrs.storage.claim_connection import ClaimConnection


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
    sql,
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
    await sql.execute(
        "INSERT INTO pgqrs_executors"
        " (id, lock_key, host, pid, expires_at, suspected_at, stopped_at, backend_pid, expiry)"
        " VALUES ($1, $2, 'planted', 1, now() + $3 * interval '1 second', now() - $4 * interval '1 second', $5, $6, $7)",
        executor_id, lock_key, expires_in, suspected, await sql.fetchval("SELECT now()") if stopped else None,
        backend_pid, expiry,
    )  # fmt: skip
    return executor_id
