"""Writes the workflows of documents as new rows, in a transaction of the caller.

The values of a document are JSON, and PostgreSQL converts each to the type of its column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import REGCLASS, insert

from pgqrs.errors import ConfigurationError, KeyTakenError
from pgqrs.models import Attributes, Event, Message, Step, Text, Workflow
from pgqrs.storage.queries.workflows import WorkflowRepository, bigints
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import pg
from pgqrs.types import WorkflowStatus

ROWS: Final[Mapping[str, Any]] = {"steps": Step, "events": Event, "attributes": Attributes, "messages": Message}
"""The models of the rows of a document, by the key of their list."""

OVER: Final = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)

_OF_RUN: Final = {
    "claim": None,
    "executor": None,
    "ready_at": None,
    "due_at": None,
    "cancel_interrupts": None,
    "slot": None,
    "attempts": 0,
}
"""The values of the row of a live workflow without a run, and without the wait for one."""

_CHUNK = 1000
"""Maximum rows of one statement."""


class ImportRepository:
    """Writes the documents of a workflow and its descendants.

    `sequence` is the qualified and quoted name of the sequence of the workflow ids.
    """

    def __init__(self, connection: Connection, sequence: str) -> None:
        self._connection = connection
        self._sequence = sequence

    async def write(self, documents: Sequence[Mapping[str, Any]], *, keeps_ids: bool) -> int:
        """Write documents, a parent before its children, and return the id of the first workflow.

        Raises `ConfigurationError` if the ids are to be kept and are not free, and `KeyTakenError` if another
        workflow has the key of one.
        """
        own = [int(each["workflow"]["id"]) for each in documents]
        if keeps_ids:
            await self._check_free(own)
            ids = {each: each for each in own}
        else:
            repository = WorkflowRepository(self._connection)
            ids = dict(zip(own, await repository.reserve_ids(self._sequence, len(own)), strict=True))
        rows = [_workflow_row(each["workflow"], ids, keeps_ids=keeps_ids) for each in documents]
        await self._check_keys([each["workflow"] for each in documents])
        await self._insert(Workflow, rows)
        for key, model in ROWS.items():
            await self._insert(model, [_row_of(model, row, ids) for each in documents for row in each[key]])
        await self._connection.execute(_make_ready(list(ids.values())))
        return ids[own[0]]

    async def _check_free(self, ids: Sequence[int]) -> None:
        taken = await self._connection.scalar(_first_of(ids))
        if taken is not None:
            raise ConfigurationError(
                f"the id {taken} is not free: a workflow has it. Import the document with new ids, `ids='new'`."
            )
        drawn = await self._connection.scalar(_last_id(), {"sequence": self._sequence})
        if drawn is None or max(ids) > drawn:
            raise ConfigurationError(
                f"the id {max(ids)} was not given out by this database, and another workflow may get it. Import "
                "the document with new ids, `ids='new'`."
            )

    async def _check_keys(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for each in rows:
            if each["key"] is not None and not (each["completed_at"] is not None and each["releases_key"]):
                holder = await WorkflowRepository(self._connection).of_key(each["name"], each["key"])
                if holder is not None:
                    raise KeyTakenError(
                        int(each["id"]), each["name"], each["key"], holder.workflow_id, is_child=False
                    )

    async def _insert(self, model: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        names = list(rows[0])
        for first in range(0, len(rows), _CHUNK):
            values = [{f"new_{name}": row[name] for name in names} for row in rows[first : first + _CHUNK]]
            await self._connection.execute(_insert_into(model, names), values)


def _first_of(ids: Sequence[int]) -> Any:
    return select(pg.min(Workflow.id, type_=BigInteger())).where(Workflow.id == func.any(bigints(ids)))


def _insert_into(model: Any, names: Iterable[str]) -> Any:
    columns = model.__table__.c
    values = {name: _bind(name, columns[name].type) for name in names}
    statement = insert(model).values(values)
    # A message that came late to a deleted workflow of this id may have the address and the key.
    return statement.on_conflict_do_nothing() if model is Message else statement


def _bind(name: str, type_: Any) -> Any:
    if isinstance(type_, Text):
        return bindparam(f"new_{name}", type_=Text())
    if isinstance(type_, ARRAY):
        return bindparam(f"new_{name}", type_=ARRAY(Text()))
    return cast(bindparam(f"new_{name}", type_=Text()), type_)


def _workflow_row(row: Mapping[str, Any], ids: Mapping[int, int], *, keeps_ids: bool) -> dict[str, Any]:
    """Return the row of a workflow with its new ids; its parent is that of another document, or none."""
    written: dict[str, Any] = {**row, "id": ids[int(row["id"])]}
    written.pop("position", None)  # a trigger gives the place in the order
    parent = row["parent_id"]
    if parent is None or int(parent) not in ids:
        written |= {"parent_id": None, "parent_step": None, "place": None}
    else:
        written["parent_id"] = ids[int(parent)]
    batch = row["batch_id"]
    written["batch_id"] = None if batch is None else ids.get(int(batch))
    if not keeps_ids:
        # A schedule starts one workflow for each time.
        written |= {"schedule": None, "scheduled_for": None}
    if row["status"] not in OVER:
        written |= {**_OF_RUN, "status": WorkflowStatus.PENDING.value}
    return _texts(Workflow, written)


def _row_of(model: Any, row: Mapping[str, Any], ids: Mapping[int, int]) -> dict[str, Any]:
    written: dict[str, Any] = {**row, "workflow_id": ids[int(row["workflow_id"])]}
    if model is Message:
        written.pop("id", None)
    if written.get("address") is not None:
        written["address"] = _readdressed(written["address"], ids)
    return _texts(model, written)


def _readdressed(address: str, ids: Mapping[int, int]) -> str:
    """Return an address with the new id of its workflow; see `pgqrs.storage.sql.addresses`."""
    kind, _, rest = address.partition("/")
    number, slash, name = rest.partition("/")
    if kind == "e" or not number.isdigit() or int(number) not in ids:
        return address
    return f"{kind}/{ids[int(number)]}{slash}{name}"


def _texts(model: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns of a model as texts; a payload is a text already."""
    types = {each.name: each.type for each in model.__table__.columns}
    return {name: _text(types[name], value) for name, value in row.items()}


def _text(type_: Any, value: object) -> object:
    if value is None or isinstance(value, str) or isinstance(type_, ARRAY):
        return value
    return json.dumps(value)


def _make_ready(ids: Sequence[int]) -> Any:
    """Return the statement that makes the live workflows among some ids ready in their queues."""
    live = (Workflow.id == func.any(bigints(ids)), Workflow.completed_at.is_(None), Workflow.queue.is_not(None))
    return update(Workflow).where(*live).values(ready_at=func.now(), updated_at=func.now())


def _last_id() -> Any:
    """Return the query for the last id that a `sequence` has given out."""
    sequence = cast(bindparam("sequence", type_=Text()), REGCLASS())
    return select(pg.pg_sequence_last_value(sequence, type_=BigInteger()))
