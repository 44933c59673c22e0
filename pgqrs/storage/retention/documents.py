"""The document of a workflow: its row, its steps, its messages, its events and its attributes as JSON.

A payload is its JSON text, which is a string of the document: jsonb would change numbers.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from sqlalchemy import JSON, Table, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Attributes, Event, Message, Step, Workflow
from pgqrs.storage.retention.families import family_of, given_ids
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import ONE, number_literal, pg, text_literal, text_of, text_of_array

FORMAT = 1
"""The format of the documents."""

_PAIRS = 40
"""Maximum pairs of one call: a function has a hundred arguments at most."""

_EMPTY: ColumnElement[Any] = literal_column("'[]'::jsonb", JSONB())


class DocumentRepository:
    """The documents of workflows that are there, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def tree(self, workflow_id: int) -> list[str]:
        """Return the documents of a workflow, its children and their children, as texts, by id."""
        ids = await family_of(self._connection, [workflow_id])
        return list(await self._connection.scalars(documents(), {"ids": text_of_array(ids)}))


def documents() -> Any:
    """Return the query for the documents of the workflows of some `ids`, the text of an array."""
    given, own = given_ids(), aliased(Workflow, name="own")
    wanted = select(given.c.id).cte("wanted").prefix_with("MATERIALIZED")
    # The messages of all of them at once: there is no index by which to find the messages of one.
    found = (
        select(Message.workflow_id, messages_of(Message).label("messages"))
        .where(Message.workflow_id.in_(select(wanted.c.id)))
        .group_by(Message.workflow_id)
        .cte("found")
    )
    document = document_of(own, messages=func.coalesce(found.c.messages, _EMPTY)).label("document")
    query = select(own.id, document).where(own.id == wanted.c.id).limit(ONE).correlate_except(own)
    looked_up = query.lateral("looked_up")
    return (
        select(text_of(looked_up.c.document))
        .select_from(wanted)
        .join(found, found.c.workflow_id == wanted.c.id, isouter=True)
        .join(looked_up, true())
        .order_by(looked_up.c.id)
    )


def messages_of(message: Any) -> ColumnElement[Any]:
    """Return the aggregate of messages."""
    rows: ColumnElement[Any] = pg.jsonb_agg(aggregate_order_by(_row(Message, message), message.id), type_=JSONB())
    return rows


def document_of(workflow: Any, *, messages: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """Return the document of a workflow, an alias in the enclosing query, with these messages; none by default."""
    parts = {
        "format": number_literal(FORMAT),
        "workflow": _row(Workflow, workflow),
        "steps": _rows(Step, Step.workflow_id == workflow.id, Step.started_at, Step.step_id),
        "events": _rows(Event, Event.workflow_id == workflow.id, Event.name),
        "attributes": _rows(Attributes, Attributes.workflow_id == workflow.id, Attributes.workflow_id),
        "messages": _EMPTY if messages is None else messages,
    }
    return _object(list(parts.items()))


def columns_of(model: Any) -> dict[str, bool]:
    """Return the names of the columns of a model, and whether a column has payloads."""
    table: Table = model.__table__
    return {each.name: isinstance(each.type, JSON) and not isinstance(each.type, JSONB) for each in table.columns}


def _row(model: Any, row: Any) -> ColumnElement[Any]:
    values = [
        (name, text_of(getattr(row, name)) if is_payload else getattr(row, name))
        for name, is_payload in columns_of(model).items()
    ]
    objects = [_object(values[first : first + _PAIRS]) for first in range(0, len(values), _PAIRS)]
    return reduce(lambda left, right: left.op("||", return_type=JSONB())(right), objects)


def _rows(model: Any, own: ColumnElement[bool], *order: Any) -> ColumnElement[Any]:
    """Return the rows of a model that belong to a workflow, in order."""
    rows = pg.jsonb_agg(aggregate_order_by(_row(model, model), *order), type_=JSONB())
    return func.coalesce(select(rows).where(own).correlate_except(model).scalar_subquery(), _EMPTY)


def _object(pairs: list[tuple[str, Any]]) -> ColumnElement[Any]:
    parts = [part for name, value in pairs for part in (text_literal(name), value)]
    built: ColumnElement[Any] = pg.jsonb_build_object(*parts, type_=JSONB())
    return built
