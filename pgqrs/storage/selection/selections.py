"""The workflows that a bulk operation is about: ids, a filter, or a select of the application."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

from sqlalchemy import CompoundSelect, Select, SelectBase, select

from pgqrs.errors import ConfigurationError
from pgqrs.models import Workflow
from pgqrs.storage.selection.filters import WorkflowFilter, conditions_of
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import number_literal
from pgqrs.validation import check_is_int

Selectable: TypeAlias = WorkflowFilter | Iterable[int] | SelectBase
"""The workflows of a bulk operation: a filter, ids, or a select of `Workflow.id`, which may join other tables."""

MAX_PAGE = 50_000
"""Maximum ids that one statement reads: a select may read whole tables each time."""

_SHOWN = 3
"""Maximum columns that an error names."""


class Selection:
    """The ids of some workflows, read in pages, in order."""

    def __init__(self, *, ids: Sequence[int] = (), query: Any = None) -> None:
        """Select `ids`, which are in order, or the ids that a query returns."""
        self._ids = ids
        self._query = query

    async def page(self, connection: Connection, after: int) -> tuple[Sequence[int], int | None]:
        """Return the next ids above `after`, and the id after which the page after them begins, None for none."""
        if self._query is None:
            first = bisect_right(self._ids, after)
            ids = self._ids[first : first + MAX_PAGE]
        else:
            own = self._query.subquery("selected")
            (column,) = own.c
            query = select(column).where(column > after).distinct().order_by(column)
            ids = list(await connection.scalars(query.limit(number_literal(MAX_PAGE))))
        return ids, ids[-1] if len(ids) == MAX_PAGE else None


def selection_of(which: Selectable) -> Selection:
    """Return the selection of the workflows that the argument of a bulk operation names.

    Raises `ConfigurationError` for a filter without a condition, and for a select of anything but `Workflow.id`;
    `TypeError` for a value of another type.
    """
    given = cast(object, which)
    if isinstance(given, WorkflowFilter):
        given.check()
        if not given.conditions():
            raise ConfigurationError(
                "the filter has no condition and would select each workflow: pass `where=sqlalchemy.true()` if "
                "this is meant."
            )
        return Selection(query=select(Workflow.id).where(*conditions_of(given)))
    if isinstance(given, SelectBase):
        _check_select(given)
        return Selection(query=given)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(
            f"the workflows must be a WorkflowFilter, ids, or a select of Workflow.id, got {type(given).__name__}."
        )
    ids = list(cast("Iterable[int]", given))
    for each in ids:
        check_is_int("a workflow id", each)
    return Selection(ids=sorted({*ids}))


def _check_select(query: SelectBase) -> None:
    """Raise `ConfigurationError` unless the only column of a select is the id of a workflow."""
    if isinstance(query, CompoundSelect):
        for each in query.selects:
            _check_select(each)
        return
    columns = list(query.selected_columns) if isinstance(query, Select) else []
    own: Any = Workflow.__table__.c.id
    # An id of another table is a number, too, and would select unrelated workflows.
    if len(columns) != 1 or own not in columns[0].base_columns:
        returned = ", ".join(str(each) for each in columns[:_SHOWN]) + (", ..." if columns[_SHOWN:] else "")
        raise ConfigurationError(
            f"the select must return pgqrs.models.Workflow.id alone, and it returns {returned or 'a text'}: "
            "write it as `select(Workflow.id).join(Order, Order.workflow_id == Workflow.id)`."
        )
