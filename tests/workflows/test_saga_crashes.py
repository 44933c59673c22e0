"""Sagas whose process is killed around each durable write, with any codec, and taken over by another process."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from cryptography.fernet import Fernet

from pgqrs import Admin, JsonCodec, PyWorkflow, Worker, WorkflowCancelledError, step, workflow
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.observer import Observer
from pgqrs.testing import crash_everywhere
from tests.support.processes import line_of
from tests.support.waiting import until

pytestmark = pytest.mark.without_replay("it counts the writes and the steps that begin")

CODECS = [
    JsonCodec(),
    pytest.param(PydanticCodec(), marks=pytest.mark.slow),
    FernetCodec([Fernet.generate_key()]),
]


@step
async def give_back(ctx: PyWorkflow, price: int | None, name: str) -> str:
    return f"{name} {price}"


@step(key=lambda name: name, undo=give_back)
async def book(ctx: PyWorkflow, name: str) -> int:
    if name == "hotel":
        raise OSError("sold out")
    return len(name)


@step(key=lambda name: name, undo=give_back, undo_when="began")
async def reserve(ctx: PyWorkflow, name: str) -> int:
    return len(name)


@step
async def tell(ctx: PyWorkflow) -> str:
    return "no trip"


@workflow
async def trip(ctx: PyWorkflow) -> str:
    try:
        async with ctx.saga():
            await reserve(ctx, "train")
            async with ctx.saga():
                await asyncio.gather(book(ctx, "car"), book(ctx, "boat"))
            await book(ctx, "hotel")
    except OSError:
        return await tell(ctx)
    return "trip"


ADMINS: list[Admin] = []
"""The `Admin` through which a workflow of these tests cancels itself."""


@workflow
async def cancelled_trip(ctx: PyWorkflow) -> str:
    async with ctx.saga():
        await book(ctx, "train")
        await book(ctx, "tent")
        await ADMINS[0].cancel_workflow(ctx.id())
        await ctx.sleep(3600)
    return "trip"


async def outputs_of(admin, workflow_id):
    """Return the values of the recorded steps of a workflow, by id."""
    found = await admin.list_steps(workflow_id)
    return {each.step_id: each.output for each in found if each.status == "SUCCESS"}


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
class TestACrashAtEachWrite:
    async def test_of_a_saga_that_fails_undoes_each_step_once(self, dsn, installed, codec):
        async with Admin(dsn, installed, codec=codec) as admin:
            assert await crash_everywhere(trip, admin=admin, timeout=60) == "no trip"
            records = await admin.list_workflows(limit=1000)
            assert len(records) > 20
            for record in records:
                outputs = await outputs_of(admin, record.id)
                assert {key: value for key, value in outputs.items() if key.startswith("undo/")} == {
                    "undo/reserve:train": "train 5",
                    "undo/book:car": "car 3",
                    "undo/book:boat": "boat 4",
                }

    async def test_of_a_cancelled_saga_undoes_each_step_once(self, dsn, installed, codec):
        async with Admin(dsn, installed, codec=codec) as admin:
            ADMINS[:] = [admin]
            with pytest.raises(WorkflowCancelledError):
                await crash_everywhere(cancelled_trip, admin=admin, timeout=60)
            records = await admin.list_workflows(limit=1000)
            assert len(records) > 12
            assert {each.status for each in records} == {"CANCELLED"}
            for record in records:
                outputs = await outputs_of(admin, record.id)
                assert outputs["undo/book:train"] == "train 5"
                assert outputs["undo/book:tent"] == "tent 4"


PROGRAM = """
import asyncio, os
from pgqrs import Admin, PyWorkflow, Worker, step, workflow

@step
async def give_back(ctx: PyWorkflow, value: str, name: str) -> None:
    print("undo", name, flush=True)
    if name == "train":
        await asyncio.sleep(600)

@step(key=lambda name: name, undo=give_back)
async def book(ctx: PyWorkflow, name: str) -> str:
    return name

@workflow
async def journey(ctx: PyWorkflow) -> None:
    async with ctx.saga():
        await book(ctx, "train")
        await book(ctx, "hotel")
        await ctx.sleep(3600)

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await Worker(admin, [journey]).run()

asyncio.run(main())
"""


async def test_another_process_goes_on_to_undo(admin, program):
    undone = []

    @step
    async def give_back(ctx: PyWorkflow, value: str, name: str) -> None:
        undone.append(name)

    @step(key=lambda name: name, undo=give_back)
    async def book(ctx: PyWorkflow, name: str) -> str:
        raise AssertionError(f"{name} is booked")

    @workflow
    async def journey(ctx: PyWorkflow) -> None:
        async with ctx.saga():
            await book(ctx, "train")
            await book(ctx, "hotel")
            await ctx.sleep(3600)

    process = program(PROGRAM)
    handle = await admin.enqueue(journey)
    await until(lambda: _is(handle, "WAITING"))
    await handle.cancel()
    assert process.stdout is not None
    await line_of(process.stdout, "undo train")
    process.kill()
    async with Worker(admin, [journey]):
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=60)
    assert undone == ["train"]


async def _is(handle, status):
    return await handle.status() == status


class Records(Observer):
    """The names of the records that are written."""

    def __init__(self):
        self.written_by_name = Counter()

    async def writing(self, records):
        """Count the records."""
        self.written_by_name.update(type(each).__name__ for each in records)


async def test_saga_costs_one_write_and_a_workflow_without_none(admin):
    @workflow
    async def plain(ctx: PyWorkflow) -> None:
        await book(ctx, "car")
        await book(ctx, "boat")

    @workflow
    async def saga(ctx: PyWorkflow) -> None:
        async with ctx.saga():
            await book(ctx, "car")
            await book(ctx, "boat")

    counts = []
    for each in (plain, saga):
        observer = Records()
        async with admin.twin(observer=observer) as twin:
            await twin.run(each)
        counts.append(observer.written_by_name)
    assert counts[0] == {"NewRun": 1, "NewOutcome": 2, "RunEnd": 1}
    assert counts[1] - counts[0] == {"SagaMark": 1}
