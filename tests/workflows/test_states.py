"""The state of a partition key, which its workflows of one name share."""

from __future__ import annotations

import asyncio
import base64

import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    PyWorkflow,
    RetryPolicy,
    SerializationError,
    StepFailedError,
    Worker,
    WorkflowFencedError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from tests.support.waiting import no_hang
from tests.support.workflows import Killed

KEY = base64.urlsafe_b64encode(b"k" * 32)


@workflow
async def deposit(ctx: PyWorkflow, amount: int) -> int:
    """Add an amount to the balance of an account, in the body."""
    balance = await ctx.state.get("balance", 0, type=int) + amount
    await ctx.state.set("balance", balance)
    return balance


@step
async def added(ctx: PyWorkflow, amount: int) -> int:
    """Add an amount to the balance of an account, in a step."""
    balance = await ctx.state.get("balance", 0, type=int) + amount
    await ctx.state.set("balance", balance)
    return await ctx.state.get("balance", -1, type=int)


def of(admin, key="ada"):
    return admin.options(partition_key=key)


async def run(admin, function, *args, key="ada"):
    """Run a workflow with a partition key, as a worker does."""
    handle = await of(admin, key).enqueue(function, *args)
    async with no_hang(), Worker(admin, [function]):
        return await handle.result()


async def test_workflows_of_a_key_share_a_state(admin: Admin):
    handles = [await of(admin, key).enqueue(deposit, 5) for key in ("ada", "bob")]
    async with no_hang(), Worker(admin, [deposit]):
        assert [await each.result() for each in handles] == [5, 5]
        assert await (await of(admin).enqueue(deposit, 2)).result() == 7
    assert dict(await admin.state(deposit, "ada")) == {"balance": 7}
    assert dict(await admin.state("deposit", "bob")) == {"balance": 5}
    assert dict(await admin.state(added_once, "ada")) == {}


@workflow
async def added_once(ctx: PyWorkflow, amount: int) -> int:
    return await added(ctx, amount)


async def test_step_reads_its_own_changes_and_others_find_them(admin: Admin):
    assert await run(admin, added_once, 3) == 3
    assert await run(admin, added_once, 4) == 7
    assert (await admin.state(added_once, "ada")).get("balance", type=int) == 7


async def test_values_are_none_missing_and_deleted(admin: Admin):
    @workflow
    async def changing(ctx: PyWorkflow) -> list[object]:
        await ctx.state.set("none", None)
        await ctx.state.set("gone", 1)
        await ctx.state.delete("gone")
        await ctx.state.delete("never there")
        return [await ctx.state.get(name, "default") for name in ("none", "gone", "missing")]

    assert await run(admin, changing) == [None, "default", "default"]
    state = await admin.state(changing, "ada")
    assert (list(state), "gone" in state, len(state), state["none"]) == (["none"], False, 1, None)
    assert (state.get("gone"), state.get("gone", 5)) == (None, 5)
    assert "none" in repr(state)
    with pytest.raises(KeyError):
        state["gone"]


async def test_step_that_fails_has_changed_nothing(admin: Admin):
    @step
    async def failing(ctx: PyWorkflow) -> None:
        await ctx.state.set("balance", 1)
        raise ValueError

    @workflow
    async def bold(ctx: PyWorkflow) -> object:
        with pytest.raises(ValueError):
            await failing(ctx)
        return await ctx.state.get("balance")

    assert await run(admin, bold) is None
    assert len(await admin.state(bold, "ada")) == 0


@pytest.mark.parametrize("transactional", [False, True])
async def test_attempt_that_is_retried_leaves_no_change(admin: Admin, transactional):
    attempts = []

    @step(retry=RetryPolicy(2, initial=0.001), transactional=transactional)
    async def flaky(ctx: PyWorkflow) -> object:
        attempts.append(await ctx.state.get("balance"))
        if len(attempts) == 1:
            await ctx.state.set("balance", 1)
            await ctx.state.set("other", 1)
            raise OSError
        await ctx.state.set("other", 2)
        return await ctx.state.get("balance")

    @workflow
    async def trying(ctx: PyWorkflow) -> object:
        return await flaky(ctx)

    assert await run(admin, trying) is None
    assert attempts == [None, None]
    assert dict(await admin.state(trying, "ada")) == {"other": 2}


