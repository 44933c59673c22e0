"""Children with a key of their own, of which a step starts one."""

from __future__ import annotations

import asyncio

from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import KeyTakenError
from pgqrs.storage.records import WorkflowIdentity
from pgqrs.storage.sql.addresses import in_generation
from pgqrs.storage.writes.children import KeyedStart, NewChild, TracedStart
from pgqrs.types import Until

LOCKED_PAUSE = 0.02
"""Seconds before a start is written again that another transaction has held up."""


async def start_with_key(
    run: Run, execution: StepExecution, child: NewChild, key: str, until: Until
) -> WorkflowIdentity | KeyTakenError:
    """Write a child with a key, and return its identity; an error if another workflow has the key.

    The child is written before the record of its step: if the process dies in between, the next run finds it at
    its place. Raises the stop of a run that may write no more.
    """
    workflow_id, epoch, step_id, claim = execution.started
    name = in_generation(run.steps.history.generation, step_id)
    plain = KeyedStart(
        workflow_id,
        epoch,
        name,
        claim,
        child.child_id,
        child.name,
        child.input,
        child.queue,
        child.priority,
        child.delay,
        child.timeout,
        child.codec,
        child.token,
        child.ends_with_parent,
        key,
        until == "end",
        child.partition_key,
        child.attributes,
    )
    record = plain if child.trace is None else TracedStart(*plain, child.trace)
    while True:
        is_written = await run.steps.write(execution, record)
        run.check()
        if is_written:
            return WorkflowIdentity(record.child_id, child.token)
        run.lifecycle.raise_if_replaying()
        started, holder = await run.reader.keyed_child(workflow_id, name, child.name, key)
        if started is not None:
            return started
        if holder is not None:
            return KeyTakenError(workflow_id, child.name, key, holder.workflow_id, is_child=True)
        if await run.forget_ids_if_taken({record.child_id: record.token}):
            record = record._replace(child_id=await run.next_id())
        else:
            await asyncio.sleep(LOCKED_PAUSE)
