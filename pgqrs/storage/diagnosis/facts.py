"""The query for all facts about one workflow that tell why it is not running.

The query looks each row up by an index, and takes no lock, so it is as fast with millions of workflows. Lists are
cut to `SHOWN` entries. It reads no payload.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    and_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    or_,
    select,
    table,
    true,
    union,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, Queue, ServingWorker, StartRate, Step, Text, Throttle, Wait, Workflow
from pgqrs.storage.diagnosis.workers import is_alive_by, live_executors, share_of, workers_that_know
from pgqrs.storage.limits.holders import holds_until_end
from pgqrs.storage.queries.children import live_children
from pgqrs.storage.queries.executors import DEFAULT_EXPIRY, held_locks
from pgqrs.storage.sql import expressions
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    finite,
    number_literal,
    pg,
    seconds_ago,
    text_literal,
    text_of,
)
from pgqrs.types import StepStatus

SHOWN = 10
"""Maximum entries of a list of waits, steps or workflows; one more is read, to tell that there are more."""

MAX_WORKERS = 100
"""Maximum workers that know a name whose slots are looked at."""

_LOCKS = table(
    "pg_locks",
    column("pid", BigInteger()),
    column("locktype", Text()),
    column("transactionid"),
    column("granted", Boolean()),
    schema="pg_catalog",
)
_SESSIONS = table(
    "pg_stat_activity",
    column("pid", BigInteger()),
    column("state", Text()),
    column("application_name", Text()),
    column("xact_start", DateTime(timezone=True)),
    schema="pg_catalog",
)
_DATABASES = table("pg_database", column("datname", Text()), column("datminmxid"), schema="pg_catalog")


class Facts(NamedTuple):
    """The facts about one workflow: its row, its queue, its executor, the session that has locked its row.

    The fields after `lock_state` are JSON texts of lists; see `why`. The fields of the queue are None for a queue
    without a row, and `holding` counts the workflows that count for a limit. The fields of the executor are None
    for a workflow that no registered executor runs.
    """

    now: datetime
    id: int
    name: str
    status: str
    batch_status: str | None
    queue: str | None
    partition_key: str | None
    unique_value: str | None
    ready_at: datetime | None
    due_at: datetime | None
    deadline: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    attempts: int
    retries: int
    has_error: bool
    cancel_interrupts: bool | None
    saga_state: str | None
    codec: str | None
    batch_id: int | None
    has_slot: bool
    throttled_until: datetime | None

    has_limits: bool
    concurrency: int | None
    partition_concurrency: int | None
    rate: str | None
    partition_rate: str | None
    paused_at: datetime | None
    holds: str | None
    ordered: bool | None
    holding: int | None
    holding_of_key: int | None
    next_id: int | None
    free_at: datetime | None
    free_at_of_key: datetime | None

    executor_id: UUID | None
    host: str | None
    pid: int | None
    heartbeat_at: datetime | None
    expires_at: datetime | None
    is_alive: bool | None
    has_stopped: bool | None

    live_workers: int
    silent_executors: int

    lock_pid: int | None
    lock_since: datetime | None
    lock_state: str | None

    holders: str | None
    holders_of_key: str | None
    waits: str | None
    steps: str | None
    children: str | None
    workers: str | None

    def entries(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a list."""
        text: str | None = getattr(self, name)
        found: list[dict[str, Any]] = [] if text is None else json.loads(text)
        return found


