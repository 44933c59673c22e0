"""The pass that deletes old workflows, in small steps, by any worker, one at a time.

The row of `Retention` has the cursor of the pass. A step is one statement: it locks the row, unless another
worker has locked it, considers the next rows behind the cursor, and moves the cursor. So a step that is repeated
or killed does no harm, and a worker goes on where another one has died. The time of the next step is as far away
as the step took, so the pass rests as long as it works, whichever worker takes the steps.

The pass needs no index: it follows the primary key. It ends at the first window of ids of which no workflow is old
enough, because ids follow the time at which workflows are created.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import DatabaseError
from pgqrs.models import ArchivedWorkflow, ArchiveMonth, Retention, Workflow
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.dedicated import DedicatedConnection
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.records import from_row
from pgqrs.storage.retention.documents import document_of
from pgqrs.storage.retention.removal import (
    delete_locked,
    reasons_to_keep,
    removal_of,
    seen_messages,
    without_parent,
)
from pgqrs.storage.retention.settings import DAY, DEFAULT_TIMES, GRACE, begin_retention
from pgqrs.storage.sql.expressions import (
    DOUBLE,
    ONE,
    ZERO,
    bounded,
    finite,
    is_found,
    number_literal,
    pg,
    seconds_after,
    seconds_ago,
    seconds_of,
    text_literal,
)
from pgqrs.storage.sql.waits import all_of
from pgqrs.types import WorkflowStatus

WORKFLOWS, MESSAGES = "workflows", "messages"

_logger = logging.getLogger("pgqrs.storage")

MAX_WINDOW = 500
"""Maximum workflows that one step considers."""

MESSAGES_OF_WORKFLOW = 4
"""Messages that a step considers in the time of a workflow."""

LONG = 0.5
"""Seconds of a step after which the next step considers half as many rows; after a short step, twice as many."""

LONGEST_STEP = 600.0
"""Maximum seconds of a step: a single workflow may have very many steps."""

LIMIT_EXCEEDED = "54"
"""The class of the SQLSTATEs of a value that is larger than PostgreSQL's limits."""

MIN_INTERVAL, MAX_INTERVAL = 3600.0, DAY
"""Minimum and maximum seconds between two passes; in between a quarter of the shortest time of a workflow."""


class Outlook(NamedTuple):
    """The next step of the retention: in `due_in` seconds, None for never, of a `stage`.

    `is_default` says that no application has set the times. `starts_in` is the rest of the grace in seconds.
    `has_old_month` says that a month of the archive is to be dropped.
    """

    due_in: float | None
    stage: str
    is_default: bool
    starts_in: float
    has_old_month: bool


class StepResult(NamedTuple):
    """The result of a step: the workflows that the pass has deleted so far, and the seconds until the next step.

    `stage` is the stage of the next step. `took` is the seconds that the step took. `is_over` says that the pass
    is over. `missing` has the months of the archive that the step needs first.
    """

    deleted: int
    stage: str
    rest: float
    took: float
    is_over: bool
    missing: list[date] | None


