"""Inserts new workflows on any connection, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select

from pgqrs.models import Workflow
from pgqrs.storage.queries.workflows import bigints, of_keys
from pgqrs.storage.records import KeyOwner, from_row
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.writes.creation import AnySubmission, NewWorkflow
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.operation import RETRY, CurrentState
from pgqrs.storage.writes.outbox import EmittedEvent
from pgqrs.storage.writes.registry import CALLER_CURRENT_STATE, CALLER_ENQUEUE, OPERATIONS, AskedRecord


async def insert_workflow(connection: Connection, new: NewWorkflow) -> bool:
    """Insert a workflow that no executor runs yet, and return whether its id was free."""
    kind = OPERATIONS[NewWorkflow]
    return (await connection.execute(kind.statement(single=True), kind.values(new))).first() is not None


async def insert_message(connection: Connection, message: SentMessage) -> None:
    """Insert a message to a workflow that has not ended; raises the reason why the workflow cannot get it."""
    kind = OPERATIONS[SentMessage]
    while (await connection.execute(kind.statement(single=True), kind.values(message))).first() is None:
        asked = CALLER_CURRENT_STATE.arrays([AskedRecord(message.workflow_id, None)])
        row = (await connection.execute(CALLER_CURRENT_STATE.statement(), asked)).mappings().one()
        reason = kind.resolve_missing(message, from_row(CurrentState, row))
        if reason is not RETRY:
            raise reason


async def insert_event(connection: Connection, event: EmittedEvent) -> bool:
    """Insert an event of the schema unless it has a value, and return whether it has this value now."""
    kind = OPERATIONS[EmittedEvent]
    return (await connection.execute(kind.statement(single=True), kind.values(event))).first() is not None


async def enqueue_workflows(connection: Connection, new: Sequence[AnySubmission]) -> dict[int, int | KeyOwner]:
    """Insert workflows of one name and one type of record for workers to claim, and return their ids by token.

    Of the workflows that share a key, the first is inserted unless the key was already taken; for each other token
    the result is the workflow that has the key. The result omits a token whose id another workflow has, and a
    token whose key was released since.
    """
    kind = CALLER_ENQUEUE[type(new[0])]
    has_attributes = any(each.attributes is not None for each in new)
    statement = kind.with_attributes() if has_attributes else kind.statement()
    rows: Any = await connection.execute(statement, kind.arrays(new))
    written = {row.workflow_id for row in rows}
    found: dict[int, int | KeyOwner] = {
        each.token: each.workflow_id for each in new if each.workflow_id in written
    }
    left = {each.workflow_id: each for each in new if each.workflow_id not in written}
    if left:
        # Workflows that an earlier attempt has written, and then the workflows that have the keys.
        query = select(Workflow.id, Workflow.token).where(Workflow.id == func.any(bigints(left)))
        there: Any = await connection.execute(query)
        found |= {token: own for own, token in there if token == left[own].token}
    keys = {each.token: each.key for each in left.values() if each.key and each.token not in found}
    taken = await _of_keys(connection, new[0].name, list(set(keys.values()))) if keys else {}
    return found | {token: taken[key] for token, key in keys.items() if key in taken}


async def _of_keys(connection: Connection, name: str, keys: Sequence[str]) -> dict[str, KeyOwner]:
    """Return the workflows of this name that have these keys."""
    rows = (await connection.execute(of_keys(), {"name": name, "keys": list(keys)})).mappings()
    return {row["key"]: from_row(KeyOwner, row) for row in rows}