def why() -> Any:
    """Return the query for the facts about a `workflow`: one row, with the columns of `Facts`.

    The lists: `holders` and `holders_of_key`, the workflows that count for the limits of the queue and of the
    partition key; `waits`, the addresses for which the workflow is parked; `steps`, the steps without an outcome;
    `children`, the live children for which steps wait; `workers`, the live workers that know its name.
    """
    own = _own()
    queue = _queue(own)
    executor = _executor(own)
    lock = _lock(own)
    settings = {name: queue.c[name] for name in ("concurrency", "partition_concurrency", "paused_at", "holds")}
    is_limited = and_(own.c.ready_at.is_not(None), queue.c.name.is_not(None))
    live = live_executors()
    plain = [each for each in own.c if each.key not in {"lockers", "claim", "executor"}]
    return select(
        func.now().label("now"),
        *plain,
        queue.c.name.is_not(None).label("has_limits"),
        *(each.label(name) for name, each in settings.items()),
        text_of(queue.c.rate).label("rate"),
        text_of(queue.c.partition_rate).label("partition_rate"),
        queue.c.ordered_at.is_not(None).label("ordered"),
        *_counts(own, queue, is_limited),
        own.c.executor.label("executor_id"),
        *executor.c,
        select(COUNT).select_from(ServingWorker).join(live, live.c.id == ServingWorker.executor)
        .scalar_subquery().label("live_workers"),
        _silent(live).label("silent_executors"),
        *lock.c,
        _list(_holders(own, queue), is_limited).label("holders"),
        _list(_holders(own, queue, of_key=True), is_limited).label("holders_of_key"),
        _list(_waits(own)).label("waits"),
        _list(_steps(own)).label("steps"),
        _list(_children(own)).label("children"),
        _list(_workers(own, live), own.c.completed_at.is_(None)).label("workers"),
    ).select_from(
        own.outerjoin(queue, true()).outerjoin(executor, true()).outerjoin(lock, true())
    )  # fmt: skip


def _own() -> Any:
    """Return the CTE of the workflow, with the transactions that have locked its row."""
    workflow = aliased(Workflow, name="workflow")
    batch = aliased(Workflow, name="batch")
    of_batch = select(batch.status).where(batch.id == workflow.batch_id).correlate_except(batch)
    # The row of the throttle tells that the workflow waits for its turn.
    throttled = select(finite(Throttle.starts_at)).where(
        Throttle.name == workflow.name,
        Throttle.unique_value == workflow.unique_value,
        Throttle.workflow_id == workflow.id,
    )
    names = ("id", "name", "status", "queue", "partition_key", "unique_value")
    times = ("ready_at", "due_at", "deadline", "started_at", "completed_at", "updated_at")
    others = ("attempts", "retries", "cancel_interrupts", "saga_state", "codec", "batch_id", "executor", "claim")
    return (
        select(
            *(getattr(workflow, name) for name in names),
            *(finite(getattr(workflow, name)).label(name) for name in times),
            *(getattr(workflow, name) for name in others),
            of_batch.scalar_subquery().label("batch_status"),
            workflow.error.is_not(None).label("has_error"),
            workflow.slot.is_not(None).label("has_slot"),
            throttled.correlate_except(Throttle).scalar_subquery().label("throttled_until"),
            _lockers().label("lockers"),
        )
        .where(workflow.id == bindparam("workflow", type_=BigInteger()))
        .cte("own")
        .prefix_with("MATERIALIZED")
    )


def _lockers() -> ColumnElement[Any]:
    """Return the transactions, as texts, that may have locked the row of `workflow`.

    The row has the transaction of its last locker, or the number of a group of lockers, and does not show which of
    the two it is: a number that could be that of a group is looked up, too.
    """
    xmax: ColumnElement[Any] = literal_column("workflow.xmax")
    member = pg.pg_get_multixact_members(xmax).table_valued(column("xid")).render_derived(name="member")
    members = select(pg.array_agg(cast(member.c.xid, Text()), type_=ARRAY(Text()))).scalar_subquery()
    oldest = (
        select(pg.mxid_age(_DATABASES.c.datminmxid, type_=BigInteger()))
        .where(_DATABASES.c.datname == pg.current_database())
        .scalar_subquery()
    )
    age = pg.mxid_age(xmax, type_=BigInteger())
    is_group = and_(age > literal_column("0", BigInteger()), age <= oldest)
    alone = cast(xmax, Text())
    lockers: ColumnElement[Any] = pg.array_append(case((is_group, members)), alone, type_=ARRAY(Text()))
    return lockers


def _queue(own: Any) -> Any:
    return (
        select(
            Queue.name,
            Queue.concurrency,
            Queue.partition_concurrency,
            Queue.rate,
            Queue.partition_rate,
            finite(Queue.paused_at).label("paused_at"),
            Queue.holds,
            Queue.ordered_at,
        )
        .where(Queue.name == _the(own.c.queue))
        .cte("of_queue")
        .prefix_with("MATERIALIZED")
    )


