"""The invariants of the tables: queries for rows that violate them, each with a sentence that reports a row."""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import Boolean, Integer, cast, exists, func, select
from sqlalchemy.orm import aliased

from pgqrs.codecs.updates import REPLY, REQUEST
from pgqrs.models import (
    Attributes,
    Executor,
    Message,
    Queue,
    Rewind,
    Schedule,
    SetAsideStep,
    Step,
    Text,
    Throttle,
    Wait,
    Workflow,
)
from pgqrs.storage.queries import executors
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    ZERO,
    interval,
    number_literal,
    pg,
    text_literal,
)
from pgqrs.types import SagaState, StepStatus, WorkflowStatus

Invariant: TypeAlias = tuple[str, Any]
"""A sentence with a place for each column, and the query for the rows that violate the invariant."""

SHOWN = 20
"""Maximum rows that are reported for one invariant."""

NOTICED = 30.0
"""Seconds after the death of an executor, or the end of a parent, by which a running worker has noticed it."""

_RATE = ("limit", "per", "burst")
"""The fields of a rate."""

_OVER = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)


def _held() -> Any:
    """Return the number of states that a workflow is in: held by an executor, ready, due at a time."""
    return pg.num_nonnulls(Workflow.executor, Workflow.ready_at, Workflow.due_at, type_=Integer())


def _request_address(reply: Any) -> Any:
    """Return the address of the request that a reply answers."""
    rest = pg.substr(reply.address, number_literal(len(REPLY) + 1), type_=Text())
    return pg.concat(text_literal(REQUEST), rest, type_=Text())


def _is_unusable(rate: Any) -> Any:
    """Return the condition that a rate allows no start, or lacks a field."""
    fields = [cast(pg.json_extract_path_text(rate, text_literal(name), type_=Text()), DOUBLE) for name in _RATE]
    starts, per, burst = (func.coalesce(each, cast(ZERO, DOUBLE)) for each in fields)
    return rate.is_not(None) & ((starts < ONE) | (per <= ZERO) | (burst < ONE))


