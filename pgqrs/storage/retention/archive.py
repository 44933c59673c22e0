"""Reads of the archive."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.sql import ColumnElement

from pgqrs.models import ArchivedWorkflow, Text
from pgqrs.storage.queries.workflows import bigints
from pgqrs.storage.records import WorkflowResult, stored_member
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import pg, text_literal, text_of
from pgqrs.types import WorkflowStatus


class ArchiveRepository:
    """The archived workflows, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return the results of archived workflows by id; the last one of an id that was archived twice."""
        columns = [_of_workflow(name) for name in ("status", "output", "error", "codec")]
        query = select(ArchivedWorkflow.id, *columns, cast(_of_workflow("token"), BigInteger()))
        rows: Any = await self._connection.execute(
            query.where(ArchivedWorkflow.id == func.any(bigints(ids))).order_by(ArchivedWorkflow.ended_at)
        )
        return {
            workflow_id: WorkflowResult(stored_member(WorkflowStatus, status), output, error, codec, token)
            for workflow_id, status, output, error, codec, token in rows
        }

    async def document(self, workflow_id: int) -> str | None:
        """Return the document of an archived workflow as text, None without one."""
        query = select(text_of(ArchivedWorkflow.document)).where(ArchivedWorkflow.id == workflow_id)
        found: str | None = await self._connection.scalar(
            query.order_by(ArchivedWorkflow.ended_at.desc()).limit(1)
        )
        return found


def _of_workflow(name: str) -> ColumnElement[str]:
    path = text_literal("workflow"), text_literal(name)
    value: ColumnElement[str] = pg.jsonb_extract_path_text(ArchivedWorkflow.document, *path, type_=Text())
    return value.label(name)
