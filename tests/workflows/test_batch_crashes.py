"""Batches whose process is killed around each durable write, or fenced, with any codec."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from pydantic import BaseModel
from sqlalchemy import update

from pgqrs import (
    Admin,
    Batch,
    JsonCodec,
    PoisonedWorkflowError,
    PyWorkflow,
    Worker,
    WorkflowFencedError,
    WorkflowHandle,
    WorkflowStatus,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.models import Workflow
from pgqrs.storage.batches.forming import form_batches
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from pgqrs.testing import crash_everywhere, run_enqueued, scratch_admin
from pgqrs.worker.batches import batched_workflows
from pgqrs.workflow.definition import definition_of
from tests.support.waiting import no_hang

CODECS = [
    JsonCodec(),
    pytest.param(PydanticCodec(), marks=pytest.mark.slow),
    FernetCodec([Fernet.generate_key()]),
]


class Text(BaseModel):
    words: str


class Vector(BaseModel):
    size: int


@step
async def measure(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    return [len(each) for each in texts]


@workflow(batch=Batch(3, within=60))
async def embed(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    sizes = await measure(ctx, texts)
    await ctx.sleep(timedelta(minutes=1))
    return sizes


@workflow(batch=Batch(2, within=60))
async def typed(ctx: PyWorkflow, texts: list[Text]) -> list[Vector]:
    return [Vector(size=len(each.words)) for each in texts]


@workflow(batch=Batch(2, within=60))
async def pair(ctx: PyWorkflow, texts: list[str]) -> list[int]:
    return await measure(ctx, texts)


@workflow(batch=Batch(2, within=60))
async def failing(ctx: PyWorkflow, texts: list[str]) -> None:
    raise ValueError("no model")


@workflow(timeout=1, batch=Batch(2, within=60))
async def late(ctx: PyWorkflow, texts: list[str]) -> None:
    await ctx.sleep(timedelta(hours=1))


@workflow(max_attempts=1, batch=Batch(2, within=60))
async def dying(ctx: PyWorkflow, texts: list[str]) -> None:
    raise AssertionError


@workflow
async def caller(ctx: PyWorkflow) -> str:
    try:
        await ctx.call(failing, "child")
    except ValueError as error:
        return str(error)
    return "no error"


@pytest_asyncio.fixture(params=CODECS, ids=lambda codec: codec.name.partition("+")[0])
async def coded(request, dsn):
    """An installation with a clock and one of the codecs."""
    async with scratch_admin(dsn, codec=request.param) as admin:
        yield admin


async def claim_batch(admin: Admin, function) -> tuple[ClaimedRun, list[WorkflowHandle[Any]]]:
    """Submit two texts, and return the claimed run of their batch."""
    handles = await admin.enqueue_many(function, [("a",), ("bb",)])
    watch = await (await admin.store()).claim_connection(lambda _mark: None)
    batched = batched_workflows([definition_of(function)])
    await watch.form_batches(batched, ["default"])
    (claimed,) = await watch.claim([batched[0].run], ["default"], 1)
    await watch.close()
    return claimed, handles


@pytest.mark.without_replay("it counts the writes and the steps that begin")
async def test_batch_survives_a_crash_at_each_write(coded):
    assert await crash_everywhere(embed, "a", "bb", "ccc", admin=coded) == 1
    ended = [each for each in await coded.list_workflows(limit=1000) if each.name == "embed"]
    assert {each.input["args"][0]: each.output for each in ended} == {"a": 1, "bb": 2, "ccc": 3}


async def test_each_submission_can_read_the_error_of_its_batch(coded):
    handles = await coded.enqueue_many(failing, [("a",), ("bb",)])
    assert await run_enqueued(coded, [failing]) == 1
    for each in handles:
        with pytest.raises(ValueError, match="no model"):
            await each.result()
    records = await coded.list_workflows()
    assert [each.error["message"] for each in records] == ["no model"] * 3
    parent = await coded.enqueue(caller)
    await run_enqueued(coded, [failing, caller])
    assert await parent.result() == "no model"


async def test_each_submission_can_read_the_timeout_of_its_batch(coded):
    handles = await coded.enqueue_many(late, [("a",), ("bb",)])
    await run_enqueued(coded, [late])
    for each in handles:
        with pytest.raises(WorkflowTimeoutError):
            await each.result()


async def test_batch_that_is_claimed_too_often_fails_each_submission(coded):
    claimed, handles = await claim_batch(coded, dying)
    store = await coded.store()
    await store.write_end(RunRelease(claimed.workflow_id, 1, WorkflowStatus.PENDING, claim=claimed.claim))
    async with store.database.transaction() as connection:
        await connection.execute(update(Workflow).where(Workflow.id == claimed.workflow_id).values(attempts=1))
    await run_enqueued(coded, [dying])
    for each in handles:
        with pytest.raises(PoisonedWorkflowError):
            await each.result()


async def test_types_are_those_of_the_elements(dsn, installed):
    async with Admin(dsn, installed, codec=PydanticCodec()) as admin:
        handles = await admin.enqueue_many(typed, [(Text(words="a"),), (Text(words="bb"),)])
        await run_enqueued(admin, [typed])
        assert [await each.result() for each in handles] == [Vector(size=1), Vector(size=2)]


async def test_end_of_a_stale_run_writes_no_submission(admin):
    store = await admin.store()
    claimed, handles = await claim_batch(admin, pair)
    await admin.resume_workflow(claimed.workflow_id)  # fences the run
    stale = RunEnd(claimed.workflow_id, claimed.epoch, "[7, 7]", None, (), claimed.claim)
    with pytest.raises(WorkflowFencedError):
        await store.write_end(stale)
    assert [await each.status() for each in handles] == ["PENDING", "PENDING"]
    assert await run_enqueued(admin, [pair]) == 1
    with pytest.raises(WorkflowFencedError):
        await store.write_end(stale)
    assert [await each.result() for each in handles] == [1, 2]


async def test_second_sending_of_an_end_changes_nothing(admin):
    store = await admin.store()
    claimed, handles = await claim_batch(admin, pair)
    end = RunEnd(claimed.workflow_id, claimed.epoch, "[7, 8]", None, (), claimed.claim)
    await store.write_end(end)
    records = [await store.reader.workflow(each.id) for each in handles]
    await store.write_end(end)
    assert [await store.reader.workflow(each.id) for each in handles] == records
    assert [await each.result() for each in handles] == [7, 8]


async def test_dead_process_leaves_the_batch_to_another(admin):
    claimed, handles = await claim_batch(admin, pair)
    (await admin.store()).abandon(claimed.workflow_id, claimed.epoch, claimed.claim)
    async with no_hang(), Worker(admin, [pair]):
        assert await asyncio.gather(*(each.result() for each in handles)) == [1, 2]


async def test_formation_that_is_rolled_back_leaves_submissions_ready(admin, sql):
    handles = await admin.enqueue_many(pair, [("a",), ("bb",)])
    store = await admin.store()
    batched = batched_workflows([definition_of(pair)])

    async def form(connection):
        async def fetch(statement, values):
            return (await connection.execute(statement(), values)).mappings().all()

        found = await form_batches(fetch, batched, ["default"], sequence=store.database.workflow_ids, codec=None)
        assert found.made == 1
        raise KeyError

    with pytest.raises(KeyError):
        await store.database.run_with_retries(form)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE ready_at IS NOT NULL") == 2
    await run_enqueued(admin, [pair])
    assert [await each.result() for each in handles] == [1, 2]