async def test_transactional_step_commits_its_changes_with_its_writes(admin: Admin, sql):
    await sql.execute("CREATE TABLE bills (amount int)")
    schema = admin.schema

    @step(transactional=True)
    async def billed(ctx: PyWorkflow, amount: int, *, fails: bool) -> None:
        connection = await ctx.session.connection()
        await connection.exec_driver_sql(f'INSERT INTO "{schema}".bills VALUES ({amount})')
        await ctx.state.set("billed", amount)
        await ctx.state.delete("last")
        if fails:
            raise ValueError

    @workflow
    async def billing(ctx: PyWorkflow, amount: int, fails: bool) -> None:
        await billed(ctx, amount, fails=fails)

    await run(admin, billing, 5, False)
    with pytest.raises(StepFailedError):
        await run(admin, billing, 9, True)
    assert [row["amount"] for row in await sql.fetch("SELECT amount FROM bills")] == [5]
    assert dict(await admin.state(billing, "ada")) == {"billed": 5}


async def test_nested_step_changes_the_state_with_its_own_outcome(admin: Admin):
    @step
    async def outer(ctx: PyWorkflow) -> list[object]:
        await ctx.state.set("outer", 1)
        seen = await inner(ctx)
        seen.append(await ctx.state.get("inner"))
        raise ValueError(seen)

    @step
    async def inner(ctx: PyWorkflow) -> list[object]:
        await ctx.state.set("inner", 2)
        return [await ctx.state.get("outer")]

    @workflow
    async def nesting(ctx: PyWorkflow) -> str:
        try:
            await outer(ctx)
        except ValueError as error:
            return str(error)
        return ""

    assert await run(admin, nesting) == "[1, 2]"
    assert dict(await admin.state(nesting, "ada")) == {"inner": 2}


async def test_replay_returns_the_recorded_values_and_writes_once(admin: Admin, claimer, sql):
    seen, killed = [], []

    @workflow
    async def replaying(ctx: PyWorkflow) -> None:
        values = [await ctx.state.get("balance", 0), await ctx.state.get("balance", id="again")]
        await ctx.state.set("balance", 1)
        seen.append([*values, await added(ctx, 1)])
        if not killed:
            killed.append(True)
            raise Killed
        await ctx.state.delete("other")

    handle = await of(admin).enqueue(replaying)
    with pytest.raises(Killed):
        await claimer.run(replaying)
    await sql.execute("UPDATE pgqrs_states SET value = '50'")
    await sql.execute("INSERT INTO pgqrs_states VALUES ('replaying', 'ada', 'other', '1', NULL, now())")
    await claimer.run(replaying)
    assert len(seen) >= 2
    assert all(each == [0, None, 2] for each in seen)
    assert dict(await admin.state(replaying, "ada")) == {"balance": 50}
    steps = [each.step_id for each in await handle.steps()]
    assert steps == [
        "get_state/balance:1",
        "get_state/again",
        "set_state/balance:1",
        "added",
        "delete_state/other:1",
    ]


async def test_stale_run_changes_nothing(admin: Admin, dsn, schema, claimer):
    gates = [asyncio.Event(), asyncio.Event()]

    @workflow
    async def stale(ctx: PyWorkflow, which: str) -> None:
        gates[0].set()
        await gates[1].wait()
        if which == "body":
            await ctx.state.set("balance", 1)
        else:
            await added(ctx, 1)

    for which in ("body", "step"):
        gates[:] = [asyncio.Event(), asyncio.Event()]
        handle = await of(admin).enqueue(stale, which)
        running = asyncio.create_task(claimer.run(stale))
        await gates[0].wait()
        async with Admin(dsn, schema) as second:
            await second.resume_workflow(handle.id)
            gates[1].set()
            with pytest.raises(WorkflowFencedError):
                await running
            await second.cancel_workflow(handle.id)
    assert len(await admin.state(stale, "ada")) == 0


async def test_workflow_without_a_partition_key_has_no_state(admin: Admin):
    with pytest.raises(ConfigurationError, match="partition_key"):
        await admin.run(deposit, 1)
    with pytest.raises(ConfigurationError, match="partition_key"):
        await admin.run(added_once, 1)


