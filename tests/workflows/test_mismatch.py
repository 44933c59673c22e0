"""A recorded outcome that answers a call with other arguments is noticed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pgqrs import PyWorkflow, StepError, StepMismatchError, TerminalError, step, workflow
from tests.support.recorded import is_replay, status
from tests.support.waiting import no_hang


@step
async def double(ctx: PyWorkflow, number: int, *, why: str = "") -> int:
    return 2 * number


@step(key=lambda name, number: name)
async def keyed(ctx: PyWorkflow, name: str, number: int) -> int:
    return number


@step
async def nothing(ctx: PyWorkflow) -> None:
    return None


def warnings(caplog):
    return [
        each.getMessage()
        for each in caplog.records
        if each.name.startswith("pgqrs") and each.levelno == logging.WARNING
    ]


async def test_a_step_in_a_loop_without_a_key_warns_once(admin, caplog):
    @workflow
    async def looping(ctx: PyWorkflow) -> list:
        return [await double(ctx, n) for n in range(5)]

    assert await admin.run(looping) == [0] * 5
    [warning] = warnings(caplog)
    assert "'double'" in warning
    assert "looping" in warning
    assert "key=" in warning


async def test_gather_branches_sharing_a_step_id_warn(admin, caplog):
    async def branch(ctx, n):
        await asyncio.sleep(0.01 * (2 - n))
        return await double(ctx, n)

    @workflow
    async def gathers(ctx: PyWorkflow) -> list:
        return await asyncio.gather(branch(ctx, 1), branch(ctx, 2))

    await admin.run(gathers)
    assert len(warnings(caplog)) == 1


async def test_concurrent_calls_with_different_arguments_warn(admin, caplog):
    @step
    async def slow(ctx: PyWorkflow, n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    assert await asyncio.gather(slow(ctx, 1), slow(ctx, 2)) == [1, 1]
    assert len(warnings(caplog)) == 1


async def test_replay_with_other_arguments_warns(admin, caplog):
    given = [1]

    @step
    async def fails(ctx: PyWorkflow, number: int) -> None:
        raise ValueError(number)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await double(ctx, *given)
        await keyed(ctx, "a", *given)
        await fails(ctx, *given)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(ValueError):
        await wf(ctx)
    with pytest.raises(ValueError):
        await wf(await admin.get_workflow(ctx.id()))
    assert warnings(caplog) == []
    given[0] = 2
    with pytest.raises(ValueError) as caught:
        await wf(await admin.get_workflow(ctx.id()))
    assert is_replay(caught.value, ValueError)
    assert [next(name for name in ("double", "keyed:a", "fails") if name in each) for each in warnings(caplog)] == [
        "double", "keyed:a", "fails",
    ]  # fmt: skip


async def test_equal_arguments_in_another_form_do_not_warn(admin, caplog):
    ctx = await admin.create_workflow("wf")
    await double(ctx, 1)
    await double(ctx, number=1)
    await keyed(ctx, "a", 1)
    await keyed(ctx, name="a", number=1)
    await nothing(ctx)
    await nothing(ctx)
    assert warnings(caplog) == []


async def test_manual_steps_have_no_fingerprint(admin, caplog, sql):
    ctx = await admin.create_workflow("wf")
    await (await ctx.acquire_step("double")).guard.success(5)
    assert await double(ctx, 1) == 5
    await nothing(ctx)
    assert (await ctx.acquire_step("nothing")).status == "SKIPPED"
    assert warnings(caplog) == []
    assert await sql.fetchval("SELECT fingerprint FROM pgqrs_workflow_steps WHERE step_id = 'double'") is None
    assert await sql.fetchval("SELECT fingerprint FROM pgqrs_workflow_steps WHERE step_id = 'nothing'") is not None


async def test_replayed_sleep_of_another_length_warns(admin, caplog):
    failed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await ctx.sleep(0.02 if failed else 0.01)
        if not failed:
            failed.append(1)
            raise OSError

    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError):
        await wf(ctx)
    await wf(ctx)
    assert len(warnings(caplog)) == 1


async def test_strict_workflow_raises_on_a_mismatch(admin, sql, caplog):
    @workflow(strict=True, retry=3)
    async def strict(ctx: PyWorkflow) -> list:
        return [await double(ctx, n) for n in range(2)]

    ctx = await admin.create_workflow("strict")
    async with no_hang():
        with pytest.raises(StepMismatchError) as caught:
            await strict(ctx)
    assert isinstance(caught.value, (StepError, TerminalError))
    assert (caught.value.workflow_id, caught.value.step_id) == (ctx.id(), "double")
    assert await status(sql, ctx) == "ERROR"
    assert await sql.fetchval("SELECT epoch FROM pgqrs_workflows") == 1
    assert [each.output for each in await admin.list_steps(ctx.id())] == [0]
    assert warnings(caplog) == []


async def test_non_json_arguments_do_not_warn(admin, caplog):
    @step
    async def anything(ctx: PyWorkflow, value: object) -> str:
        return "done"

    itself = []
    itself.append(itself)
    for value in (object(), itself, {1: 2, "a": 3}, b"x", asyncio.Event(), "\ud800", 10**5000):
        ctx = await admin.create_workflow("wf")
        assert await anything(ctx, value) == "done"
        assert await anything(ctx, value) == "done"
    assert warnings(caplog) == []
