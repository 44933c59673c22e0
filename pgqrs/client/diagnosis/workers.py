"""Lists the workers of a schema."""

from __future__ import annotations

from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.json import JsonCodec
from pgqrs.storage.diagnosis.workers import StoredWorker
from pgqrs.types import WorkerRecord
from pgqrs.workflow.batching.plan import BATCH_SUFFIX


async def list_workers(loops: LoopStates) -> list[WorkerRecord]:
    """Return the records of the workers whose executors have not stopped."""
    reader = (await loops.store()).reader
    return [_record(each) for each in await reader.workers()]


def _record(found: StoredWorker) -> WorkerRecord:
    queues = found.queues or []
    shares = [None] * len(queues) if found.shares is None else found.shares
    is_known = found.worker is not None
    return WorkerRecord(
        found.executor_id,
        found.host,
        found.pid,
        found.started_at,
        found.heartbeat_at,
        found.expires_at,
        found.is_suspected,
        found.running,
        _names(found) if is_known else None,
        dict(zip(queues, shares, strict=True)),
        found.concurrency,
        (found.codec or JsonCodec.name) if is_known else None,
    )


def _names(found: StoredWorker) -> tuple[str, ...]:
    """Return the names of the workflows, without those of the batches."""
    claimed = (each for each in found.names or () if not each.endswith(BATCH_SUFFIX))
    return tuple(sorted({*claimed, *(found.batched or ())}))