def invariants() -> tuple[Invariant, ...]:
    """Return the invariants; they are made when they are checked, because they would slow down each import.

    More runs or starts than a limit are no violation: the limit may have been set or lowered since then, and a run
    that is started by hand is not held back. `make chaos` compares each claim with the limits of its time.
    """
    reply, parent = aliased(Message, name="reply"), aliased(Workflow, name="parent")
    batch, other = aliased(Workflow, name="batch"), aliased(Workflow, name="other")
    return (
        (
            "workflow {0} has a status or a state of its sagas that does not exist: {1!r}, {2!r}.",
            select(Workflow.id, Workflow.status, Workflow.saga_state).where(
                Workflow.status.not_in(list(WorkflowStatus)) | Workflow.saga_state.not_in(list(SagaState))
            ),
        ),
        (
            "step {1!r} of workflow {0} has a status that does not exist: {2!r}.",
            select(Step.workflow_id, Step.step_id, Step.status).where(Step.status.not_in(list(StepStatus))),
        ),
        (
            "workflow {0} has ended with {1} but still has an executor, a ready time, a due time or a deadline.",
            select(Workflow.id, Workflow.status).where(
                Workflow.status.in_(_OVER), (_held() > 0) | Workflow.deadline.is_not(None)
            ),
        ),
        (
            "workflow {0} ({1}) has more than one of an executor, a ready time and a due time.",
            select(Workflow.id, Workflow.status).where(_held() > 1),
        ),
        (
            "workflow {0} is RUNNING and no executor holds it.",
            select(Workflow.id).where(Workflow.status == WorkflowStatus.RUNNING, Workflow.executor.is_(None)),
        ),
        (
            "workflow {0} is {1} and executor {2} holds it.",
            select(Workflow.id, Workflow.status, Workflow.executor).where(
                Workflow.status.in_([WorkflowStatus.PENDING, WorkflowStatus.WAITING]),
                Workflow.executor.is_not(None),
            ),
        ),
        (
            "workflow {0} is WAITING without a due time and without a message to wait for.",
            select(Workflow.id).where(
                Workflow.status == WorkflowStatus.WAITING,
                Workflow.due_at.is_(None),
                ~exists().where(Wait.workflow_id == Workflow.id),
            ),
        ),
        (
            "workflow {0} waits for {1!r} in step {2!r}, but it is not parked by the run of this wait.",
            select(Wait.workflow_id, Wait.address, Wait.step_id).where(
                ~exists().where(
                    Workflow.id == Wait.workflow_id,
                    Workflow.status == WorkflowStatus.WAITING,
                    Workflow.claim == Wait.claim,
                )
            ),
        ),
        (
            "step {1!r} of workflow {0} waits for {2!r} and is not RUNNING.",
            select(Wait.workflow_id, Wait.step_id, Wait.address).where(
                ~exists().where(
                    Step.workflow_id == Wait.workflow_id,
                    Step.step_id == Wait.step_id,
                    Step.status == StepStatus.RUNNING,
                )
            ),
        ),
        (
            "workflow {0} has answered the request {1!r} at {2!r}, which it has not received.",
            select(Message.workflow_id, Message.key, Message.address)
            .join(reply, (Message.key == reply.key) & (Message.address == _request_address(reply)))
            .where(
                pg.starts_with(reply.address, text_literal(REPLY), type_=Boolean()), Message.taken_at.is_(None)
            ),
        ),
        (
            "workflow {0} is RUNNING and held by executor {1}, which has long been dead: is a worker running?",
            select(Workflow.id, Workflow.executor)
            .join(Executor, Executor.id == Workflow.executor)
            .where(Workflow.status == WorkflowStatus.RUNNING, executors.is_long_dead(NOTICED)),
        ),
        (
            "workflow {0} is RUNNING and held by executor {1}, which is not registered.",
            select(Workflow.id, Workflow.executor).where(
                Workflow.executor != executors.ABANDONED, ~exists().where(Executor.id == Workflow.executor)
            ),
        ),
        (
            "workflow {0} is a live child of workflow {1}, which does not exist.",
            # A child that has ended may outlive its parent, and may be resumed then, which gives it another epoch.
            select(Workflow.id, Workflow.parent_id).where(
                Workflow.completed_at.is_(None),
                Workflow.epoch == ZERO,
                ~exists().where(parent.id == Workflow.parent_id),
                Workflow.parent_id.is_not(None),
            ),
        ),
        (
            "workflow {0} ({1}) was to end with its parent {2}, which has long ended: is a worker running?",
            # A child that has changed since then was resumed, or was asked to stop.
            select(Workflow.id, Workflow.status, Workflow.parent_id)
            .join(parent, parent.id == Workflow.parent_id)
            .where(
                Workflow.completed_at.is_(None),
                Workflow.ends_with_parent,
                Workflow.cancel_interrupts.is_(None),
                parent.completed_at < func.now() - interval(NOTICED),
                Workflow.updated_at <= parent.completed_at,
            ),
        ),
        (
            "workflow {0} is {1} and still to be cancelled by an executor.",
            select(Workflow.id, Workflow.status).where(
                Workflow.status != WorkflowStatus.RUNNING, Workflow.cancel_interrupts.is_not(None)
            ),
        ),
        (
            "workflow {0} is WAITING, although its sagas are to be undone ({1}).",
            select(Workflow.id, Workflow.saga_state).where(
                Workflow.status == WorkflowStatus.WAITING, Workflow.saga_state != SagaState.OPEN
            ),
        ),
        (
            "step {1!r} of workflow {0} has the epoch {2}, but the workflow has the epoch {3}.",
            select(Step.workflow_id, Step.step_id, Step.epoch, Workflow.epoch)
            .join(Workflow, Workflow.id == Step.workflow_id)
            .where(Step.epoch > Workflow.epoch),
        ),
        (
            "step {1!r} of workflow {0} has the epoch {2}, but it has continued as new in the epoch {3}.",
            select(Step.workflow_id, Step.step_id, Step.epoch, Workflow.generation)
            .join(Workflow, Workflow.id == Step.workflow_id)
            .where(Step.epoch <= Workflow.generation),
        ),
        (
            "workflow {0} has continued as new in the epoch {1}, and has the epoch {2}.",
            select(Workflow.id, Workflow.generation, Workflow.epoch).where(
                (Workflow.generation > Workflow.epoch) | (Workflow.generation < 1)
            ),
        ),
        (
            "workflow {0} has the schedule {1!r} and the time {2}: it needs both, or none of them.",
            select(Workflow.id, Workflow.schedule, Workflow.scheduled_for).where(
                Workflow.schedule.is_(None) != Workflow.scheduled_for.is_(None)
            ),
        ),
        (
            "schedule {0!r} has started {2} workflows {3!r} for the time {1}.",
            select(Workflow.schedule, Workflow.scheduled_for, COUNT, Workflow.name)
            .where(Workflow.schedule.is_not(None))
            .group_by(Workflow.schedule, Workflow.scheduled_for, Workflow.name)
            .having(COUNT > ONE),
        ),
        (
            "workflow {0} has not ended, and its batch {1} has ended, or does not exist.",
            select(Workflow.id, Workflow.batch_id).where(
                Workflow.batch_id != Workflow.id,
                Workflow.completed_at.is_(None),
                ~exists().where(batch.id == Workflow.batch_id, batch.completed_at.is_(None)),
            ),
        ),
        (
            "workflow {0} is in the batch {1}, and is also ready, or due at a time.",
            select(Workflow.id, Workflow.batch_id).where(
                Workflow.batch_id != Workflow.id,
                Workflow.ready_at.is_not(None) | Workflow.due_at.is_not(None),
            ),
        ),
        (
            "workflow {0} is in the batch {1}, which has not its queue, its partition key and its codec.",
            select(Workflow.id, Workflow.batch_id)
            .join(batch, batch.id == Workflow.batch_id)
            .where(
                Workflow.batch_id != Workflow.id,
                Workflow.queue.is_distinct_from(batch.queue)
                | Workflow.partition_key.is_distinct_from(batch.partition_key)
                | Workflow.codec.is_distinct_from(batch.codec),
            ),
        ),
        (
            "step {1!r} of workflow {0} was set aside by a rewind of the epoch {2}, of which there is no record.",
            select(SetAsideStep.workflow_id, SetAsideStep.step_id, SetAsideStep.rewind).where(
                ~exists().where(
                    Rewind.workflow_id == SetAsideStep.workflow_id, Rewind.epoch == SetAsideStep.rewind
                )
            ),
        ),
        (
            "schedule {0!r} has queued the time {1}, although `overlap` is {2!r}.",
            select(Schedule.name, Schedule.queued_for, Schedule.overlap).where(
                Schedule.queued_for.is_not(None), Schedule.overlap != "queue"
            ),
        ),
        (
            "step {1!r} of workflow {0} has no workflow.",
            select(Step.workflow_id, Step.step_id).where(~exists().where(Workflow.id == Step.workflow_id)),
        ),
        (
            "step {1!r} of workflow {0} is {2} without its output or error.",
            select(Step.workflow_id, Step.step_id, Step.status).where(
                ((Step.status == StepStatus.SUCCESS) & Step.output.is_(None))
                | ((Step.status == StepStatus.ERROR) & Step.error.is_(None))
            ),
        ),
        (
            "workflow {0} is SUCCESS without an output.",
            select(Workflow.id).where(Workflow.status == WorkflowStatus.SUCCESS, Workflow.output.is_(None)),
        ),
        (
            "queue {0!r} has a row without limits and without a pause.",
            select(Queue.name).where(
                Queue.concurrency.is_(None),
                Queue.partition_concurrency.is_(None),
                Queue.rate.is_(None),
                Queue.partition_rate.is_(None),
                Queue.weights.is_(None),
                Queue.paused_at.is_(None),
                Queue.fair,
            ),
        ),
        (
            "workflow {0} has the partition key {1!r} and no position.",
            select(Workflow.id, Workflow.partition_key).where(
                Workflow.partition_key.is_not(None), Workflow.position.is_(None)
            ),
        ),
        (
            "workflows {0} and {1} of the key {2!r} run in the ordered queue {3!r}: was one started by hand?",
            # A claim that began before the queue was ordered may have started a workflow somewhat later.
            select(Workflow.id, other.id, Workflow.slot, Queue.name)
            .join(Queue, Workflow.queue == Queue.name)
            .join(other, (other.queue == Workflow.queue) & (other.slot == Workflow.slot))
            .where(
                Workflow.id < other.id,
                *(each.completed_at.is_(None) for each in (Workflow, other)),
                *(each.started_at > Queue.ordered_at + interval(NOTICED) for each in (Workflow, other)),
            ),
        ),
        (
            "workflow {0} holds the slot {1!r} of its queue, and has the partition key {2!r}.",
            select(Workflow.id, Workflow.slot, Workflow.partition_key).where(
                Workflow.slot != func.coalesce(Workflow.partition_key, text_literal(""))
            ),
        ),
        (
            "workflow {0} has the unique value {1!r} and `unique_until_start` {2!r}: it needs both, or none.",
            select(Workflow.id, Workflow.unique_value, Workflow.unique_until_start).where(
                Workflow.unique_value.is_(None) != Workflow.unique_until_start.is_(None)
            ),
        ),
        (
            "the throttle of {0!r} and {1!r} has the workflow {2}, which is a {3!r}.",
            select(Throttle.name, Throttle.unique_value, Workflow.id, Workflow.name)
            .join(Workflow, Workflow.id == Throttle.workflow_id)
            .where(Workflow.name != Throttle.name),
        ),
        (
            "queue {0!r} has a limit below 1, or a rate without starts or time: nothing of it can start.",
            select(Queue.name).where(
                (Queue.concurrency < ONE)
                | (Queue.partition_concurrency < ONE)
                | _is_unusable(Queue.rate)
                | _is_unusable(Queue.partition_rate)
            ),
        ),
        (
            "workflow {0} was claimed {1} times and has no time of its start, by which rates count.",
            select(Workflow.id, Workflow.attempts).where(Workflow.attempts >= ONE, Workflow.started_at.is_(None)),
        ),
        (
            "workflow {0} of queue {1!r} has an empty partition key, which a claim does not find.",
            select(Workflow.id, Workflow.queue).where(Workflow.partition_key == text_literal("")),
        ),
        (
            "workflow {0} has attributes and does not exist.",
            select(Attributes.workflow_id).where(~exists().where(Workflow.id == Attributes.workflow_id)),
        ),
        (
            "step {1!r} of workflow {0} is SUCCESS and marked to be executed again.",
            select(Step.workflow_id, Step.step_id).where(Step.status == StepStatus.SUCCESS, Step.reopened),
        ),
    )
