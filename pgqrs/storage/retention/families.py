"""The descendants of workflows: their children, and the children of these.

The statements look each row up by its index: a join, or a recursive statement, may read all workflows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, bindparam, column, select, true
from sqlalchemy.orm import aliased

from pgqrs.models import Text, Workflow
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import array_of, number_literal, pg, text_of_array

MAX_CHILDREN = 100_000_000
"""More children than a workflow has: with a limit the planner does not make a join of a look-up."""


async def family_of(connection: Connection, ids: Iterable[int]) -> list[int]:
    """Return the ids of workflows, which may be deleted, and of all their descendants.

    A workflow that has ended gets no further children.
    """
    found = set(ids)
    generation = set(found)
    while generation:
        asked = {"ids": text_of_array(generation)}
        generation = set(await connection.scalars(children(), asked)).difference(found)
        found |= generation
    return sorted(found)


def children() -> Any:
    """Return the query for the ids of the children of some `ids`, the text of an array."""
    given, child = given_ids(), aliased(Workflow, name="child")
    found = (
        select(child.id).where(child.parent_id == given.c.id).limit(number_literal(MAX_CHILDREN)).lateral("found")
    )
    return select(found.c.id).select_from(given.join(found, true()))


def given_ids() -> Any:
    """Return the rows of the `ids`, the text of an array."""
    ids = array_of(bindparam("ids", type_=Text()), BigInteger())
    return pg.unnest(ids).table_valued(column("id", BigInteger())).render_derived(name="given")