def _executor(own: Any) -> Any:
    locks = held_locks().subquery("lock_of_executor")
    is_own = and_(locks.c.key == Executor.lock_key, locks.c.pid == Executor.backend_pid)
    expiry = func.coalesce(Executor.expiry, literal_column(str(DEFAULT_EXPIRY), DOUBLE))
    return (
        select(
            Executor.host,
            Executor.pid,
            finite(seconds_ago(expiry, Executor.expires_at.expression)).label("heartbeat_at"),
            finite(Executor.expires_at).label("expires_at"),
            is_alive_by(locks.c.key).label("is_alive"),
            Executor.stopped_at.is_not(None).label("has_stopped"),
        )
        .select_from(Executor)
        .outerjoin(locks, is_own)
        .where(Executor.id == own.c.executor)
        .limit(ONE)
        .lateral("of_executor")
    )


def _lock(own: Any) -> Any:
    """Return the session that has locked the row for longest, unless it is this session."""
    is_locker = cast(_LOCKS.c.transactionid, Text()) == func.any(own.c.lockers)
    return (
        select(
            _LOCKS.c.pid.label("lock_pid"),
            _SESSIONS.c.xact_start.label("lock_since"),
            _SESSIONS.c.state.label("lock_state"),
        )
        .select_from(_LOCKS.outerjoin(_SESSIONS, _SESSIONS.c.pid == _LOCKS.c.pid))
        .where(_LOCKS.c.locktype == text_literal("transactionid"), _LOCKS.c.granted, is_locker)
        .where(_LOCKS.c.pid != pg.pg_backend_pid(type_=BigInteger()))
        .order_by(_SESSIONS.c.xact_start)
        .limit(ONE)
        .lateral("row_lock")
    )


def _counts(own: Any, queue: Any, is_limited: ColumnElement[bool]) -> list[Any]:
    """Return the numbers and times by which the limits of a queue hold a ready workflow back."""
    key = func.coalesce(own.c.partition_key, text_literal(""))
    functions = expressions.own
    given = own.c.queue
    until_end = holds_until_end(queue)
    has_key, is_ordered = own.c.partition_key.is_not(None), queue.c.ordered_at.is_not(None)

    def counted(*of: Any) -> ColumnElement[Any]:
        holding = functions.pgqrs_holding(*of, type_=BigInteger())
        return case((until_end, holding), else_=functions.pgqrs_running(*of, type_=BigInteger()))

    of_queue = and_(is_limited, queue.c.concurrency.is_not(None))
    of_key = and_(is_limited, queue.c.partition_concurrency.is_not(None), or_(has_key, is_ordered))
    following = functions.pgqrs_next(given, own.c.partition_key, type_=BigInteger())
    return [
        case((of_queue, counted(given))).label("holding"),
        case((of_key, counted(given, key))).label("holding_of_key"),
        case((and_(is_limited, is_ordered, has_key), following)).label("next_id"),
        _free_at(given, text_literal("")).label("free_at"),
        _free_at(given, own.c.partition_key).label("free_at_of_key"),
    ]


def _free_at(queue: Any, key: Any) -> Any:
    rate = aliased(StartRate, name="start_rate")
    own = select(finite(rate.free_at)).where(rate.queue == queue, rate.partition_key == key)
    return own.correlate_except(rate).scalar_subquery()


def _holders(own: Any, queue: Any, *, of_key: bool = False) -> Any:
    """Return the ids of workflows that count for the limit of a queue, or of a partition key."""
    workflow = aliased(Workflow, name="holder")
    until_end = select(holds_until_end(queue)).scalar_subquery()
    by_slot, by_run = ([workflow.queue == _the(own.c.queue)] for _ in range(2))
    if of_key:
        by_slot.append(workflow.slot == func.coalesce(_the(own.c.partition_key), text_literal("")))
        by_run.append(workflow.partition_key == _the(own.c.partition_key))
    most = number_literal(SHOWN + 1)
    has_slot = until_end, workflow.slot.is_not(None), workflow.completed_at.is_(None)
    with_slot = select(workflow.id).where(*by_slot, *has_slot).limit(most).subquery("with_slot")
    with_run = select(workflow.id).where(*by_run, workflow.executor.is_not(None)).limit(most).subquery("with_run")
    both = union(select(with_slot.c.id), select(with_run.c.id)).subquery("holders")
    return select(both.c.id).order_by(both.c.id).limit(most)


