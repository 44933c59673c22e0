"""`WorkflowFilter`, the conditions by which workflows are listed, counted and selected, and their SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sized
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias, TypedDict
from typing import cast as as_type

from sqlalchemy import Integer, cast, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import ConfigurationError
from pgqrs.models import Attributes, Text, Workflow
from pgqrs.storage.queries.workflows import shown_status
from pgqrs.storage.sql.expressions import pg, text_literal, text_of
from pgqrs.storage.writes.attributes import attributes_text, tags_of
from pgqrs.types import WorkflowStatus
from pgqrs.validation import check_aware, check_is_int, check_name

Times: TypeAlias = tuple[datetime | None, datetime | None]
"""A range of times: the first that counts, and the first after it that does not count; None for no bound."""

FAILED = (WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)
"""The statuses that have an index of their own."""

_OVER = (*FAILED, WorkflowStatus.SUCCESS)


class FilterConditions(TypedDict, total=False):
    """The conditions of a `WorkflowFilter` as keyword arguments."""

    name: str | Collection[str] | None
    status: WorkflowStatus | str | Collection[WorkflowStatus | str] | None
    queue: str | Collection[str] | None
    key: str | None
    partition_key: str | None
    tags: str | Collection[str]
    any_tags: str | Collection[str]
    attributes: Mapping[str, Any] | None
    parent: int | None
    error: str | None
    created: Times | None
    completed: Times | None
    where: ColumnElement[bool] | None


class WorkflowFilter(NamedTuple):
    """Conditions on workflows, set by name; a workflow is selected if it satisfies all of them.

    The methods that take a filter raise `ConfigurationError` for a naive time and for a `where` about another
    table without a subquery, `InvalidNameError` for a name, a key or a tag that cannot be stored,
    `SerializationError` for attributes that are no JSON, and `TypeError` or `ValueError` for another value that no
    workflow can have.

    Attributes:
        name: The name of the workflows, or several names.
        status: The status of the workflows, or several statuses; see `WorkflowRecord.status`.
        queue: The queue of the workflows, or several queues.
        key: The idempotency key of the workflows.
        partition_key: The partition key of the workflows.
        tags: A tag, or several tags, all of which the workflows have.
        any_tags: Tags of which the workflows have one at least.
        attributes: Attributes that the workflows have, as in ``{"customer": 7}``. An object and a list match if
            they contain the given members, so ``{"address": {"country": "DE"}}`` is the condition on a path.
        parent: The id of the workflow that has started the workflows as its children.
        error: A text that the recorded error contains, in upper or lower case. An encrypted error contains none.
        created: The range of times in which the workflows were created, ``(first, end)``: aware datetimes, or None
            for no bound. The end does not count.
        completed: The range of times in which the workflows ended.
        where: An SQLAlchemy condition on `pgqrs.models.Workflow`, which may have subqueries of other tables.
    """

    name: str | Collection[str] | None = None
    status: WorkflowStatus | str | Collection[WorkflowStatus | str] | None = None
    queue: str | Collection[str] | None = None
    key: str | None = None
    partition_key: str | None = None
    tags: str | Collection[str] = ()
    any_tags: str | Collection[str] = ()
    attributes: Mapping[str, Any] | None = None
    parent: int | None = None
    error: str | None = None
    created: Times | None = None
    completed: Times | None = None
    where: ColumnElement[bool] | None = None

    def check(self) -> None:
        """Raise the error of a condition that cannot be meant; see the class."""
        for what in ("name", "queue"):
            _check_names(f"{what} of a filter", _several(getattr(self, what)))
        for what in ("key", "partition_key"):
            _check_names(what.replace("_", " "), _several(getattr(self, what)))
        for tags in (self.tags, self.any_tags):
            tags_of(tags)
        if self.attributes is not None:
            attributes_text(self.attributes)
        if self.parent is not None:
            check_is_int("`parent`", self.parent)
        if self.error is not None and not isinstance(as_type(object, self.error), str):
            raise TypeError(f"`error` must be a str, got {type(self.error).__name__}.")
        for what in ("created", "completed"):
            _check_times(what, getattr(self, what))
        _check_condition(self.where)
        self.statuses()

    def conditions(self) -> frozenset[str]:
        """Return the names of the conditions that are set."""
        return frozenset(name for name, value in self._asdict().items() if _is_set(value))

    def statuses(self) -> frozenset[WorkflowStatus] | None:
        """Return the statuses; None for all."""
        given = self.status
        if given is None:
            return None
        return frozenset(map(WorkflowStatus, [given] if isinstance(given, str) else given))


def filter_of(matching: WorkflowFilter | None, conditions: FilterConditions) -> WorkflowFilter:
    """Return a filter that is given as a record or by keyword arguments; raises as `check` does."""
    if matching is None:
        given = WorkflowFilter(**conditions)
        given.check()
        return given
    if not isinstance(as_type(object, matching), WorkflowFilter):
        raise TypeError(f"the filter must be a WorkflowFilter, got {type(matching).__name__}.")
    if conditions:
        raise ConfigurationError(
            f"a WorkflowFilter has all conditions: set {', '.join(sorted(conditions))} in the filter."
        )
    matching.check()
    return matching


def conditions_of(given: WorkflowFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter on `Workflow`."""
    described = conditions_on_attributes(given)
    found = conditions_on_row(given)
    return [*found, Workflow.id.in_(select(Attributes.workflow_id).where(*described))] if described else found


