"""The queries for workflows outside of the hot path; they take and return records, never ORM instances."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.records import StoredWorkflow
from pgqrs.errors import (
    KeyTakenError,
    UniqueTakenError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
)
from pgqrs.models import Attributes, Event, Message, Step, Text, Wait, Workflow
from pgqrs.storage.queries import executors
from pgqrs.storage.queries.children import is_failed_wait
from pgqrs.storage.records import (
    SAGA,
    UNDO,
    EndedWorkflow,
    EventState,
    Receiver,
    WorkflowIdentity,
    WorkflowName,
    WorkflowResult,
    from_row,
    stored_member,
)
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    finite,
    ids_of,
    is_found,
    pg,
    text_literal,
    text_of,
    text_of_array,
)
from pgqrs.storage.sql.sagas import handed_to_worker, has_saga, is_undecided, unwinds
from pgqrs.storage.sql.tokens import check_token
from pgqrs.storage.sql.waits import drop_waits
from pgqrs.types import SagaState, StepStatus, WorkflowStatus


class WorkflowRepository:
    """Queries for workflows, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def reserve_ids(self, sequence: str, count: int) -> list[int]:
        """Take `count` ids from the `sequence`, a qualified and quoted name."""
        drawn = await self._connection.scalars(drawn_ids(), {"sequence": sequence, "count": count})
        return list(drawn)

    async def name(self, workflow_id: int) -> WorkflowName:
        """Return a workflow's name and token; raises `WorkflowNotFoundError`."""
        query = select(Workflow.name, Workflow.token, _scheduled_for()).where(Workflow.id == workflow_id)
        row = (await self._connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return from_row(WorkflowName, row)

    async def of_key(self, name: str, key: str) -> WorkflowIdentity | None:
        """Return the workflow of this name that has the key, or None."""
        row: Any = (await self._connection.execute(of_key(), {"name": name, "key": key})).one_or_none()
        return None if row is None else WorkflowIdentity(*row)

    async def results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return the results of the workflows that have ended, by id."""
        texts = text_of(Workflow.output).label("output"), text_of(Workflow.error).label("error")
        query = select(Workflow.id, Workflow.status, *texts, Workflow.codec, Workflow.token)
        over = Workflow.status.in_([WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED])
        rows: Any = await self._connection.execute(query.where(Workflow.id == func.any(bigints(ids)), over))
        return {
            row.id: WorkflowResult(
                stored_member(WorkflowStatus, row.status), row.output, row.error, row.codec, row.token
            )
            for row in rows
        }

    async def inputs(self, ids: Collection[int]) -> dict[int, str]:
        """Return the inputs, JSON texts, of the workflows that exist, by id."""
        query = select(Workflow.id, text_of(Workflow.input).label("input"))
        rows: Any = await self._connection.execute(query.where(Workflow.id == func.any(bigints(ids))))
        return {row.id: row.input for row in rows}

    async def tokens(self, ids: Collection[int]) -> dict[int, int | None]:
        """Return the tokens of the workflows that exist, by id."""
        query = select(Workflow.id, Workflow.token).where(Workflow.id == func.any(bigints(ids)))
        rows: Any = await self._connection.execute(query)
        return {row.id: row.token for row in rows}

    async def status(self, workflow_id: int) -> tuple[WorkflowStatus, int | None]:
        """Return a workflow's status and token; raises `WorkflowNotFoundError`."""
        query = select(shown_status().label("status"), Workflow.token).where(Workflow.id == workflow_id)
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return stored_member(WorkflowStatus, row.status), row.token

    async def receiver(self, workflow_id: int, address: str, key: str) -> Receiver:
        """Return the state of the receiver of a message; raises `WorkflowNotFoundError`."""
        asked = {"workflow": workflow_id, "address": address, "key": key}
        row: Any = (await self._connection.execute(receiver(), asked)).one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return Receiver(stored_member(WorkflowStatus, row.status), row.codec, row.has_message)

    async def event(self, workflow_id: int, name: str) -> EventState:
        """Return the value of an event, with the status and the token of the workflow.

        Raises `WorkflowNotFoundError`.
        """
        query = (
            select(Workflow.status, Workflow.token, Workflow.codec, text_of(Event.value).label("value"))
            .outerjoin(
                Event, (Event.workflow_id == Workflow.id) & (Event.name == bindparam("event", type_=Text()))
            )
            .where(Workflow.id == workflow_id)
        )
        found = await self._connection.execute(query, {"event": name})
        row = found.mappings().one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return from_row(EventState, {**row, "status": stored_member(WorkflowStatus, row["status"])})

    async def events(self, workflow_id: int) -> dict[str, str]:
        """Return the values, JSON texts, of the events that a workflow has set, by name."""
        query = select(Event.name, text_of(Event.value).label("value")).where(Event.workflow_id == workflow_id)
        rows: Any = await self._connection.execute(query.order_by(Event.name))
        return {row.name: row.value for row in rows}

    async def get(self, workflow_id: int) -> StoredWorkflow:
        """Return a workflow; raises `WorkflowNotFoundError`."""
        found = await self._connection.execute(select(*workflow_columns()).where(Workflow.id == workflow_id))
        row = found.mappings().one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return stored_workflow(row)

    async def cancel(self, workflow_id: int, *, interrupt: bool, token: int | None) -> Cancelled:
        """Cancel a workflow at once, or request the cancellation of its run.

        A workflow with another token than `token` stays as it is; None stands for any token. Raises
        `WorkflowNotFoundError`, and `WorkflowFinishedError` for a workflow that has succeeded or failed.
        """
        values = {"workflow": workflow_id, "interrupt": interrupt, "expected_token": token}
        row: Any = (await self._connection.execute(cancel(), values)).one_or_none()
        if row is not None:
            check_token(workflow_id, token, row.token)
        row = _unless_over(workflow_id, row, WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)
        if row.status == WorkflowStatus.WAITING:
            # If the statement has waited for a run that parked, its snapshot does not have the waits of the run.
            await self._connection.execute(drop_left_waits(), {"workflow": workflow_id})
        executor = row.executor if row.status == WorkflowStatus.RUNNING else None
        if row.status == WorkflowStatus.CANCELLED or row.saga_state is not None:
            return Cancelled(executor, None)
        return Cancelled(executor, EndedWorkflow(row.name, row.queue, WorkflowStatus.CANCELLED))

    async def release(self, ids: Sequence[int], executor_id: UUID) -> None:
        """Mark runs of a dead executor as abandoned, so that another executor can start runs."""
        await self._connection.execute(
            update(Workflow)
            .where(Workflow.id == func.any(bigints(ids)), Workflow.executor == executor_id)
            .values(executor=executors.ABANDONED, updated_at=func.now())
        )

    async def cancel_released(self, workflow_id: int) -> None:
        """Cancel a workflow whose run was released, unless an executor has started another run."""
        await self._connection.execute(cancel_released(), {"workflow": workflow_id})

    async def resume(self, workflow_id: int) -> WorkflowName:
        """Make a workflow runnable again, have its failed steps executed again, and return its name and token.

        A run of the workflow that is still live is fenced. Raises `WorkflowNotFoundError`, `WorkflowFinishedError`
        for a workflow that has succeeded, and `KeyTakenError` or `UniqueTakenError` for one whose key or unique
        value another workflow has. After each of these errors the transaction stays usable. Requires a
        transaction.
        """
        own = {"workflow": workflow_id}
        # Two statements, because the snapshot of the second has the errors that are recorded while the first waits
        # for the lock.
        found = await self._connection.execute(lock(), own)
        row = _unless_over(workflow_id, found.one_or_none(), WorkflowStatus.SUCCESS)
        if row.batch_id == workflow_id:
            _refuse_batch(workflow_id, row)
        may_lack_key = row.releases_key or row.unique_value is not None
        await self.run_again(resume(), own, may_lack_key=may_lack_key)
        return WorkflowName(row.name, row.token, row.scheduled_for)

    async def run_again(self, statement: Any, values: Mapping[str, Any], *, may_lack_key: bool) -> None:
        """Execute the statement that makes the workflow of the `values` runnable again.

        `may_lack_key` says that it may have to take its key or its unique value back. Raises the error of
        `key_taken` if another workflow has it; the transaction stays usable.
        """
        if not may_lack_key:
            await self._connection.execute(statement, values)
            return
        await self._connection.execute(text("SAVEPOINT pgqrs_resume"))
        try:
            await self._connection.execute(statement, values)
        except IntegrityError as error:
            await self._connection.execute(text("ROLLBACK TO SAVEPOINT pgqrs_resume"))
            raise await self.key_taken(values["workflow"]) or error from error
        await self._connection.execute(text("RELEASE SAVEPOINT pgqrs_resume"))

    async def key_taken(self, workflow_id: int) -> KeyTakenError | UniqueTakenError | None:
        """Return the error of a workflow that cannot run again because another one has its key or unique value.

        Return None for a workflow that has released neither of them.
        """
        own = {"workflow": workflow_id}
        row: Any = (await self._connection.execute(key_taken(), own)).one_or_none()
        if row is not None:
            return KeyTakenError(workflow_id, *row, is_child=False)
        row = (await self._connection.execute(value_taken(), own)).one_or_none()
        return None if row is None else UniqueTakenError(workflow_id, *row, cause="ended")


@cache
def _scheduled_for() -> Any:
    return finite(Workflow.scheduled_for).label("scheduled_for")


@cache
def receiver() -> Any:
    """Return the query for the state of a `workflow`, the receiver of a message with an `address` and a `key`."""
    has_message = exists().where(Message.address == bindparam("address"), Message.key == bindparam("key"))
    return select(Workflow.status, Workflow.codec, has_message.label("has_message")).where(
        Workflow.id == bindparam("workflow")
    )


@cache
def shown_status() -> ColumnElement[str]:
    """Return the status of a workflow; of a submission in a batch, that of the batch until the submission ends."""
    batch = aliased(Workflow, name="batch")
    of_batch = select(batch.status).where(batch.id == Workflow.batch_id).correlate_except(batch).scalar_subquery()
    is_in_batch = (Workflow.batch_id != Workflow.id) & Workflow.completed_at.is_(None)
    return case((is_in_batch, func.coalesce(of_batch, Workflow.status)), else_=Workflow.status)


@cache
def workflow_columns() -> Sequence[Any]:
    """Return the columns of a `StoredWorkflow`."""
    return (
        Workflow.id,
        Workflow.name,
        shown_status().label("status"),
        text_of(Workflow.input).label("input"),
        text_of(Workflow.output).label("output"),
        text_of(Workflow.error).label("error"),
        Workflow.epoch,
        finite(Workflow.created_at).label("created_at"),
        finite(Workflow.started_at).label("started_at"),
        finite(Workflow.completed_at).label("completed_at"),
        finite(Workflow.updated_at).label("updated_at"),
        Workflow.queue,
        Workflow.key,
        Workflow.priority,
        finite(Workflow.due_at).label("due_at"),
        finite(Workflow.deadline).label("deadline"),
        Workflow.executor.label("executor_id"),
        Workflow.attempts,
        Workflow.codec,
        Workflow.schedule,
        _scheduled_for(),
        Workflow.token,
        Workflow.partition_key,
        Workflow.unique_value.label("unique"),
        Workflow.batch_id,
        Workflow.parent_id,
        _described(text_of(Attributes.attributes)).label("attributes"),
        _described(Attributes.tags).label("tags"),
    )


def _described(value: Any) -> ColumnElement[Any]:
    """Return a value of the attributes of a workflow, NULL for a workflow without."""
    own = select(value).where(Attributes.workflow_id == Workflow.id)
    return own.correlate_except(Attributes).scalar_subquery()


class Cancelled(NamedTuple):
    """The effect of a cancellation: the executor of a run that is to stop, and the end of the workflow.

    The end has come if there is no executor, or if the executor is dead. `ended` is None for a workflow that had
    ended before, or unwinds.
    """

    executor: UUID | None
    ended: EndedWorkflow | None


_CANCELLED: dict[str, Any] = {
    "status": WorkflowStatus.CANCELLED,
    "ready_at": null(),
    "due_at": null(),
    "deadline": null(),
    "cancel_interrupts": null(),
    "completed_at": func.now(),
    "updated_at": func.now(),
}


def stored_workflow(row: Mapping[Any, Any]) -> StoredWorkflow:
    """Return the record of a row with the columns of `workflow_columns`."""
    return from_row(StoredWorkflow, {**row, "status": stored_member(WorkflowStatus, row["status"])})


def bigints(values: Collection[int]) -> ColumnElement[Any]:
    """Return ids as an array, for a condition on a column."""
    return ids_of(literal(text_of_array(values), Text()))


def _unless_over(workflow_id: int, row: Any, *over: WorkflowStatus) -> Any:
    """Return the row of a workflow; raise if there is no row, or if its status is one of `over`."""
    if row is None:
        raise WorkflowNotFoundError(workflow_id)
    if row.status in over:
        raise WorkflowFinishedError(workflow_id, row.status)
    return row


def _refuse_batch(workflow_id: int, row: Any) -> None:
    """Raise for a batch that has ended: its submissions have ended with it."""
    try:
        _unless_over(workflow_id, row, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)
    except WorkflowFinishedError as error:
        error.add_note(
            f"Workflow {workflow_id} is a batch: resume its submissions, which will be in another batch."
        )
        raise


class _One:
    """The conditions of a statement that is about one `workflow`."""

    def has(self, column: Any) -> ColumnElement[bool]:
        """Return the condition that a column is the id of the workflow."""
        condition: ColumnElement[bool] = column == self.of(column)
        return condition

    def of(self, _column: Any) -> ColumnElement[Any]:
        """Return the id of the workflow of a row."""
        return bindparam("workflow")


class _Many:
    """The conditions of a statement that is about several `workflows`, the text of an array."""

    def has(self, column: Any) -> ColumnElement[bool]:
        """Return the condition that a column is the id of one of the workflows."""
        condition: ColumnElement[bool] = column == func.any(_asked_ids())
        return condition

    def of(self, column: Any) -> ColumnElement[Any]:
        """Return the id of the workflow of a row, which a column has."""
        own: ColumnElement[Any] = column
        return own


_Own: TypeAlias = _One | _Many


def _asked_ids() -> ColumnElement[Any]:
    return ids_of(bindparam("workflows", type_=Text()))


def _lockable() -> tuple[Any, ...]:
    return (
        Workflow.id,
        Workflow.name,
        Workflow.status,
        Workflow.executor,
        Workflow.token,
        Workflow.saga_state,
    )


def _locked() -> Any:
    """Return the query that locks a workflow and returns its status, executor and token."""
    return select(*_lockable()).where(_One().has(Workflow.id)).with_for_update(key_share=True)


def _locked_many(*more: Any) -> Any:
    """Return the query that locks `workflows`, in order, except the ones that another transaction has locked."""
    query = select(*_lockable(), *more).where(_Many().has(Workflow.id)).order_by(Workflow.id)
    return query.with_for_update(key_share=True, skip_locked=True)


def states_of_many() -> Any:
    """Return the query for the states of `workflows`, without a lock."""
    more = (Workflow.cancel_interrupts, Workflow.releases_key, Workflow.unique_value, Workflow.batch_id)
    return select(*_lockable(), *more, Workflow.codec).where(_Many().has(Workflow.id)).order_by(Workflow.id)


@cache
def lock_many() -> Any:
    """Return the query that locks `workflows` that are to run again, except locked ones."""
    return _locked_many(Workflow.releases_key, Workflow.unique_value, Workflow.batch_id)


@cache
def cancel() -> Any:
    """Return the statement that cancels a workflow, or requests it from its executor, and returns the old status.

    A workflow without a run is handed to a worker if the worker is to undo the steps of a saga. One that unwinds
    stays as it is.

    It is a single statement, so that no claim comes between the check of the status and the write, even where each
    statement is a transaction.
    """
    held = _locked().add_columns(Workflow.queue).cte("held")
    # The condition is on the locked status. PostgreSQL would check the row's own status in the snapshot, which may
    # be older.
    # Not named `token`: SQLAlchemy would take a value named as a column for a new value of the column.
    token = func.coalesce(bindparam("expected_token", type_=BigInteger()), held.c.token)
    own = update(Workflow).where(Workflow.id == held.c.id, token.is_not_distinct_from(held.c.token))
    held_columns = (held.c.status, held.c.executor, held.c.token, held.c.saga_state, held.c.name, held.c.queue)
    return select(*held_columns).add_cte(*_cancelling(held, own))


@cache
def cancel_many() -> Any:
    """Return the statement that does as `cancel` for `workflows`, and returns their states from before.

    It skips the rows that another transaction has locked.
    """
    held = _locked_many(Workflow.cancel_interrupts).cte("held")
    own = update(Workflow).where(Workflow.id == held.c.id)
    return select(held).add_cte(*_cancelling(held, own))


def _cancelling(held: Any, own: Any) -> Sequence[Any]:
    """Return the writes that cancel the locked workflows of `held`; `own` is their update."""
    running = held.c.status == text_literal(WorkflowStatus.RUNNING)
    waiting = held.c.status.in_([text_literal(WorkflowStatus.PENDING), text_literal(WorkflowStatus.WAITING)])
    interrupts = func.coalesce(Workflow.cancel_interrupts, false()) | bindparam("interrupt", type_=Boolean())
    is_live = ~has_saga(held.c) | is_undecided(held.c)
    asked = own.where(running, is_live).values(cancel_interrupts=interrupts).cte("asked")
    cancelled = own.where(waiting, ~has_saga(held.c)).values(**_CANCELLED).returning(Workflow.id).cte("cancelled")
    handed = own.where(waiting, is_undecided(held.c)).values(**handed_to_worker(SagaState.CANCELLED))
    unwinding = handed.returning(Workflow.id).cte("unwinding")
    dropped = drop_waits(cancelled.c.id).cte("waits_dropped")
    also_dropped = drop_waits(unwinding.c.id).cte("also_dropped")
    return asked, cancelled, unwinding, dropped, also_dropped


@cache
def messages_with_key() -> Any:
    """Return the query for the receivers of the messages at `addresses` that have one of the `keys`."""
    addresses, keys = (func.any(bindparam(each, type_=ARRAY(Text()))) for each in ("addresses", "keys"))
    return select(Message.workflow_id).where(Message.address == addresses, Message.key == keys)


@cache
def drop_left_waits() -> Any:
    """Return the statement that deletes the waits of a workflow unless it is parked."""
    return _drop_left_waits(_One())


@cache
def drop_left_waits_of_many() -> Any:
    """Return the statement that deletes the waits of those of some `workflows` that are not parked."""
    return _drop_left_waits(_Many())


def _drop_left_waits(own: _Own) -> Any:
    is_parked = exists().where(Workflow.id == own.of(Wait.workflow_id), Workflow.status == WorkflowStatus.WAITING)
    return delete(Wait).where(own.has(Wait.workflow_id), ~is_parked)


@cache
def cancel_released() -> Any:
    """Return the statement that cancels a workflow whose run was released, or hands it to a worker to unwind."""
    return _cancel_released(_One())


@cache
def cancel_released_many() -> Any:
    """Return the statement that does as `cancel_released` for `workflows`."""
    return _cancel_released(_Many())


def _cancel_released(own: _Own) -> Any:
    released = update(Workflow).where(own.has(Workflow.id), Workflow.executor == executors.abandoned())
    freed = {"executor": null(), "epoch": Workflow.epoch + 1, "claim": null()}
    handed = released.where(has_saga()).values(**handed_to_worker(SagaState.CANCELLED), **freed).cte("handed")
    return released.where(~has_saga()).values(**_CANCELLED, **freed).add_cte(handed)


def _is_saga(step: Any) -> ColumnElement[bool]:
    """Return the condition that a step records that a saga is undone."""
    starts = [pg.starts_with(step.step_id, text_literal(each), type_=Boolean()) for each in SAGA]
    return or_(*starts)


def _is_undo(step: Any) -> ColumnElement[bool]:
    return pg.starts_with(step.step_id, text_literal(UNDO), type_=Boolean())


@cache
def resume() -> Any:
    """Return the statement that makes a workflow pending, and reopens its failed steps and its waits for children.

    A wait for a child that has failed has no outcome any more: the next run takes the end that the child has then.
    After a failed undo only the steps that began since then are reopened, and the workflow goes on to unwind: the
    body is to take its path from before. The undos have all their time again.
    """
    return _resume(_One())


@cache
def resume_many() -> Any:
    """Return the statement that does as `resume` for `workflows`."""
    return _resume(_Many())


def _resume(own: _Own) -> Any:
    saga = aliased(Step, name="saga")
    decided = (
        select(pg.max(saga.completed_at))
        .where(saga.workflow_id == own.of(Step.workflow_id), _is_saga(saga))
        .correlate_except(saga)
        .scalar_subquery()
    )
    began_anew = (
        update(Step)
        .where(own.has(Step.workflow_id), _is_saga(Step))
        .values(completed_at=func.now())
        .cte("began_anew")
    )
    # A later cancellation is to undo what is left, also if it comes before the next run.
    saga_state = case(
        (_has_failed_undo(own.of(Workflow.id)) | is_undecided(), Workflow.saga_state),
        (unwinds(), text_literal(SagaState.OPEN)),
    )
    made_pending = update(Workflow).where(own.has(Workflow.id)).values(runs_again(saga_state)).cte("made_pending")
    has_failed = _has_failed_undo(own.of(Step.workflow_id))
    waiting_again = (
        update(Step)
        .where(own.has(Step.workflow_id), Step.status == StepStatus.SUCCESS, is_failed_wait())
        .where(~has_failed)
        .values(status=StepStatus.RUNNING, output=null(), address=null(), completed_at=null(), retry_at=null())
        .cte("waiting_again")
    )
    waits_dropped = delete(Wait).where(own.has(Wait.workflow_id)).cte("waits_dropped")
    return (
        update(Step)
        .where(own.has(Step.workflow_id), Step.status == StepStatus.ERROR)
        .where(~has_failed | (Step.started_at >= decided) | _is_undo(Step))
        .values(reopened=true(), failures=0, retry_at=null())
        .add_cte(made_pending, waiting_again, waits_dropped, began_anew)
    )


def _has_failed_undo(workflow_id: Any) -> ColumnElement[bool]:
    """Return the condition that an undo of a workflow has failed."""
    undo = aliased(Step, name="undo")
    failed = select(ONE).where(undo.workflow_id == workflow_id, undo.status == StepStatus.ERROR, _is_undo(undo))
    return is_found(failed, undo)


def runs_again(saga_state: Any) -> dict[str, Any]:
    """Return the values of a workflow that is to run again, in a new epoch, whatever state it is in."""
    parent = aliased(Workflow, name="parent")
    has_live_parent = exists().where(parent.id == Workflow.parent_id, parent.completed_at.is_(None))
    return {
        # A child that is resumed after the end of its parent goes on without it.
        "ends_with_parent": Workflow.ends_with_parent & has_live_parent,
        "status": WorkflowStatus.PENDING,
        "epoch": Workflow.epoch + 1,
        "claim": null(),
        "executor": null(),
        "due_at": null(),
        "ready_at": case((Workflow.queue.is_not(None), func.now())),
        "attempts": 0,
        "retries": 0,
        "deadline": null(),
        "cancel_interrupts": null(),
        # A submission leaves its batch, whose end would end it.
        "batch_id": case((Workflow.batch_id == Workflow.id, Workflow.batch_id)),
        "saga_state": saga_state,
        # Its slot may be another workflow's now; one that has not ended keeps it.
        "slot": case((Workflow.completed_at.is_(None), Workflow.slot)),
        "error": null(),
        "completed_at": null(),
        "updated_at": func.now(),
    }


@cache
def lock() -> Any:
    """Return the query that locks a `workflow` that is to run again."""
    columns = (Workflow.releases_key, Workflow.unique_value, _scheduled_for(), Workflow.batch_id)
    return _locked().add_columns(*columns)


def drawn_ids() -> Any:
    """Return the query that takes `count` ids from a `sequence`, a qualified and quoted name."""
    sequence = cast(bindparam("sequence", type_=Text()), REGCLASS())
    count = bindparam("count", type_=BigInteger())
    return select(pg.nextval(sequence, type_=BigInteger())).select_from(pg.generate_series(ONE, count))


def of_keys() -> Any:
    """Return the query for the workflows of a `name` that have one of the `keys`: the key, and a `KeyOwner`."""
    asked = func.any(bindparam("keys", type_=ARRAY(Text())))
    submitted = case((Workflow.generation.is_(None), text_of(Workflow.input)))
    owner = (
        Workflow.id.label("workflow_id"),
        submitted.label("input"),
        Workflow.codec,
        Workflow.token,
    )
    return select(Workflow.key, *owner).where(
        Workflow.name == bindparam("name"), Workflow.key == asked, holds_key()
    )


def holds_key(of: Any = Workflow) -> ColumnElement[bool]:
    """Return the condition that a workflow has not released its key, as the index of the keys has it."""
    has_key: ColumnElement[bool] = of.completed_at.is_(None) | ~of.releases_key
    return has_key


@cache
def key_taken() -> Any:
    """Return the query for the name and the key of a `workflow` that has released the key, and for the holder."""
    holder = aliased(Workflow, name="holder")
    is_holder = and_(holder.name == Workflow.name, holder.key == Workflow.key, holds_key(holder))
    return (
        select(Workflow.name, Workflow.key, holder.id)
        .outerjoin(holder, is_holder)
        .where(Workflow.id == bindparam("workflow"), Workflow.key.is_not(None), ~holds_key())
    )


def holds_value(of: Any = Workflow) -> ColumnElement[bool]:
    """Return the condition that a workflow holds its unique value, as the index of the values has it."""
    return and_(
        of.unique_value.is_not(None), of.completed_at.is_(None), or_(of.epoch == ZERO, ~of.unique_until_start)
    )


def value_taken() -> Any:
    """Return the query for the name and the unique value that a `workflow` is to hold again, and the holder."""
    holder = aliased(Workflow, name="holder")
    is_holder = and_(
        holder.name == Workflow.name, holder.unique_value == Workflow.unique_value, holds_value(holder)
    )
    return (
        select(Workflow.name, Workflow.unique_value, holder.id)
        .outerjoin(holder, is_holder)
        .where(Workflow.id == bindparam("workflow"), Workflow.unique_until_start.is_(False), ~holds_value())
    )


@cache
def of_key() -> Any:
    """Return the query for the id and the token of the workflow of a `name` that has a `key`."""
    return select(Workflow.id, Workflow.token).where(
        Workflow.name == bindparam("name"), Workflow.key == bindparam("key"), holds_key()
    )
