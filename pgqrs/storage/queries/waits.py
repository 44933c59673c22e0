"""The deletion of waits, a part of the statements that end the wait of a parked workflow."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from pgqrs.models import Wait


def drop_waits(workflow_ids: Any) -> Any:
    """Return the statement that deletes the waits of workflows; the ids are a column of a CTE."""
    return delete(Wait).where(Wait.workflow_id == workflow_ids)