async def test_wrong_names_and_values_are_refused(admin: Admin):
    @workflow
    async def wrong(ctx: PyWorkflow) -> None:
        with pytest.raises(InvalidNameError):
            await ctx.state.get("")
        with pytest.raises(InvalidNameError):
            await ctx.state.set("a\0", 1)
        with pytest.raises(SerializationError):
            await ctx.state.set("a", object())

    await run(admin, wrong)
    assert len(await admin.state(wrong, "ada")) == 0
    with pytest.raises(InvalidNameError):
        await admin.state(wrong, "")
    with pytest.raises(TypeError, match="workflow"):
        await admin.state(test_wrong_names_and_values_are_refused, "ada")


class Account(BaseModel):
    """A value that is no JSON."""

    owner: str
    cents: int


@workflow
async def typed(ctx: PyWorkflow, cents: int) -> int:
    found = await ctx.state.get("account", type=Account)
    account = Account(owner="ada", cents=0) if found is None else found
    account.cents += cents
    await ctx.state.set("account", account)
    return await total(ctx)


@step
async def total(ctx: PyWorkflow) -> int:
    found = await ctx.state.get("account", type=Account)
    return 0 if found is None else found.cents


@pytest.mark.parametrize(
    "codec", [PydanticCodec(), FernetCodec([KEY], PydanticCodec())], ids=["pydantic", "fernet"]
)
async def test_values_pass_through_the_codec(dsn, schema, sql, codec):
    async with Admin(dsn, schema, codec=codec) as own:
        await own.install()
        assert await run(own, typed, 5) == 5
        assert await run(own, typed, 2) == 7
        state = await own.state(typed, "ada")
        assert state.get("account", type=Account) == Account(owner="ada", cents=7)
    stored = await sql.fetchval("SELECT value::text FROM pgqrs_states")
    assert ("cents" in stored) == (codec.name == "pydantic")
    async with Admin(dsn, schema) as plain:
        with pytest.raises(SerializationError, match="codec"):
            (await plain.state(typed, "ada")).get("account")


async def test_sealed_value_of_another_key_is_refused(dsn, schema, sql):
    async with Admin(dsn, schema, codec=FernetCodec([KEY], PydanticCodec())) as own:
        await own.install()
        await run(own, deposit, 5)
        await sql.execute("UPDATE pgqrs_states SET partition_key = 'bob'")
        with pytest.raises(SerializationError):
            dict(await own.state(deposit, "bob"))


async def test_state_is_read_in_the_caller_s_session_and_deleted(admin: Admin, engine):
    await run(admin, deposit, 5)
    async with AsyncSession(engine) as session:
        assert dict(await admin.state(deposit, "ada", session=session)) == {"balance": 5}
    assert await admin.delete_state(deposit, "bob") == 0
    assert await admin.delete_state(deposit, "ada") == 1
    assert dict(await admin.state("deposit", "ada")) == {}
    assert await run(admin, deposit, 1) == 1


async def test_state_is_kept_over_a_park_and_a_new_generation(admin: Admin, claimer):
    @workflow
    async def looping(ctx: PyWorkflow, left: int) -> int:
        await added(ctx, 1)
        await ctx.receive("go on")
        if left:
            await ctx.continue_as_new(looping, left - 1)
        return await ctx.state.get("balance", 0, type=int)

    handle = await of(admin).enqueue(looping, 1)
    for generation in (1, 2):
        await claimer.park(looping)
        assert dict(await admin.state(looping, "ada")) == {"balance": generation}
        await handle.send("go on", None)
        if generation == 1:
            await claimer.park(looping)  # begins anew
    assert await claimer.run(looping) == 2


async def test_changes_of_one_key_in_one_batch_are_all_written(admin: Admin):
    @workflow
    async def racing(ctx: PyWorkflow, number: int) -> None:
        await asyncio.gather(*(ctx.state.set("last", number, id=f"{each}") for each in range(3)))
        await ctx.state.set(f"own {number}", number)
        await ctx.state.delete("last") if number % 2 else await ctx.state.set("last", number)

    handles = await of(admin).enqueue_many(racing, [(each,) for each in range(20)])
    async with no_hang(), Worker(admin, [racing]):
        for each in handles:
            await each.result()
    state = dict(await admin.state(racing, "ada"))
    assert {f"own {each}": each for each in range(20)}.items() <= state.items()
    assert state.get("last", 0) % 2 == 0
