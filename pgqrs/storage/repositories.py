"""The statements off the hot path, over the models; they take and give records, never ORM instances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Numeric,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.models import Step, Text, Workflow
from pgqrs.storage import executors, invariants
from pgqrs.storage.borrowed import Connection
from pgqrs.storage.sql import (
    ONE,
    ZERO,
    array_of,
    constant,
    finite,
    pg,
    seconds_of,
    size_of,
    text_of,
    text_of_array,
)
from pgqrs.storage.writes import ENQUEUE_IN_LENT_SESSION, KINDS
from pgqrs.types import (
    Ended,
    FailedAttempts,
    History,
    NewWorkflow,
    Outcome,
    StepRecord,
    StepStatus,
    Submission,
    Taken,
    WorkflowRecord,
    WorkflowStatus,
)

Decode = Callable[[str], Any]

PORTION = 4 * 1024 * 1024
"""The size of the payloads, in bytes, of a history that one statement reads."""


class Server(NamedTuple):
    """Which database of which server: what tells two connections to one apart from those to two."""

    started_at: datetime
    database: int


class Life(Enum):
    """What can be said of an executor's life."""

    ALIVE = "alive"
    IN_DOUBT = "in doubt"
    DEAD = "dead"


class WorkflowRepository:
    """The workflows, in a transaction of the caller's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def reserve_ids(self, sequence: str, count: int) -> list[int]:
        """Take `count` ids from the `sequence`, whose name is qualified and quoted."""
        drawn = await self._connection.scalars(drawn_ids(), {"sequence": sequence, "count": count})
        return list(drawn)

    async def name(self, workflow_id: int) -> str:
        """Return the workflow's name; raises `WorkflowNotFoundError`."""
        name = await self._connection.scalar(select(Workflow.name).where(Workflow.id == workflow_id))
        if name is None:
            raise WorkflowNotFoundError(workflow_id)
        return name

    async def page(
        self,
        decode: Decode,
        *,
        status: WorkflowStatus | None,
        name: str | None,
        limit: int,
        before: int | None,
    ) -> list[WorkflowRecord]:
        """Return up to `limit` workflows, newest first, those with ids below `before` where it is given."""
        query = select(*_WORKFLOW_COLUMNS).order_by(Workflow.id.desc()).limit(limit)
        if status is not None:
            query = query.where(Workflow.status == status)
        if name is not None:
            query = query.where(Workflow.name == name)
        if before is not None:
            query = query.where(Workflow.id < before)
        return [_workflow(row, decode) for row in await self._connection.execute(query)]

    async def create(self, new: NewWorkflow) -> bool:
        """Insert a workflow that no executor runs yet, and tell whether its id was free."""
        kind = KINDS[NewWorkflow]
        return (await self._connection.execute(kind.statement(lone=True), kind.values(new))).first() is not None

    async def submit(self, new: Sequence[Submission]) -> dict[int, int | Taken]:
        """Insert workflows of one name for workers to claim; return the ids of the workflows by their tokens.

        Of the workflows that share a key the first is inserted, unless the key was taken before; for the others
        the workflow that has the key is returned. A token is left out where its id is another workflow's.
        """
        kind = ENQUEUE_IN_LENT_SESSION
        rows: Any = await self._connection.execute(kind.statement(), kind.arrays(new))
        written = {row.workflow_id for row in rows}
        found: dict[int, int | Taken] = {
            each.token: each.workflow_id for each in new if each.workflow_id in written
        }
        left = {each.workflow_id: each for each in new if each.workflow_id not in written}
        if left:
            # What an earlier sending has written, and what has the keys.
            query = select(Workflow.id, Workflow.token).where(Workflow.id == func.any(_bigints(left)))
            there: Any = await self._connection.execute(query)
            found |= {token: own for own, token in there if token == left[own].token}
        keys = {each.token: each.key for each in left.values() if each.key and each.token not in found}
        taken = await self._of_keys(new[0].name, list(set(keys.values()))) if keys else {}
        return found | {token: taken[key] for token, key in keys.items() if key in taken}

    async def _of_keys(self, name: str, keys: Sequence[str]) -> dict[str, Taken]:
        """Return the workflows of this name that have these keys."""
        rows: Any = await self._connection.execute(of_keys(), {"name": name, "keys": list(keys)})
        return {key: Taken(*rest) for key, *rest in rows}

    async def ended(self, ids: Collection[int]) -> dict[int, Ended]:
        """Return how those of these workflows ended that have."""
        texts = text_of(Workflow.output), text_of(Workflow.error)
        query = select(Workflow.id, Workflow.status, *texts, Workflow.codec)
        over = Workflow.status.in_([WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED])
        rows: Any = await self._connection.execute(query.where(Workflow.id == func.any(_bigints(ids)), over))
        return {row[0]: Ended(WorkflowStatus(row[1]), *row[2:]) for row in rows}

    async def there(self, ids: Collection[int]) -> set[int]:
        """Return those of these ids of which there is a workflow."""
        query = select(Workflow.id).where(Workflow.id == func.any(_bigints(ids)))
        return set(await self._connection.scalars(query))

    async def get(self, decode: Decode, workflow_id: int) -> WorkflowRecord:
        """Return a workflow; raises `WorkflowNotFoundError`."""
        found = await self._connection.execute(select(*_WORKFLOW_COLUMNS).where(Workflow.id == workflow_id))
        row = found.one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return _workflow(row, decode)

    async def cancel(self, workflow_id: int, *, interrupt: bool) -> UUID | None:
        """Cancel a workflow at once, or ask the executor that runs it, which is returned, to do so.

        Raises `WorkflowNotFoundError`, and `WorkflowFinishedError` for a workflow that has succeeded or failed.
        """
        found = await self._connection.execute(_CANCEL, {"workflow": workflow_id, "interrupt": interrupt})
        row = _unless_over(workflow_id, found.one_or_none(), WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)
        executor: UUID | None = row.executor if row.status == WorkflowStatus.RUNNING else None
        return executor

    async def release(self, workflow_id: int, executor_id: UUID) -> None:
        """Take a run from an executor that is dead, for another to start."""
        await self._connection.execute(
            update(Workflow)
            .where(Workflow.id == workflow_id, Workflow.executor == executor_id)
            .values(executor=executors.ABANDONED, updated_at=func.now())
        )

    async def cancel_released(self, workflow_id: int) -> None:
        """Cancel a workflow whose run was released, unless somebody has started it again."""
        await self._connection.execute(
            update(Workflow)
            .where(Workflow.id == workflow_id, Workflow.executor == executors.ABANDONED)
            .values(**_CANCELLED, executor=null(), epoch=Workflow.epoch + 1, claim=null())
        )

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow that has not succeeded runnable again, its failed steps too; return its name.

        Whatever run of it still goes on is fenced. Raises `WorkflowNotFoundError` and, for one that has
        succeeded, `WorkflowFinishedError`. It takes a transaction.
        """
        own = {"workflow": workflow_id}
        # Two statements: an error that is being recorded while the first waits for the lock is in the snapshot of
        # the second.
        found = await self._connection.execute(_LOCK, own)
        name: str = _unless_over(workflow_id, found.one_or_none(), WorkflowStatus.SUCCESS).name
        await self._connection.execute(_RESUME, own)
        return name


class ServerRepository:
    """What concerns no one workflow: the server's clock and channels, executors, and the tables as a whole."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def life(self, executor_id: UUID) -> Life:
        """Return whether an executor lives, by what is known of it now; an unknown executor is dead."""
        asked = {"executor": executor_id, "settled": True}
        found: Any = (await self._connection.execute(executors.verdict(), asked)).one_or_none()
        if found is None or found[0]:
            return Life.DEAD
        return Life.IN_DOUBT if found[1] else Life.ALIVE

    async def suspect(self) -> None:
        """Begin to suspect the executors that show no life; only a later look can find them dead."""
        await self._connection.execute(executors.suspect(), {"settled": True})

    async def identity(self) -> Server:
        """Return which database of which server this is."""
        own = (
            select(executors.DATABASES.c.oid)
            .where(executors.DATABASES.c.datname == pg.current_database())
            .scalar_subquery()
        )
        found = await self._connection.execute(select(pg.pg_postmaster_start_time(), cast(own, BigInteger())))
        return Server(*found.one())

    async def violations(self, invariant: invariants.Invariant, limit: float) -> list[str]:
        """Return where the tables do not keep to an invariant, a sentence each; it takes a transaction.

        The server ends the search by itself after `limit` seconds, though its client be gone.
        """
        sentence, query = invariant
        allowed = {"milliseconds": str(round(1000 * limit))}
        await self._connection.execute(_ALLOW, allowed)
        return [sentence.format(*row) for row in await self._connection.execute(query.limit(invariants.SHOWN))]


