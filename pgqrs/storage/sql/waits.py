"""Parts of the statements that end the waits of parked workflows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, delete, func, literal_column, select
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Wait
from pgqrs.storage.sql.expressions import pg


def drop_waits(workflow_ids: Any) -> Any:
    """Return the statement that deletes the waits of workflows; the ids are a column of a CTE."""
    return delete(Wait).where(Wait.workflow_id == func.any(all_of(workflow_ids)))


def all_of(numbers: Any) -> ColumnElement[Any]:
    """Return a column of a CTE as an array.

    A join with a CTE may read a whole table if its statistics are stale; a condition on an array uses the index.
    """
    found = select(pg.array_agg(numbers, type_=ARRAY(BigInteger()))).scalar_subquery()
    return func.coalesce(found, literal_column("'{}'", ARRAY(BigInteger())))
