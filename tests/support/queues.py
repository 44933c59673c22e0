"""Workflows of one queue as rows: enqueued by hand, claimed without a worker, parked, made ready and ended."""

QUEUE = "mail"


async def planted(sql, key, count=1, *, name="w", priority=0, queue=QUEUE):
    """Enqueue workflows by hand, and return their ids."""
    rows = await sql.fetch(
        "INSERT INTO pgqrs_workflows (name, input, queue, partition_key, ready_at, priority)"
        " SELECT $1, '{}', $2, $3, now(), $4 FROM generate_series(1, $5) RETURNING id",
        name, queue, key, priority, count,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def claimed(watch, limit=100, queues=(QUEUE,), names=("w",)):
    return [run.workflow_id for run in await watch.claim(names, list(queues), limit)]


async def keys_of(sql, ids):
    rows = await sql.fetch("SELECT id, partition_key FROM pgqrs_workflows WHERE id = ANY($1)", ids)
    found = {row["id"]: row["partition_key"] for row in rows}
    return [found[each] for each in ids]


async def ended(sql, *ids):
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'SUCCESS', output = '1', completed_at = now(), executor = NULL,"
        " due_at = NULL, ready_at = NULL WHERE id = ANY($1)", list(ids),
    )  # fmt: skip


async def parked(sql, *ids):
    """Park running workflows, as a sleep of an hour does."""
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'WAITING', executor = NULL, due_at = now() + interval '1 h'"
        " WHERE id = ANY($1)", list(ids),
    )  # fmt: skip


async def woken(sql, *ids):
    """Make parked workflows ready."""
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'PENDING', executor = NULL, due_at = NULL, ready_at = now()"
        " WHERE id = ANY($1)", list(ids),
    )  # fmt: skip
