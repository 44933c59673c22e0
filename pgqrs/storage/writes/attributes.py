"""The writes of attributes and tags, in the statements that insert their workflows or record a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

from sqlalchemy import cast as as_type
from sqlalchemy import distinct, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import SerializationError
from pgqrs.models import Attributes, Text
from pgqrs.storage.sql.expressions import pg
from pgqrs.storage.writes.columns import CallerColumns
from pgqrs.storage.writes.operation import Companion
from pgqrs.validation import check_name


class GivenAttributes(NamedTuple):
    """The attributes of a workflow, JSON text, and its tags, the text of an array."""

    attributes: str
    tags: str


class WrittenAttributes(NamedTuple):
    """A row to write: the attributes and tags of the workflow `owner_id`.

    `workflow_id` and `key` are those of the answer of the record with which they are written.
    """

    workflow_id: int
    key: str | None
    owner_id: int
    attributes: str
    tags: str


def given_attributes(attributes: Mapping[str, Any] | None, tags: str | Iterable[str]) -> GivenAttributes | None:
    """Return attributes and tags as texts, None if there is none of them.

    Raises `SerializationError` for values that JSON does not have, `InvalidNameError` for a tag that cannot be
    stored, and `TypeError` for no mapping.
    """
    text, listed = attributes_text(attributes or {}), tags_of(tags)
    if not attributes and not listed:
        return None
    quoted = ('"{}"'.format(each.replace("\\", "\\\\").replace('"', '\\"')) for each in dict.fromkeys(listed))
    return GivenAttributes(text, f"{{{','.join(quoted)}}}")


def tags_of(given: str | Iterable[str] | None) -> Collection[str]:
    """Return tags as a collection: a string is one tag; raises `InvalidNameError` as `given_attributes` does."""
    listed = [] if given is None else [given] if isinstance(given, str) else list(given)
    for each in listed:
        check_name("tag", each)
    return listed


def attributes_text(attributes: Mapping[str, Any]) -> str:
    """Return attributes as JSON text; raises as `given_attributes` does."""
    if not isinstance(cast(object, attributes), Mapping):
        raise TypeError(f"attributes must be a mapping of names to JSON values, got {type(attributes).__name__}.")
    try:
        return JsonCodec().encode(dict(attributes)).text
    except SerializationError as error:
        error.add_note("Attributes are plain JSON, whatever the codec: the database searches in them.")
        raise


class InsertAttributes(Companion[WrittenAttributes]):
    """Insert the attributes of the workflows that the same statement inserts."""

    record = WrittenAttributes

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the insert."""
        return _insert(self._given(written)).on_conflict_do_nothing()

    def _given(self, written: Any) -> Any:
        rows = self.rows()
        is_written = (written.c.workflow_id == rows.c.workflow_id) & rows.c.key.is_not_distinct_from(written.c.key)
        return _values(rows.c).join_from(rows, written, is_written).order_by(rows.c.owner_id)


class CallerInsertAttributes(CallerColumns[WrittenAttributes], InsertAttributes):
    """Insert the attributes of workflows, in the caller's session."""


class SetAttributes(InsertAttributes):
    """Add attributes and tags to the workflows of the steps that the same statement records.

    A new value of an attribute replaces the older one.
    """

    def statement_after(self, written: Any) -> Any:
        """Return the insert."""
        statement = _insert(self._given(written))
        new = statement.excluded
        tag = pg.unnest(pg.array_cat(Attributes.tags, new.tags, type_=ARRAY(Text()))).column_valued("tag")
        tags = select(func.coalesce(pg.array_agg(distinct(tag)), literal_column("'{}'"))).scalar_subquery()
        return statement.on_conflict_do_update(
            index_elements=[Attributes.workflow_id],
            set_={
                "attributes": Attributes.attributes.op("OPERATOR(pg_catalog.||)")(new.attributes),
                "tags": tags,
            },
        )


def insert_values(given: Any) -> Any:
    """Return the insert of rows, whose columns are those of `WrittenAttributes`."""
    return _insert(_values(given).order_by(given.owner_id))


def replace_values(given: Any) -> Any:
    """Return the insert of rows, as `insert_values`, which replaces the attributes and tags that are there."""
    statement = insert_values(given)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[Attributes.workflow_id], set_={"attributes": new.attributes, "tags": new.tags}
    )


def _values(given: Any) -> Any:
    return select(given.owner_id, as_type(given.attributes, JSONB()), as_type(given.tags, ARRAY(Text())))


def _insert(values: Any) -> Any:
    columns = [Attributes.workflow_id, Attributes.attributes, Attributes.tags]
    return insert(Attributes).from_select(columns, values, include_defaults=False)
