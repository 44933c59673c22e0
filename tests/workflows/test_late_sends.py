"""A send of a workflow whose first copy commits late, as after a lost connection: the body sees what is recorded."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from pgqrs import Admin, PyWorkflow, Topic, WorkflowFinishedError, workflow
from pgqrs.observer import Observer
from pgqrs.storage.sql.addresses import topic_address
from pgqrs.storage.writes.messages import ReceivedMessage
from pgqrs.storage.writes.outbox import OutgoingMessage
from pgqrs.storage.writes.steps import StepOutcome
from tests.support.recorded import steps
from tests.support.waiting import no_hang, until

PAID = Topic("paid", int)
STEP = "send/paid:1"


@workflow
async def collecting(ctx: PyWorkflow) -> int:
    return await ctx.receive(PAID)


async def unread(sql):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NULL")


class FirstCopy(Observer):
    """Writes a copy of a sent message before the record of its refusal, when the receiver can get it."""

    def __init__(self, other: Admin, receiver: int) -> None:
        self._other = other
        self._receiver = receiver
        self._sent = None

    async def writing(self, records):
        for each in records:
            if isinstance(each, OutgoingMessage):
                self._sent = each
            elif isinstance(each, StepOutcome) and each.step_id == STEP and each.error is not None:
                await self._other.resume_workflow(self._receiver)
                await (await self._other.store()).journal.write(self._sent)


async def test_that_commits_before_the_refusal_is_recorded_counts(admin, sql):
    @workflow
    async def sending(ctx: PyWorkflow, receiver: int) -> str:
        try:
            await ctx.send(receiver, PAID, 7)
        except WorkflowFinishedError:
            return "refused"
        return "sent"

    receiver = await admin.enqueue(collecting)
    await receiver.cancel()
    async with admin.twin(observer=FirstCopy(admin, receiver.id)) as twin, no_hang():
        ctx = await twin.create_workflow("sending")
        assert await sending(ctx, receiver.id) == "sent"
    assert (await steps(sql, ctx))[STEP] == "SUCCESS"
    assert await unread(sql) == 1


@pytest.mark.plants_rows
@pytest.mark.parametrize("kind", ["send", "receive"])
async def test_that_commits_after_an_error_is_recorded_is_none(admin, sql, kind):
    """It has begun before the record of the error, and waits: only its last condition sees the record."""
    receiver = await admin.enqueue(collecting)
    ctx = await admin.create_workflow("sending")
    await ctx.start()
    own = ctx.id()
    claim = await sql.fetchval("SELECT claim FROM pgqrs_workflows WHERE id = $1", own)
    address = topic_address(receiver.id, PAID.name)
    if kind == "send":
        late = OutgoingMessage(
            own, 1, STEP, "null", monotonic(), claim, receiver.id, address, "k", False, "7", None
        )
    else:
        await receiver.send(PAID, 7)
        late = ReceivedMessage(own, 1, STEP, address, None, None, monotonic(), None, claim)
    async with no_hang():
        async with sql.transaction():
            await sql.execute(
                "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, error)"
                " VALUES ($1, $2, 'ERROR', 1, now(), now(), '{}')",
                own,
                STEP,
            )
            writing = asyncio.create_task((await admin.store()).journal.write(late))
            await until(is_blocked, sql)
        await writing
    assert (await steps(sql, ctx))[STEP] == "ERROR"
    assert kind == "receive" or await unread(sql) == 0


async def is_blocked(sql):
    """Return whether a statement waits for the transaction of this connection."""
    return await sql.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    )
