"""Reads and deletes the values of states, in a transaction of the caller."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, select

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.models import State, Text, Workflow
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import text_of


class StateOwner(NamedTuple):
    """The owner of a state: the name and the partition key of its workflows; the key is None without one."""

    workflow: str
    partition_key: str | None


class StoredValue(NamedTuple):
    """A value of a state: JSON text, and the name of its codec, None for strict JSON."""

    value: str
    codec: str | None


class StateRepository:
    """The states of partition keys."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def owner(self, workflow_id: int) -> StateOwner:
        """Return the owner of the state of a workflow; raises `WorkflowNotFoundError`."""
        query = select(Workflow.name, Workflow.partition_key).where(Workflow.id == workflow_id)
        row: Any = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return StateOwner(*row)

    async def value(self, owner: StateOwner, name: str) -> StoredValue | None:
        """Return a value of a state, None without one."""
        query = select(text_of(State.value), State.codec).where(*_of_owner(), State.name == _bind("name"))
        row: Any = (await self._connection.execute(query, owner._asdict() | {"name": name})).one_or_none()
        return None if row is None else StoredValue(*row)

    async def values(self, owner: StateOwner) -> dict[str, StoredValue]:
        """Return all values of a state, by name."""
        query = select(State.name, text_of(State.value), State.codec).where(*_of_owner()).order_by(State.name)
        rows: Any = await self._connection.execute(query, owner._asdict())
        return {name: StoredValue(value, codec) for name, value, codec in rows}

    async def delete(self, owner: StateOwner) -> int:
        """Delete a state, and return the number of its values."""
        return (await self._connection.execute(delete(State).where(*_of_owner()), owner._asdict())).rowcount


def _of_owner() -> tuple[Any, ...]:
    return State.workflow == _bind("workflow"), State.partition_key == _bind("partition_key")


def _bind(name: str) -> Any:
    return bindparam(name, type_=Text())
