"""Every later run of a workflow receives the recorded outcome of a step, a success or an error."""

from __future__ import annotations

import asyncio
import json

import pytest

from pgqrs import Admin, PyWorkflow, WorkflowCancelledError, WorkflowFinishedError, step, workflow
from tests.support.database import connected, engine_on
from tests.support.recorded import is_replay, status, steps


async def test_caught_error_is_replayed_and_caught_again(admin, sql):
    executed = []
    crash = [True]

    @step
    async def primary(ctx: PyWorkflow) -> str:
        executed.append("primary")
        raise ConnectionError("primary is down")

    @step
    async def fallback(ctx: PyWorkflow) -> str:
        executed.append("fallback")
        return "from the fallback"

    @workflow
    async def either(ctx: PyWorkflow) -> list:
        try:
            way = [await primary(ctx)]
        except ConnectionError as error:
            way = [str(error), await fallback(ctx)]
        if crash:
            crash.clear()
            raise RuntimeError("the process broke")
        return way

    ctx = await admin.create_workflow("either")
    with pytest.raises(RuntimeError):
        await either(ctx)
    assert await steps(sql, ctx) == {"primary": "ERROR", "fallback": "SUCCESS"}
    assert await either(ctx) == ["primary is down", "from the fallback"]
    assert executed == ["primary", "fallback"]


@pytest.mark.parametrize("value", [None, 0, "", [], {}, False, 0.0, -0.0, 1e300, "null", [None], {"b": 1, "a": 2}])
async def test_value_is_replayed_unchanged_without_execution(admin, value):
    executed = []

    @step
    async def produce(ctx: PyWorkflow):
        executed.append(value)
        return value

    @workflow
    async def wf(ctx: PyWorkflow):
        seen.append(await produce(ctx))
        if len(seen) == 1:
            raise RuntimeError("crash")
        return seen[-1]

    seen = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(RuntimeError):
        await wf(ctx)
    elsewhere = await admin.get_workflow(ctx.id())
    result = await wf(elsewhere)
    stored = await wf(await admin.get_workflow(ctx.id()))
    assert executed == [value]
    for each in (*seen, result, stored):
        assert json.dumps(each) == json.dumps(value)
        assert type(each) is type(value)


async def test_first_run_returns_a_tuple_as_a_list(admin):
    @step
    async def pair(ctx: PyWorkflow):
        return (1, (2, 3))

    @workflow
    async def wf(ctx: PyWorkflow):
        assert await pair(ctx) == [1, [2, 3]]
        return {"pair": (4, 5)}

    assert await admin.run(wf) == {"pair": [4, 5]}


async def test_changing_a_returned_value_does_not_change_the_record(admin):
    @step
    async def items(ctx: PyWorkflow) -> list:
        return made

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        first = await items(ctx)
        first.append("by the caller")
        made.append("by the step's owner")
        return await items(ctx)

    made = [1]
    assert await admin.run(wf) == [1]


async def test_a_success_returns_its_stored_output_without_running(admin, sql):
    runs = []

    @workflow
    async def once(ctx: PyWorkflow, n: int) -> int:
        runs.append(n)
        return n

    ctx = await admin.create_workflow("once", 1)
    assert [await once(ctx, 1), await once(ctx, 2), await once(await admin.get_workflow(ctx.id()), 3)] == [1, 1, 1]
    assert runs == [1]
    assert await sql.fetchval("SELECT epoch FROM pgqrs_workflows") == 1


async def test_a_success_cannot_be_started_or_resumed(admin):
    @workflow
    async def once(ctx: PyWorkflow) -> None: ...

    ctx = await admin.create_workflow("once")
    await once(ctx)
    with pytest.raises(WorkflowFinishedError, match="SUCCESS"):
        await (await admin.get_workflow(ctx.id())).start()
    with pytest.raises(WorkflowFinishedError, match="SUCCESS"):
        await admin.resume_workflow(ctx.id())
    assert await once(ctx) is None


async def test_cancelled_workflow_does_not_run_until_resumed(admin, sql):
    runs = []

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        runs.append(1)
        return "done"

    ctx = await admin.create_workflow("wf")
    await sql.execute("UPDATE pgqrs_workflows SET status = 'CANCELLED'")
    for attempt in (wf, PyWorkflow.start):
        with pytest.raises(WorkflowCancelledError, match=str(ctx.id())) as caught:
            await attempt(await admin.get_workflow(ctx.id()))
        assert caught.value.workflow_id == ctx.id()
    assert runs == []
    assert await status(sql, ctx) == "CANCELLED"
    assert await wf(await admin.resume_workflow(ctx.id())) == "done"