class RetentionPass:
    """Takes the steps of the retention, on a connection of its own that is open only meanwhile."""

    def __init__(self, database: Database) -> None:
        self._schema = database.schema
        self._dedicated = DedicatedConnection(database)
        self._window = MAX_WINDOW
        self.statements = 0
        """The number of statements that were sent."""

    async def look(self) -> Outlook:
        """Return the next step; the first look of all workers begins the grace."""
        rows = await self._fetch(outlook)
        if not rows:
            await self._fetch(begin_retention, DEFAULT_TIMES.values() | {"grace": GRACE})
            rows = await self._fetch(outlook)
        return from_row(Outlook, rows[0])

    async def step(self, stage: str) -> StepResult | None:
        """Take a step of a stage, None if it is not due, or if another worker takes it."""
        rows = await self._delete(stage)
        if not rows:
            return None
        found = from_row(StepResult, rows[0])
        if found.took > LONG:
            self._window = max(1, self._window // 2)
        elif found.took < LONG / 4:
            self._window = min(MAX_WINDOW, self._window * 2)
        for month in found.missing or ():
            await self._fetch(add_month, {"month": month})
        return found

    async def _delete(self, stage: str) -> list[Any]:
        """Send the statement of a step; after an error the next step considers fewer rows.

        A workflow whose document is larger than PostgreSQL's limits is passed over: it stays.
        """
        statement = delete_workflows if stage == WORKFLOWS else delete_messages
        try:
            return await self._fetch(statement, {"most": self._window}, timeout=LONGEST_STEP)
        except DatabaseError as error:
            if self._window > 1:
                self._window = max(1, self._window // 8)
            elif str(error.sqlstate).startswith(LIMIT_EXCEEDED):
                (passed,) = await self._fetch(pass_over)
                _logger.warning(
                    "pgqrs: workflow %s is too large to be archived, so it is not deleted; "
                    "`admin.purge([%s])` deletes it without the archive",
                    passed["cursor"], passed["cursor"],
                    extra={"workflow_id": passed["cursor"]},
                )  # fmt: skip
            raise

    async def drop_months(self) -> None:
        """Drop the months of the archive that are too old."""
        await self._fetch(drop_months)

    async def close(self) -> None:
        """Close the connection; it is opened again on demand."""
        await self._dedicated.close()

    async def _fetch(
        self, statement: Callable[[], Any], values: dict[str, Any] | None = None, timeout: float | None = None
    ) -> list[Any]:
        with translated(self._schema):
            self.statements += 1
            return await self._dedicated.fetch(statement, values or {}, timeout=timeout)


def outlook() -> Any:
    """Return the query for the next step; no row before the retention has begun."""
    first = func.greatest(finite(Retention.next_at), finite(Retention.starts_at))
    return select(
        case((Retention.shortest.is_not(None), seconds_of(first - func.now()))).label("due_in"),
        func.coalesce(Retention.stage, text_literal(WORKFLOWS)).label("stage"),
        Retention.set_at.is_(None).label("is_default"),
        seconds_of(finite(Retention.starts_at) - func.now()).label("starts_in"),
        select(_is_old())
        .order_by(ArchiveMonth.month)
        .limit(ONE)
        .scalar_subquery()
        .is_(true())
        .label("has_old_month"),
    )


def delete_workflows() -> Any:
    """Return the statement that deletes old workflows among the next `most` workflows, and moves the cursor.

    It returns a `StepResult`; no row if the step is not due, or if another worker takes it. If the archive lacks a
    month, the statement deletes nothing and names the month.
    """
    turn = _turn(WORKFLOWS)
    seen = _seen(turn)
    missing = _missing_months(turn, seen)
    held = _held(seen, missing)
    gone = without_parent(held)
    archived = _archive(turn, gone).cte("archived")
    deleted, others = removal_of(gone)
    counted = [_count(each) for each in (deleted, *others, archived)]
    lacks_month = _count(missing) > ZERO
    is_last = ~lacks_month & (_is_end(seen) | _is_young(turn, seen))
    cursor = case(
        (lacks_month, turn.c.cursor),
        (is_last, ZERO),
        else_=select(pg.max(seen.c.id, type_=BigInteger())).scalar_subquery(),
    )
    stage = case((is_last, text_literal(MESSAGES)), else_=text_literal(WORKFLOWS))
    number = case((turn.c.stage.is_(None), ZERO), else_=Retention.deleted) + _count(deleted)
    moved = _move(
        turn,
        counted,
        stage=stage,
        cursor=cursor,
        deleted=number,
        began_at=case((turn.c.stage.is_(None), func.now()), else_=Retention.began_at),
    )
    months = select(pg.array_agg(missing.c.month, type_=ARRAY(Date()))).scalar_subquery()
    return moved.returning(*_result(is_over=literal_column("false", Boolean()), missing=months))


def delete_messages() -> Any:
    """Return the statement that deletes messages of deleted workflows and old events, and moves the cursor.

    It considers the next messages, a few for each of `most`, and ends the pass after the last one.
    """
    turn = _turn(MESSAGES)
    most = bindparam("most", type_=BigInteger()) * number_literal(MESSAGES_OF_WORKFLOW)
    seen = seen_messages(turn, most)
    kept = select(bounded(turn.c.kept)).scalar_subquery()
    swept = delete_locked(seen, func.coalesce(seen.c.is_lost, seen.c.sent_at < seconds_ago(kept)))
    last = select(pg.max(seen.c.id, type_=BigInteger())).scalar_subquery()
    is_over = last.is_(None)
    pause = func.least(
        func.greatest(turn.c.shortest / literal_column("4", DOUBLE), literal_column(str(MIN_INTERVAL), DOUBLE)),
        literal_column(str(MAX_INTERVAL), DOUBLE),
    )
    moved = _move(
        turn,
        [_count(swept)],
        pause=case((is_over, pause)),
        stage=case((~is_over, text_literal(MESSAGES))),
        cursor=func.coalesce(last, ZERO),
        ended_at=case((is_over, func.now()), else_=Retention.ended_at),
    )
    return moved.returning(*_result(is_over=Retention.stage.is_(None), missing=null().cast(ARRAY(Date()))))


def pass_over() -> Any:
    """Return the statement that moves the cursor behind the next workflow, and returns its id."""
    following = select(pg.min(Workflow.id, type_=BigInteger())).where(Workflow.id > Retention.cursor)
    moved = update(Retention).values(cursor=following.correlate(Retention).scalar_subquery())
    return moved.returning(Retention.cursor)


def add_month() -> Any:
    """Return the statement that adds a `month` to the archive, unless another session has done so."""
    month = bindparam("month", type_=Date())
    return insert(ArchiveMonth).from_select(["month"], select(month)).on_conflict_do_nothing()


def drop_months() -> Any:
    """Return the statement that drops the months of the archive that are too old."""
    return delete(ArchiveMonth).where(_is_old())


def _is_old() -> ColumnElement[bool]:
    kept = select(bounded(Retention.archive_kept)).scalar_subquery()
    end: Any = cast(ArchiveMonth.month, DateTime()) + literal_column("interval '1 month'")
    old: ColumnElement[bool] = end < pg.timezone(text_literal("UTC"), seconds_ago(kept), type_=DateTime())
    return old


def _turn(stage: str) -> Any:
    """Return the CTE that locks the row of the retention, if a step of a stage is due and no worker takes it."""
    own = (
        select(
            Retention.id,
            Retention.stage,
            Retention.cursor,
            Retention.kept,
            Retention.failed,
            Retention.per_name,
            Retention.shortest,
            Retention.archives,
        )
        .where(
            Retention.next_at <= func.now(),
            Retention.starts_at <= func.now(),
            Retention.shortest.is_not(None),
            func.coalesce(Retention.stage, text_literal(WORKFLOWS)) == text_literal(stage),
        )
        .with_for_update(key_share=True, skip_locked=True)
    )
    return own.cte("turn").prefix_with("MATERIALIZED")


def _seen(turn: Any) -> Any:
    """Return the CTE of the next workflows, each with the time before which it must have ended to be deleted."""
    window = (
        select(Workflow.id, Workflow.name, Workflow.status, Workflow.created_at, Workflow.completed_at)
        .where(Workflow.id > turn.c.cursor)
        .order_by(Workflow.id)
        .limit(bindparam("most", type_=BigInteger()))
        .correlate_except(Workflow)
        .lateral("next_workflows")
    )
    of_name = cast(pg.json_extract_path_text(turn.c.per_name, window.c.name), DOUBLE)
    by_status = case((window.c.status == text_literal(WorkflowStatus.ERROR), turn.c.failed), else_=turn.c.kept)
    seconds = func.coalesce(of_name, by_status)
    limit = case((seconds >= literal_column("0", DOUBLE), seconds_ago(bounded(seconds))))
    seen = select(
        window.c.id,
        window.c.created_at,
        case((window.c.completed_at < limit, limit)).label("limit"),
        month_of(window.c.completed_at).label("month"),
    )
    return seen.select_from(turn.join(window, true())).cte("seen").prefix_with("MATERIALIZED")


def month_of(time: Any) -> ColumnElement[Any]:
    """Return the first day of the month of a time, in UTC."""
    day = pg.timezone(text_literal("UTC"), finite(time), type_=DateTime())
    return cast(pg.date_trunc(text_literal("month"), day, type_=DateTime()), Date())


def _missing_months(turn: Any, seen: Any) -> Any:
    is_there = is_found(select(ONE).where(ArchiveMonth.month == seen.c.month), ArchiveMonth)
    archives = select(turn.c.archives).scalar_subquery()
    return select(seen.c.month).where(seen.c.limit.is_not(None), archives, ~is_there).distinct().cte("missing")


def _held(seen: Any, missing: Any) -> Any:
    """Return the CTE that locks the workflows to delete.

    The condition on the end is on the row's own column, which PostgreSQL checks again once the row is locked: a
    workflow that was resumed meanwhile is not held.
    """
    own = aliased(Workflow, name="own")
    locked = (
        select(own.id, own.parent_id)
        .where(
            own.id == seen.c.id,
            own.completed_at < seen.c.limit,
            *(~each for each in reasons_to_keep(own).values()),
        )
        .with_for_update(skip_locked=True, of=own)
        .correlate_except(own)
        .lateral("locked")
    )
    held = select(locked.c.id, locked.c.parent_id).select_from(seen.join(locked, true()))
    held = held.where(seen.c.limit.is_not(None), _count(missing) == ZERO)
    return held.cte("held").prefix_with("MATERIALIZED")


def _archive(turn: Any, gone: Any) -> Any:
    own = aliased(Workflow, name="archived_workflow")
    rows = select(own.id, finite(own.completed_at), own.name, document_of(own)).where(
        own.id == func.any(all_of(gone.c.id)), select(turn.c.archives).scalar_subquery()
    )
    written = insert(ArchivedWorkflow).from_select(["id", "ended_at", "name", "document"], rows)
    return written.on_conflict_do_nothing().returning(ArchivedWorkflow.id)


def _is_end(seen: Any) -> ColumnElement[bool]:
    is_end: ColumnElement[bool] = _count(seen) < bindparam("most", type_=BigInteger())
    return is_end


def _is_young(turn: Any, seen: Any) -> ColumnElement[bool]:
    """Return the condition that no workflow of the window is old enough; later ids are younger."""
    oldest = select(pg.min(seen.c.created_at, type_=DateTime(timezone=True))).scalar_subquery()
    is_young: ColumnElement[bool] = oldest > seconds_ago(bounded(turn.c.shortest))
    return is_young


def _move(turn: Any, counted: list[ColumnElement[int]], *, pause: Any = None, **values: Any) -> Any:
    """Return the statement that ends a step: the next one is as far away as this one took, or after a `pause`.

    The `counted` rows are written before: the time of the next step depends on their numbers.
    """
    took = func.clock_timestamp() - func.statement_timestamp()
    rested = case((reduce(add, counted) >= ZERO, func.clock_timestamp() + took))
    later = rested if pause is None else func.coalesce(seconds_after(func.now(), pause), rested)
    return update(Retention).where(Retention.id == turn.c.id).values(next_at=later, **values)


def _result(*, is_over: Any, missing: Any) -> tuple[Any, ...]:
    return (
        Retention.deleted,
        func.coalesce(Retention.stage, text_literal(WORKFLOWS)).label("stage"),
        seconds_of(Retention.next_at - func.clock_timestamp()).label("rest"),
        seconds_of(func.clock_timestamp() - func.statement_timestamp()).label("took"),
        is_over.label("is_over"),
        missing.label("missing"),
    )


def _count(rows: Any) -> Any:
    return select(pg.count(literal_column("*"), type_=BigInteger())).select_from(rows).scalar_subquery()
