"""The statements of a rewind, all in one transaction that has locked the row of the workflow.

The steps that were completed before the chosen one began stay. The other ones, and the chosen one, are set aside:
they move to a table of their own, and the next run executes them again.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.updates import REPLY, REQUEST
from pgqrs.models import Message, Rewind, SetAsideStep, Step, Text, Wait, Workflow
from pgqrs.storage.queries.children import cancel_held
from pgqrs.storage.queries.workflows import runs_again
from pgqrs.storage.records import UNDO
from pgqrs.storage.sql.expressions import ONE, finite, pg, text_literal, text_of
from pgqrs.storage.sql.sagas import has_saga, is_undecided
from pgqrs.storage.sql.waits import drop_waits
from pgqrs.types import SagaState, StepStatus, WorkflowStatus

TOPIC = "m/"
"""The beginning of the address of a topic of a workflow."""

ANSWER = "/answer"
"""The end of the id of the step that answers the request which the step with the rest of the id has received."""

SET_ASIDE = "set-aside/"
"""The beginning of the parent step of a child that a rewind has left behind."""

_NUMBER = literal_column("3", Integer())
"""The first character after the kind of an address, counted from 1."""


@cache
def lock_for_rewind() -> Any:
    """Return the query that locks a workflow, for the conditions of a rewind."""
    columns = (
        Workflow.status,
        Workflow.executor,
        Workflow.queue,
        Workflow.epoch,
        Workflow.codec,
        Workflow.batch_id,
        Workflow.releases_key,
        Workflow.unique_value,
    )
    return select(*columns).where(Workflow.id == _workflow()).with_for_update(key_share=True)


@cache
def step_ids() -> Any:
    """Return the query for the ids of the steps of a workflow."""
    return select(Step.step_id).where(Step.workflow_id == _workflow())


@cache
def first_undone() -> Any:
    """Return the query for the earliest step that would stay, although a saga has undone it or has tried to."""
    step, undo = aliased(Step, name="step"), aliased(Step, name="undo")
    undo_id = pg.concat(text_literal(UNDO), step.step_id, type_=Text())
    return (
        select(step.step_id)
        .join(undo, and_(undo.workflow_id == step.workflow_id, undo.step_id == undo_id))
        .where(step.workflow_id == _workflow(), _stays(step))
        .order_by(step.started_at, step.step_id)
        .limit(ONE)
    )


@cache
def forget_replies() -> Any:
    """Return the statement that deletes the replies of the answers that are set aside: they are given anew."""
    request, answer = aliased(Step, name="request"), aliased(Step, name="answer")
    reply_address = pg.concat(text_literal(REPLY), pg.substr(request.address, _NUMBER), type_=Text())
    replies = (
        select(reply_address, _request_key(request))
        .join(
            answer,
            and_(
                answer.workflow_id == request.workflow_id,
                answer.step_id == pg.concat(request.step_id, text_literal(ANSWER), type_=Text()),
            ),
        )
        .where(request.workflow_id == _workflow(), _is_of(request.address, REQUEST), ~_stays(answer))
    )
    return delete(Message).where(tuple_(Message.address, Message.key).in_(replies))


@cache
def return_messages() -> Any:
    """Return the statement that puts the messages of the steps that are set aside back, as new ones.

    A message was taken by the statement that has recorded the step, and so at the same time.
    """
    step = aliased(Step, name="step")
    found = select(Message.id).join(step, _was_taken_by(step)).where(*_received(step))
    return update(Message).where(Message.id.in_(found)).values(taken_at=null(), is_new=literal_column("true"))


@cache
def insert_messages() -> Any:
    """Return the statement that writes anew the messages that were deleted since they were received.

    Each of them was received before the messages that are unread now, so `order_messages` gives it a lower id.
    """
    step = aliased(Step, name="step")
    is_there = exists().where(_was_taken_by(step))
    is_request = _is_of(step.address, REQUEST)
    new_key = pg.concat(text_literal("~"), _epoch_text(), text_literal("/"), step.step_id, type_=Text())
    key = case((is_request, _request_key(step)), else_=new_key)
    kept = pg.json_extract_path_text(step.output, text_literal("is_kept"), type_=Text())
    columns = [Message.workflow_id, Message.address, Message.key, Message.is_kept, Message.payload]
    missing = (
        select(
            step.workflow_id,
            step.address,
            key,
            case((is_request, func.coalesce(kept == text_literal("true"), false())), else_=false()),
            step.output,
        )
        .where(*_received(step), ~is_there)
        .order_by(step.completed_at.desc(), step.step_id.desc())
    )
    written = insert(Message).from_select(columns, missing, include_defaults=False)
    return written.on_conflict_do_nothing().returning(Message.id)


@cache
def order_message() -> Any:
    """Return the statement that gives the message `written` an id before all messages that are unread."""
    return update(Message).where(Message.id == bindparam("written", type_=BigInteger())).values(id=-Message.id)


@cache
def cancel_left_children() -> Any:
    """Return the statement that cancels the live children which the steps that are set aside have started.

    Only those end that were to end with their parent.
    """
    held: Any = (
        select(Workflow.id, Workflow.status, Workflow.saga_state)
        .where(_is_left(), Workflow.completed_at.is_(None), Workflow.ends_with_parent)
        .where(or_(Workflow.status != WorkflowStatus.RUNNING, Workflow.cancel_interrupts.is_(None)))
        .where(or_(~has_saga(), is_undecided()))
        .order_by(Workflow.id)
        .with_for_update(key_share=True)
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    handed, asked, cancelled = cancel_held(held)
    dropped = drop_waits(cancelled.c.id).cte("dropped"), drop_waits(handed.c.id).cte("also_dropped")
    return select(held.c.id).add_cte(asked, *dropped)


@cache
def leave_children() -> Any:
    """Return the statement by which children that are left behind are no longer those of their step."""
    parts = text_literal(SET_ASIDE), _epoch_text(), text_literal("//"), Workflow.parent_step
    return update(Workflow).where(_is_left()).values(parent_step=pg.concat(*parts, type_=Text()))


@cache
def rewind() -> Any:
    """Return the statement that makes a workflow ready to run again, and records the rewind.

    Steps that stay may be those of a saga, which a cancellation before the next run is to undo.
    """
    open_saga = case((Workflow.saga_state.is_not(None), text_literal(SagaState.OPEN)))
    again = update(Workflow).where(Workflow.id == _workflow()).values(runs_again(open_saga) | {"output": null()})
    return again.add_cte(_note().cte("noted"))


def _note() -> Any:
    """Return the insert that records a rewind, with the end of the workflow that it takes away."""
    values: dict[str, Any] = {
        "workflow_id": Workflow.id,
        "epoch": Workflow.epoch + ONE,
        "before_step": _before(),
        "token": bindparam("own_token", type_=BigInteger()),
        "status": Workflow.status,
        "output": Workflow.output,
        "error": Workflow.error,
        "completed_at": Workflow.completed_at,
    }
    noted = select(*values.values()).where(Workflow.id == _workflow())
    return insert(Rewind).from_select(list(values), noted, include_defaults=False)


@cache
def drop_own_waits() -> Any:
    """Return the statement that deletes the waits of a workflow."""
    return delete(Wait).where(Wait.workflow_id == _workflow())


@cache
def set_aside() -> Any:
    """Return the statement that moves the steps that do not stay to the table of their own."""
    names = [each.key for each in SetAsideStep.__table__.c if each.key != "rewind"]
    gone: Any = (
        delete(Step)
        .where(Step.workflow_id == _workflow(), ~_stays(Step))
        .returning(*(getattr(Step, name) for name in names))
        .cte("gone")
    )
    moved = select(*(gone.c[name] for name in names), _epoch())
    return insert(SetAsideStep).from_select([*names, "rewind"], moved, include_defaults=False)


@cache
def rewinds() -> Any:
    """Return the query for the rewinds of a workflow, the first one first."""
    return (
        select(
            Rewind.workflow_id,
            Rewind.before_step.label("before"),
            Rewind.epoch,
            Rewind.token,
            finite(Rewind.rewound_at).label("rewound_at"),
            Rewind.status,
            text_of(Rewind.output).label("output"),
            text_of(Rewind.error).label("error"),
            finite(Rewind.completed_at).label("completed_at"),
        )
        .where(Rewind.workflow_id == _workflow())
        .order_by(Rewind.epoch)
    )


@cache
def tokens() -> Any:
    """Return the query for the tokens of the rewinds of a workflow."""
    return select(Rewind.token).where(Rewind.workflow_id == _workflow())


@cache
def set_aside_steps() -> Any:
    """Return the query for all steps of a workflow that were set aside, with the epochs of the rewinds."""
    step = SetAsideStep
    return (
        select(
            step.rewind,
            step.workflow_id,
            step.step_id,
            step.status,
            text_of(step.output).label("output"),
            text_of(step.error).label("error"),
            step.epoch,
            step.reopened,
            finite(step.started_at).label("started_at"),
            finite(step.completed_at).label("completed_at"),
            step.failures,
            step.address,
        )
        .where(step.workflow_id == _workflow())
        .order_by(step.rewind, step.started_at, step.completed_at, step.step_id)
    )


def _stays(step: Any) -> ColumnElement[bool]:
    """Return the condition that a step was completed before the chosen one began."""
    chosen = aliased(Step, name="chosen")
    began = select(chosen.started_at).where(chosen.workflow_id == _workflow(), chosen.step_id == _before())
    is_before = step.completed_at <= began.correlate_except(chosen).scalar_subquery()
    return and_(func.coalesce(is_before, false()), step.step_id != _before())


def _received(step: Any) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on a step that is set aside, and whose outcome is a message to the workflow."""
    is_message = or_(_is_of(step.address, TOPIC), _is_of(step.address, REQUEST))
    return step.workflow_id == _workflow(), step.status == StepStatus.SUCCESS, is_message, not_(_stays(step))