class StepRepository:
    """The steps, in a transaction of the caller's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def history(self, workflow_id: int, later: list[tuple[str, int]]) -> History:
        """Return the record of earlier runs, without the steps that are to be executed again.

        Outcomes beyond the size of a portion come without their texts: their ids and sizes, in bytes, are added to
        `later`.
        """
        rows: Any = await self._connection.execute(_HISTORY, {"workflow_id": workflow_id})
        history = History({}, {})
        for step_id, status, output, error, fingerprint, failures, wait, size, total in rows:
            if status == StepStatus.RUNNING:
                history.failed[step_id] = FailedAttempts(failures, max(0.0, wait or 0.0))
                continue
            history.outcomes[step_id] = Outcome(output, error, fingerprint)
            if total > PORTION:
                later.append((step_id, size))
        found = await self._connection.execute(_STANDING, {"workflow_id": workflow_id})
        row: Any = found.one_or_none()
        return history if row is None else history._replace(left=row[0], retries=row[1])

    async def texts(self, workflow_id: int, step_ids: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
        """Return the texts of the outputs and the errors of these steps."""
        rows: Any = await self._connection.execute(
            _TEXTS, {"workflow_id": workflow_id, "step_ids": list(step_ids)}
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    async def settled(self, workflow_id: int, step_id: str) -> Outcome | None:
        """Return the step's success, None without one, once no transaction that could record it goes on."""
        # Each of them holds a share of the workflow's row.
        held = select(Workflow.id).where(Workflow.id == workflow_id).with_for_update(key_share=True)
        await self._connection.execute(held)
        found: Any = await self._connection.execute(
            select(text_of(Step.output), text_of(Step.error), Step.fingerprint).where(
                Step.workflow_id == workflow_id, Step.step_id == step_id, Step.status == StepStatus.SUCCESS
            )
        )
        row = found.one_or_none()
        return None if row is None else Outcome(*row)

    async def of_workflow(self, workflow_id: int, decode: Decode) -> list[StepRecord]:
        """Return the workflow's steps in the order in which they were started."""
        query = (
            select(*_STEP_COLUMNS)
            .where(Step.workflow_id == workflow_id)
            .order_by(Step.started_at, Step.completed_at, Step.step_id)
        )
        return [_step(row, decode) for row in await self._connection.execute(query)]