@pytest.mark.plants_rows
async def test_workflow_cancelled_in_its_body_does_not_succeed(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await sql.execute("UPDATE pgqrs_workflows SET status = 'CANCELLED'")
        return "done"

    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowCancelledError):
        await wf(ctx)
    assert await status(sql, ctx) == "CANCELLED"


# --- ids and keys ---


async def test_keys_give_calls_of_one_step_different_ids(admin, sql):
    executed = []

    @step(key=lambda item, **_: item["id"])
    async def handle(ctx: PyWorkflow, item: dict, *, factor: int = 1) -> int:
        executed.append(item["id"])
        return item["n"] * factor

    @workflow
    async def loop(ctx: PyWorkflow, items: list) -> list:
        results = [await handle(ctx, item, factor=10) for item in items]
        if len(executed) == len(items):
            executed.append("crash")
            raise RuntimeError("crash")
        return results

    items = [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "a", "n": 3}]
    ctx = await admin.create_workflow("loop", items)
    executed.append("start")
    with pytest.raises(RuntimeError):
        await loop(ctx, items)
    assert await loop(ctx, items) == [10, 20, 10]
    assert executed == ["start", "a", "b", "crash"]
    assert await steps(sql, ctx) == {"handle:a": "SUCCESS", "handle:b": "SUCCESS"}


async def test_step_id_replaces_the_function_name_and_takes_a_key(admin, sql):
    @step(id="load")
    async def first(ctx: PyWorkflow) -> None: ...

    @step(id="load page", key=lambda page: page)
    async def second(ctx: PyWorkflow, page: int) -> None: ...

    ctx = await admin.create_workflow("wf")
    await first(ctx)
    await second(ctx, 1)
    await second(ctx, 2)
    assert set(await steps(sql, ctx)) == {"load", "load page:1", "load page:2"}