def _waits(own: Any) -> Any:
    """Return the addresses for which the workflow is parked, each with the end of its time."""
    of_step = and_(Step.workflow_id == Wait.workflow_id, Step.step_id == Wait.step_id)
    return (
        select(Wait.step_id, Wait.address, finite(Step.retry_at).label("until"))
        .outerjoin(Step, of_step)
        .where(Wait.workflow_id == _the(own.c.id), Wait.claim == _the(own.c.claim))
        .order_by(Wait.step_id, Wait.address)
        .limit(number_literal(SHOWN + 1))
    )


def _steps(own: Any) -> Any:
    """Return the steps that have begun and have no outcome."""
    return (
        select(
            Step.step_id,
            Step.failures,
            finite(Step.started_at).label("since"),
            finite(Step.retry_at).label("until"),
        )
        .where(Step.workflow_id == _the(own.c.id), Step.status == text_literal(StepStatus.RUNNING))
        .order_by(Step.started_at, Step.step_id)
        .limit(number_literal(SHOWN + 1))
    )


def _children(own: Any) -> Any:
    """Return the live children for which steps of the parked workflow wait."""
    child = live_children(Wait.address).limit(number_literal(SHOWN + 1)).lateral("child")
    return (
        select(Wait.step_id, child.c.id)
        .join_from(Wait, child, true())
        .where(Wait.workflow_id == _the(own.c.id), Wait.claim == _the(own.c.claim))
        .limit(number_literal(SHOWN + 1))
    )


def _silent(live: Any) -> Any:
    """Return the number of live executors that have registered no worker."""
    has_worker = exists().where(ServingWorker.executor == live.c.id)
    return select(COUNT).select_from(live).where(~has_worker).scalar_subquery()


def _workers(own: Any, live: Any) -> Any:
    """Return the live workers that know the name of the workflow, with the state of their slots.

    A number of runs is counted up to the limit that it is compared with. The workers that can claim the workflow
    come first.
    """
    worker = ServingWorker
    name, queue, codec = _the(own.c.name), _the(own.c.queue), _the(own.c.codec)
    runs, of_queue = (
        _up_to(most, *conditions)
        for most, conditions in (
            (worker.concurrency.expression, [Workflow.executor == worker.executor]),
            (worker.concurrency.expression, [Workflow.executor == worker.executor, Workflow.queue == queue]),
        )
    )
    serves_queue = func.coalesce(queue == func.any(worker.queues), literal_column("false", Boolean()))
    reads = worker.codec.is_not_distinct_from(codec)
    knowing = workers_that_know(name, live).subquery("knowing_workers")
    is_right = case((and_(serves_queue, reads), literal_column("0", BigInteger())), else_=ONE)
    return (
        select(
            cast(worker.executor, Text()).label("executor"),
            serves_queue.label("serves_queue"),
            reads.label("reads"),
            worker.codec,
            worker.concurrency,
            share_of(queue, worker).label("share"),
            knowing.c.is_batched,
            runs.label("running"),
            of_queue.label("running_of_queue"),
        )
        .join_from(knowing, worker, and_(worker.executor == knowing.c.executor, worker.id == knowing.c.id))
        .order_by(is_right, worker.started_at, worker.id)
        .limit(number_literal(MAX_WORKERS))
    )


def _up_to(most: Any, *conditions: ColumnElement[bool]) -> Any:
    found = select(ONE.label("one")).where(*conditions).limit(most).correlate_except(Workflow)
    return select(COUNT).select_from(found.lateral("runs")).scalar_subquery()


def _the(column: Any) -> Any:
    """Return a column of a CTE with one row as a value, by which an index is searched whatever the plan is."""
    return select(column).scalar_subquery()


def _list(query: Any, condition: ColumnElement[bool] | None = None) -> Any:
    """Return the rows of a query as the text of a JSON array of objects; NULL without a row, or condition."""
    rows = query.subquery()
    members = [part for each in rows.c for part in (text_literal(str(each.key)), each)]
    found = select(text_of(pg.json_agg(pg.json_build_object(*members)))).select_from(rows).scalar_subquery()
    return found if condition is None else case((condition, found))