def _was_taken_by(step: Any) -> ColumnElement[bool]:
    """Return the condition that a message became the outcome of a step."""
    is_same = text_of(Message.payload) == text_of(step.output)
    return and_(Message.address == step.address, Message.taken_at == step.completed_at, is_same)


def _is_of(address: Any, kind: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = func.coalesce(
        pg.starts_with(address, text_literal(kind), type_=Boolean()), false()
    )
    return condition


def _request_key(step: Any) -> ColumnElement[str]:
    key: ColumnElement[str] = pg.json_extract_path_text(step.output, text_literal("key"), type_=Text())
    return key


def _is_left() -> ColumnElement[bool]:
    """Return the condition that a workflow is a child of a step that does not stay, in the newest generation.

    A child that has a key is not left behind: the key names it, whichever run starts it.
    """
    parent, step = aliased(Workflow, name="parent"), aliased(Step, name="step")
    separator = text_literal("//")
    generation = select(cast(parent.generation, Text())).where(parent.id == _workflow()).scalar_subquery()
    prefix = pg.concat(generation, separator, type_=Text())
    is_plain = pg.strpos(Workflow.parent_step, separator, type_=Integer()) == literal_column("0", Integer())
    is_newest = case(
        (generation.is_(None), is_plain),
        else_=pg.starts_with(Workflow.parent_step, prefix, type_=Boolean()),
    )
    name = case((generation.is_(None), step.step_id), else_=pg.concat(prefix, step.step_id, type_=Text()))
    stays = exists().where(step.workflow_id == _workflow(), name == Workflow.parent_step, _stays(step))
    has_key = and_(Workflow.key.is_not(None), or_(Workflow.completed_at.is_(None), ~Workflow.releases_key))
    return and_(Workflow.parent_id == _workflow(), is_newest, ~stays, ~has_key)


def _workflow() -> ColumnElement[int]:
    return bindparam("workflow", type_=BigInteger())


def _before() -> ColumnElement[str]:
    return bindparam("before", type_=Text())


def _epoch() -> ColumnElement[int]:
    return bindparam("rewound", type_=BigInteger())


def _epoch_text() -> ColumnElement[str]:
    return cast(_epoch(), Text())