_WORKFLOW_COLUMNS: Sequence[Any] = (
    Workflow.id,
    Workflow.name,
    Workflow.status,
    text_of(Workflow.input),
    text_of(Workflow.output),
    text_of(Workflow.error),
    Workflow.epoch,
    finite(Workflow.created_at),
    finite(Workflow.started_at),
    finite(Workflow.completed_at),
    finite(Workflow.updated_at),
    Workflow.queue,
    Workflow.key,
    Workflow.priority,
    finite(Workflow.due_at),
    finite(Workflow.deadline),
    Workflow.executor,
    Workflow.attempts,
    Workflow.codec,
)

_STEP_COLUMNS: Sequence[Any] = (
    Step.workflow_id,
    Step.step_id,
    Step.status,
    text_of(Step.output),
    text_of(Step.error),
    Step.epoch,
    Step.reopened,
    finite(Step.started_at),
    finite(Step.completed_at),
    Step.failures,
)


def _history() -> Any:
    """Return the query for a workflow's steps, each with its size, and with that of all up to it."""
    size = cast(func.coalesce(size_of(Step.output), size_of(Step.error), ZERO), BigInteger())
    total = cast(pg.sum(size, type_=Numeric()).over(order_by=Step.step_id), BigInteger())
    steps = (
        select(Step, size.label("size"), total.label("total"))
        .where(
            Step.workflow_id == bindparam("workflow_id"),
            Step.status.in_([StepStatus.SUCCESS, StepStatus.ERROR]) | (Step.failures > 0),
            ~Step.reopened,
        )
        .subquery("steps")
    )
    is_now = steps.c.total <= literal_column(str(PORTION), BigInteger())
    return select(
        steps.c.step_id,
        steps.c.status,
        case((is_now, text_of(steps.c.output))),
        case((is_now, text_of(steps.c.error))),
        steps.c.fingerprint,
        steps.c.failures,
        seconds_of(steps.c.retry_at - func.now()),
        steps.c.size,
        steps.c.total,
    )


_HISTORY: Any = _history()

_TEXTS: Any = select(Step.step_id, text_of(Step.output), text_of(Step.error)).where(
    Step.workflow_id == bindparam("workflow_id"),
    Step.step_id == func.any(bindparam("step_ids", type_=ARRAY(Text()))),
)

_STANDING: Any = select(seconds_of(Workflow.deadline - func.now()), Workflow.retries).where(
    Workflow.id == bindparam("workflow_id")
)

_ALLOW: Any = select(pg.set_config(constant("statement_timeout"), bindparam("milliseconds", type_=Text()), true()))