def conditions_on_row(given: WorkflowFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter on `Workflow`, without the ones on attributes and tags."""
    found = [
        *_is_one_of(Workflow.name, given.name),
        *_is_one_of(Workflow.queue, given.queue),
        *_is_one_of(Workflow.key, given.key),
        *_is_one_of(Workflow.partition_key, given.partition_key),
        *_has_status(given.statuses()),
        *_is_within(Workflow.created_at, given.created),
        *_is_within(Workflow.completed_at, given.completed),
    ]
    if given.parent is not None:
        found.append(Workflow.parent_id == given.parent)
    if given.error is not None:
        # As in the JSON text, in which the error is stored.
        part = JsonCodec().encode(given.error).text[1:-1]
        place = pg.strpos(_lower(text_of(Workflow.error)), _lower(literal(part, Text())), type_=Integer())
        found.append(place > 0)
    if given.where is not None:
        found.append(given.where)
    return found


def conditions_on_attributes(given: WorkflowFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter on `Attributes`."""
    found: list[ColumnElement[bool]] = []
    if given.attributes:
        asked = cast(literal(attributes_text(given.attributes), Text()), JSONB())
        found.append(_operator(Attributes.attributes, "@>", asked))
    if given.tags:
        found.append(_operator(Attributes.tags, "@>", _tags(given.tags)))
    if given.any_tags:
        found.append(_operator(Attributes.tags, "&&", _tags(given.any_tags)))
    return found


def _operator(column: Any, operator: str, asked: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return a comparison with PostgreSQL's own operator, whatever operators the schemas of the path have."""
    comparison: ColumnElement[bool] = column.op(f"OPERATOR(pg_catalog.{operator})", is_comparison=True)(asked)
    return comparison


def _tags(given: str | Collection[str]) -> ColumnElement[Any]:
    return literal(_several(given), ARRAY(Text()))


def _lower(given: ColumnElement[str]) -> ColumnElement[str]:
    lowered: ColumnElement[str] = pg.lower(given, type_=Text())
    return lowered


def _is_one_of(column: Any, given: str | Collection[str] | None) -> Iterable[ColumnElement[bool]]:
    if given is None:
        return ()
    return (column == given if isinstance(given, str) else column.in_(_several(given)),)


def _has_status(statuses: frozenset[WorkflowStatus] | None) -> Iterable[ColumnElement[bool]]:
    if statuses is None:
        return ()
    # A workflow that has ended shows its own status. As literals, which the condition of the index has, too.
    column: Any = Workflow.status if statuses.issubset(_OVER) else shown_status()
    return (column.in_([text_literal(each) for each in sorted(statuses)]),)


def _is_within(column: Any, times: Times | None) -> list[ColumnElement[bool]]:
    first, end = times or (None, None)
    since = [] if first is None else [column >= first]
    return since if end is None else [*since, column < end]


def _is_set(value: object) -> bool:
    return value is not None and not (isinstance(value, Sized) and not len(value))


def _several(given: str | Iterable[str] | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _check_names(what: str, given: Iterable[object]) -> None:
    for each in given:
        check_name(what, each)


def _check_times(what: str, times: object) -> None:
    if times is None:
        return
    if not isinstance(times, tuple) or len(as_type("tuple[object, ...]", times)) != 2:  # noqa: PLR2004  # a range
        raise TypeError(f"`{what}` must be a tuple of two datetimes, (first, end), got {times!r}.")
    for each in as_type("tuple[object, ...]", times):
        if each is not None:
            check_aware(what, each)


def _check_condition(where: object) -> None:
    if where is None:
        return
    if not isinstance(where, ColumnElement):
        raise TypeError(
            "`where` must be an SQLAlchemy condition, as in `where=Workflow.priority > 5`, got "
            f"{type(where).__name__}."
        )
    others = [
        each
        for each in select(Workflow.id).where(as_type("ColumnElement[bool]", where)).get_final_froms()
        if each is not Workflow.__table__
    ]
    if others:
        raise ConfigurationError(
            f"`where` must be a condition on pgqrs.models.Workflow, and has {', '.join(map(str, others))}. "
            "Use a subquery, as in `Workflow.id.in_(select(Order.workflow_id).where(...))`."
        )