async def test_reordered_gather_branches_keep_their_values_on_replay(admin):
    """With keys, each branch asks for its own step, in whatever order the branches get there."""

    @step(key=lambda name: name)
    async def fetch(ctx: PyWorkflow, name: str) -> str:
        return f"value of {name}"

    async def branch(ctx, name, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return await fetch(ctx, name)

    @workflow
    async def both(ctx: PyWorkflow) -> list:
        slow, fast = (0, 9) if crashed else (9, 0)
        values = await asyncio.gather(branch(ctx, "a", slow), branch(ctx, "b", fast))
        if not crashed:
            crashed.append(1)
            raise RuntimeError("crash")
        return values

    crashed = []
    ctx = await admin.create_workflow("both")
    with pytest.raises(RuntimeError):
        await both(ctx)
    assert await both(ctx) == ["value of a", "value of b"]


async def test_gathered_steps_are_replayed_without_execution(admin):
    executed = []

    @step(key=lambda n: n)
    async def square(ctx: PyWorkflow, n: int) -> int:
        await asyncio.sleep(0)
        executed.append(n)
        return n * n

    @workflow
    async def squares(ctx: PyWorkflow) -> list:
        results = await asyncio.gather(*(square(ctx, n) for n in range(40)))
        if not crashed:
            crashed.append(1)
            raise RuntimeError("crash")
        return results

    crashed = []
    ctx = await admin.create_workflow("squares")
    with pytest.raises(RuntimeError):
        await squares(ctx)
    assert await squares(ctx) == [n * n for n in range(40)]
    assert sorted(executed) == list(range(40))


# --- where steps may be called ---


async def test_step_starts_an_unstarted_context(admin, sql):
    @step
    async def alone(ctx: PyWorkflow) -> str:
        return "done"

    ctx = await admin.create_workflow("wf")
    assert await alone(ctx) == "done"
    assert await status(sql, ctx) == "RUNNING"
    assert await steps(sql, ctx) == {"alone": "SUCCESS"}


async def test_concurrent_steps_start_an_unstarted_context_once(admin, sql):
    @step(key=lambda n: n)
    async def each(ctx: PyWorkflow, n: int) -> int:
        return n

    ctx = await admin.create_workflow("wf")
    assert await asyncio.gather(*(each(ctx, n) for n in range(10))) == list(range(10))
    assert await sql.fetchval("SELECT epoch FROM pgqrs_workflows") == 1


async def test_steps_may_be_called_from_inside_steps(admin, sql):
    executed = []

    @step
    async def inner(ctx: PyWorkflow) -> int:
        executed.append("inner")
        return 1

    @step
    async def outer(ctx: PyWorkflow) -> int:
        executed.append("outer")
        value = await inner(ctx)
        if executed.count("outer") == 1:
            raise RuntimeError("crash")
        return value + 1

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return [await outer(ctx), await inner(ctx)]

    ctx = await admin.create_workflow("wf")
    with pytest.raises(RuntimeError):
        await wf(ctx)
    assert await wf(ctx) == [2, 1]
    assert executed == ["outer", "inner", "outer"]
    assert await steps(sql, ctx) == {"outer": "SUCCESS", "inner": "SUCCESS"}


async def test_a_workflow_may_run_another_workflow_in_its_step(admin):
    @step
    async def leaf(ctx: PyWorkflow) -> int:
        return ctx.id()

    @workflow
    async def child(ctx: PyWorkflow) -> int:
        return await leaf(ctx)

    @step
    async def run_child(ctx: PyWorkflow) -> int:
        return await admin.run(child)

    @workflow
    async def parent(ctx: PyWorkflow) -> list:
        return [await run_child(ctx), await leaf(ctx)]

    ctx = await admin.create_workflow("parent")
    child_id, own_id = await parent(ctx)
    assert own_id == ctx.id() != child_id
    assert [(each.step_id, each.status) for each in await admin.list_steps(child_id)] == [("leaf", "SUCCESS")]


@pytest.mark.without_replay("what the body prints is compared")
async def test_replay_works_in_another_process(admin, run_program, dsn, schema):
    source = """
import asyncio, os
from pgqrs import Admin, PyWorkflow, step, workflow

@step
async def parse(ctx: PyWorkflow) -> dict:
    raise KeyError("missing")

@step
async def count(ctx: PyWorkflow) -> int:
    print("count executes")
    return 3

@workflow
async def wf(ctx: PyWorkflow) -> int:
    try:
        await parse(ctx)
    except KeyError as error:
        print("caught", error, type(error).__mro__[-3].__name__)
    n = await count(ctx)
    if "CRASH" in os.environ:
        os._exit(9)
    return n

async def main():
    admin = Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"])
    print(await wf(await admin.get_workflow(1)))

asyncio.run(main())
"""
    await admin.create_workflow("wf")
    crashed = await asyncio.to_thread(run_program, source, CRASH="1", PYTHONUNBUFFERED="1")
    assert crashed == (9, "caught 'missing' Exception\ncount executes\n", "")
    assert await asyncio.to_thread(run_program, source) == (0, "caught 'missing' Exception\n3\n", "")


async def test_workflow_ids_beyond_32_bits_work(admin, sql):
    await sql.execute("SELECT setval('pgqrs_workflows_id_seq', 3000000000)")

    @step
    async def one(ctx: PyWorkflow) -> int:
        return 1

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        return await one(ctx)

    ctx = await admin.create_workflow("wf")
    assert ctx.id() == 3_000_000_001
    assert await wf(ctx) == 1
    assert await wf(await admin.get_workflow(ctx.id())) == 1
    assert [record.id for record in await admin.list_workflows()] == [3_000_000_001]
    assert [record.step_id for record in await admin.list_steps(ctx.id())] == ["one"]


async def test_pool_of_one_connection_serves_nested_steps(dsn, schema):
    engine = engine_on(
        dsn,
        pool_size=1,
        max_overflow=0,
        pool_timeout=10,
    )

    @step
    async def inner(ctx: PyWorkflow) -> int:
        return 1

    @step
    async def outer(ctx: PyWorkflow) -> int:
        return await inner(ctx) + 1

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        return await outer(ctx)

    async with Admin(engine, schema) as admin:
        await admin.install()
        async with asyncio.timeout(20):
            assert await asyncio.gather(*(admin.run(wf) for _ in range(30))) == [2] * 30
    await engine.dispose()


async def test_serializable_default_isolation_works(own_database):
    async with connected(own_database) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")

    @step(key=lambda n: n)
    async def each(ctx: PyWorkflow, n: int) -> int:
        return n

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await asyncio.gather(*(each(ctx, n) for n in range(5)))

    async with Admin(own_database) as one, Admin(own_database) as two:
        await asyncio.gather(one.install(), two.install())
        results = await asyncio.gather(*(admin.run(wf) for admin in (one, two) * 20))
    assert results == [list(range(5))] * 40


async def test_replayed_error_is_of_both_classes(admin):
    @step
    async def fails(ctx: PyWorkflow) -> None:
        raise KeyError("k")

    ctx = await admin.create_workflow("wf")
    with pytest.raises(KeyError) as first:
        await fails(ctx)
    with pytest.raises(KeyError) as second:
        await fails(ctx)
    assert not is_replay(first.value, KeyError)
    assert is_replay(second.value, KeyError)
    assert str(second.value) == str(first.value)