_CANCELLED: dict[str, Any] = {
    "status": WorkflowStatus.CANCELLED,
    "ready_at": null(),
    "due_at": null(),
    "deadline": null(),
    "cancel_interrupts": null(),
    "completed_at": func.now(),
    "updated_at": func.now(),
}


def _workflow(row: Sequence[Any], decode: Decode) -> WorkflowRecord:
    identity, name, status, input_, output, error, *rest = row
    return WorkflowRecord(
        identity,
        name,
        WorkflowStatus(status),
        _decoded(input_, decode),
        _decoded(output, decode),
        _decoded(error, decode),
        *rest,
    )


def _step(row: Sequence[Any], decode: Decode) -> StepRecord:
    workflow_id, step_id, status, output, error, *rest = row
    return StepRecord(
        workflow_id, step_id, StepStatus(status), _decoded(output, decode), _decoded(error, decode), *rest
    )


def _decoded(text: str | None, decode: Decode) -> Any:
    return None if text is None else decode(text)


def _bigints(values: Collection[int]) -> ColumnElement[Any]:
    return array_of(literal(text_of_array(values), Text()), BigInteger())


def _unless_over(workflow_id: int, row: Any, *over: WorkflowStatus) -> Any:
    """Return the row of a workflow; raise if it is not there, or is `over`."""
    if row is None:
        raise WorkflowNotFoundError(workflow_id)
    if row.status in over:
        raise WorkflowFinishedError(workflow_id, row.status)
    return row


def _locked() -> Any:
    """Return the query that locks a workflow and tells how it stands."""
    columns: Any = (Workflow.id, Workflow.name, Workflow.status, Workflow.executor)
    return select(*columns).where(Workflow.id == bindparam("workflow")).with_for_update(key_share=True)


def _cancel() -> Any:
    """Return the statement that cancels a workflow or asks its executor to; it tells how the workflow stood.

    It is one, so that nobody claims the workflow between the look at its status and the write, also where each
    statement is a transaction.
    """
    held = _locked().cte("held")
    # By the status that was locked: the row's own is looked at as the snapshot shows it first, which may be older.
    own = update(Workflow).where(Workflow.id == held.c.id)
    running = held.c.status == constant(WorkflowStatus.RUNNING)
    waiting = held.c.status.in_([constant(WorkflowStatus.PENDING), constant(WorkflowStatus.WAITING)])
    interrupts = func.coalesce(Workflow.cancel_interrupts, false()) | bindparam("interrupt", type_=Boolean())
    asked = own.where(running).values(cancel_interrupts=interrupts).cte("asked")
    cancelled = own.where(waiting).values(**_CANCELLED).cte("cancelled")
    return select(held.c.status, held.c.executor).add_cte(asked, cancelled)


def _resume() -> Any:
    """Return the statement that makes a workflow pending, and has its failed steps executed again."""
    made_pending = (
        update(Workflow)
        .where(Workflow.id == bindparam("workflow"))
        .values(
            status=WorkflowStatus.PENDING,
            epoch=Workflow.epoch + 1,
            claim=null(),
            executor=null(),
            due_at=null(),
            ready_at=case((Workflow.queue.is_not(None), func.now())),
            attempts=0,
            retries=0,
            deadline=null(),
            cancel_interrupts=null(),
            error=null(),
            completed_at=null(),
            updated_at=func.now(),
        )
        .cte("made_pending")
    )
    return (
        update(Step)
        .where(Step.workflow_id == bindparam("workflow"), Step.status == StepStatus.ERROR)
        .values(reopened=true(), failures=0)
        .add_cte(made_pending)
    )


_LOCK = _locked()
_CANCEL = _cancel()
_RESUME = _resume()


def drawn_ids() -> Any:
    """Return the query that takes `count` ids from a `sequence`, whose name is qualified and quoted."""
    sequence = cast(bindparam("sequence", type_=Text()), REGCLASS())
    count = bindparam("count", type_=BigInteger())
    return select(pg.nextval(sequence, type_=BigInteger())).select_from(pg.generate_series(ONE, count))


def of_keys() -> Any:
    """Return the query for the workflows of a `name` that have one of the `keys`: a key, and then a `Taken`."""
    asked = func.any(bindparam("keys", type_=ARRAY(Text())))
    columns = Workflow.key, Workflow.id, text_of(Workflow.input), Workflow.codec
    return select(*columns).where(Workflow.name == bindparam("name"), Workflow.key == asked)


def notify() -> Any:
    """Return the statement that notifies those who listen on a `channel`."""
    return select(pg.pg_notify(bindparam("channel", type_=Text()), bindparam("payload", type_=Text())))


def time_of_day() -> Any:
    """Return the query for the time by the database's clock."""
    return select(func.clock_timestamp())
