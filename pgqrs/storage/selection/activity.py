"""The recent activity: how many of the newest workflows were created and have ended a short time ago.

No index has the times of all workflows, which each workflow would have to pay. So the newest workflows are
counted, which the primary key finds, however many workflows there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import func, select

from pgqrs.models import Workflow
from pgqrs.storage.records import from_row
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import COUNT, number_literal, seconds_ago, text_literal
from pgqrs.types import WorkflowStatus

NEWEST = 5000
"""Maximum workflows that are counted."""

PERIOD = 600.0
"""Seconds of the period that is counted."""


class Activity(NamedTuple):
    """The numbers of the newest workflows that were created, and that have ended, in the last `PERIOD` seconds.

    `counted` is the number of the newest workflows. If all of them were created in the period, there may be more.
    """

    counted: int
    created: int
    succeeded: int
    failed: int
    cancelled: int


async def newest_activity(connection: Connection) -> Activity:
    """Return the recent activity."""
    return from_row(Activity, (await connection.execute(newest_changes())).mappings().one())


def newest_changes() -> Any:
    """Return the query for an `Activity`."""
    newest = (
        select(Workflow.created_at, Workflow.completed_at, Workflow.status)
        .order_by(Workflow.id.desc())
        .limit(number_literal(NEWEST))
        .subquery("newest")
    )
    since = seconds_ago(number_literal(int(PERIOD)), func.now())

    def ended(status: WorkflowStatus) -> Any:
        return COUNT.filter((newest.c.completed_at >= since) & (newest.c.status == text_literal(status)))

    return select(
        COUNT.label("counted"),
        COUNT.filter(newest.c.created_at >= since).label("created"),
        ended(WorkflowStatus.SUCCESS).label("succeeded"),
        ended(WorkflowStatus.ERROR).label("failed"),
        ended(WorkflowStatus.CANCELLED).label("cancelled"),
    )
