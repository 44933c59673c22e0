# ruff: noqa: T201  # the specification prints
"""Every promise of the specification's pages, in code of our own."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from unittest.mock import AsyncMock, MagicMock

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

import pgqrs.decorators
from pgqrs import Admin, PyWorkflow, SerializationError, StepGuard, StepResult, TransientError
from pgqrs.decorators import step, workflow
from tests.support.database import connected
from tests.support.recorded import status, steps
from tests.support.workflows import greet, greeting

# --- Quick Start ---


async def test_quick_start_returns_the_value_of_its_step(admin):
    ctx = await admin.create_workflow("greeting", "ann")
    assert await greeting(ctx, "ann") == "hello ann"


async def test_decorators_are_reexported_from_pgqrs():
    assert pgqrs.step is pgqrs.decorators.step
    assert pgqrs.workflow is pgqrs.decorators.workflow


# --- @step ---


async def test_a_completed_step_is_not_executed_on_the_next_run(admin):
    fetched = []

    @step
    async def fetch_user(ctx: PyWorkflow, user_id: int) -> dict:
        fetched.append(user_id)
        return {"id": user_id, "name": "ann"}

    @step
    async def process_user(ctx: PyWorkflow, user: dict) -> dict:
        processed.append(user)
        if len(processed) == 1:
            raise RuntimeError("crash")
        return {"id": user["id"], "name": user["name"].upper(), "processed": True}

    @workflow
    async def users(ctx: PyWorkflow, user_id: int) -> dict:
        return await process_user(ctx, await fetch_user(ctx, user_id))

    processed = []
    ctx = await admin.create_workflow("users", 7)
    with pytest.raises(RuntimeError, match="crash"):
        await users(ctx, 7)
    assert await users(ctx, 7) == {"id": 7, "name": "ANN", "processed": True}
    assert fetched == [7]
    assert processed == [{"id": 7, "name": "ann"}] * 2


async def test_second_call_of_a_step_returns_the_first_result(admin):
    executed = []

    @step
    async def transform(ctx: PyWorkflow, data: str) -> str:
        executed.append(data)
        return data.upper()

    @workflow
    async def twice(ctx: PyWorkflow) -> list:
        return [await transform(ctx, "hello"), await transform(ctx, "world")]

    assert await admin.run(twice) == ["HELLO", "HELLO"]
    assert executed == ["hello"]


async def test_the_step_id_is_the_name_of_the_function(admin, sql):
    ctx = await admin.create_workflow("greeting", "ann")
    await greeting(ctx, "ann")
    assert await steps(sql, ctx) == {"greet": "SUCCESS"}


async def test_a_result_is_persisted_as_json(admin, sql):
    @step
    async def order(ctx: PyWorkflow) -> dict:
        return {"b": [1, 2.5, None], "a": "ü"}

    ctx = await admin.create_workflow("order")
    await order(ctx)
    assert (
        await sql.fetchval("SELECT output ->> 'a' FROM pgqrs_workflow_steps WHERE workflow_id = $1", ctx.id())
        == "ü"
    )


@pytest.mark.parametrize("decorator", [step, workflow])
def test_a_function_that_is_not_async_is_refused_at_decoration(decorator):
    def plain(ctx: PyWorkflow) -> int:
        return 1

    with pytest.raises(TypeError, match="plain"):
        decorator(plain)


@pytest.mark.parametrize("decorated", [greet, greeting])
async def test_wrong_first_argument_is_refused_at_the_call(decorated):
    with pytest.raises(TypeError, match=r"greet(ing)?.* PyWorkflow"):
        await decorated("ann", "bob")


async def test_step_is_recorded_only_after_it_has_finished(admin, sql):
    seen = []

    @step
    async def look(ctx: PyWorkflow) -> None:
        seen.append((await steps(sql, ctx)).get("look"))

    ctx = await admin.create_workflow("look")
    await look(ctx)
    assert seen[0] in {None, "RUNNING"}
    assert await steps(sql, ctx) == {"look": "SUCCESS"}


# --- @workflow ---


async def test_workflow_status_changes_from_pending_to_success(admin, sql):
    seen = []

    @workflow
    async def pipeline(ctx: PyWorkflow, data: str) -> dict:
        seen.append(await status(sql, ctx))
        return {"data": data}

    ctx = await admin.create_workflow("pipeline", "x")
    assert await status(sql, ctx) == "PENDING"
    await pipeline(ctx, "x")
    assert seen == ["RUNNING"]
    [record] = await admin.list_workflows()
    assert (record.status, record.output, record.error) == ("SUCCESS", {"data": "x"}, None)


async def test_pipeline_passes_results_between_steps(admin):
    @step
    async def step_one(ctx: PyWorkflow, data: str) -> str:
        return f"step1_{data}"

    @step
    async def step_two(ctx: PyWorkflow, data: str) -> str:
        return f"step2_{data}"

    @workflow
    async def my_pipeline(ctx: PyWorkflow, input_data: str) -> str:
        """A durable pipeline that survives crashes."""
        result1 = await step_one(ctx, input_data)
        return await step_two(ctx, result1)

    ctx = await admin.create_workflow("my_pipeline", "x")
    assert await my_pipeline(ctx, "x") == "step2_step1_x"
    assert my_pipeline.__doc__ == "A durable pipeline that survives crashes."


async def test_workflow_function_accepts_all_kinds_of_arguments(admin):
    @step
    async def collect(ctx: PyWorkflow, *args, **kwargs) -> list:
        return [list(args), kwargs]

    @workflow
    async def collecting(ctx: PyWorkflow, first: int, *rest: int, last: int = 9, **more: int) -> list:
        return await collect(ctx, first, *rest, last=last, **more)

    ctx = await admin.create_workflow("collecting")
    assert await collecting(ctx, 1, 2, 3, other=4) == [[1, 2, 3], {"last": 9, "other": 4}]


@pytest.mark.parametrize("decorated", [greet, greeting])
def test_decorated_function_keeps_its_name_and_signature(decorated):
    assert inspect.iscoroutinefunction(decorated)
    assert list(inspect.signature(decorated).parameters) == ["ctx", "name"]
    assert decorated.__name__ in {"greet", "greeting"}
    assert decorated.__module__ == "tests.support.workflows"


# --- PyWorkflow ---


async def test_create_workflow_accepts_the_specified_keywords(admin):
    ctx = await admin.create_workflow(name="my_workflow", input_arg="some data")
    assert isinstance(ctx, PyWorkflow)
    assert ctx.id() == 1
    [record] = await admin.list_workflows()
    assert (record.id, record.name, record.input) == (
        1,
        "my_workflow",
        {"args": ["some data"], "kwargs": {}},
    )


async def test_manual_workflow_ends_in_success(admin, sql):
    ctx = await admin.create_workflow("by_hand", 1)
    await ctx.start()
    assert await status(sql, ctx) == "RUNNING"
    await ctx.success({"n": 1})
    [record] = await admin.list_workflows()
    assert (record.status, record.output) == ("SUCCESS", {"n": 1})


async def test_manual_workflow_ends_in_error(admin):
    ctx = await admin.create_workflow("by_hand", 1)
    await ctx.start()
    await ctx.fail("it broke")
    [record] = await admin.list_workflows()
    assert (record.status, record.output, record.error["message"]) == ("ERROR", None, "it broke")


async def test_manual_step_executes_once(admin):
    executed = []

    async def manual_step(ctx: PyWorkflow, data: str) -> str:
        step_result = await ctx.acquire_step("my_manual_step")
        assert isinstance(step_result, StepResult)
        if step_result.status == "SKIPPED":
            return step_result.value
        assert step_result.status == "EXECUTE"
        guard = step_result.guard
        assert isinstance(guard, StepGuard)
        try:
            executed.append(data)
            result = data.upper()
            await guard.success(result)
        except Exception as e:
            await guard.fail(str(e))
            raise
        return result

    ctx = await admin.create_workflow("manual")
    assert await manual_step(ctx, "a") == "A"
    assert await manual_step(ctx, "b") == "A"
    assert await manual_step(await admin.get_workflow(ctx.id()), "c") == "A"
    assert executed == ["a"]


async def test_failed_manual_step_raises_its_recorded_text(admin):
    async def manual_step(ctx):
        step_result = await ctx.acquire_step("manual")
        try:
            raise OSError("no such thing")
        except Exception as e:
            await step_result.guard.fail(str(e))
            raise

    ctx = await admin.create_workflow("manual")
    with pytest.raises(OSError, match="no such thing"):
        await manual_step(ctx)
    with pytest.raises(Exception, match="no such thing"):
        await ctx.acquire_step("manual")


async def test_step_result_status_equals_plain_strings(admin):
    ctx = await admin.create_workflow("manual")
    first = await ctx.acquire_step("s")
    assert first.status == "EXECUTE"
    assert first.value is None
    await first.guard.success(5)
    second = await ctx.acquire_step("s")
    assert second.status == "SKIPPED"
    assert second.value == 5
    assert second.guard is None


# --- Admin ---


async def test_admin_without_a_schema_uses_the_schema_pgqrs(own_database):
    async with Admin(own_database, None) as admin:
        await admin.install()
        ctx = await admin.create_workflow("greeting", "ann")
        await greeting(ctx, "ann")
        async with connected(own_database) as connection:
            assert await connection.fetchval("SELECT status FROM pgqrs.pgqrs_workflows") == "SUCCESS"


async def test_admin_creates_tables_only_in_its_schema(own_database):
    async with Admin(own_database, "custom_schema") as admin:
        await admin.install()
        await greeting(await admin.create_workflow("greeting", "ann"), "ann")
    async with connected(own_database) as connection:
        schemas = await connection.fetch(
            "SELECT DISTINCT table_schema FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
        )
    assert [row[0] for row in schemas] == ["custom_schema"]


async def test_install_is_idempotent_and_keeps_existing_rows(admin):
    await greeting(await admin.create_workflow("greeting", "ann"), "ann")
    await admin.install()
    await admin.install()
    assert len(await admin.list_workflows()) == 1


@pytest.mark.parametrize(
    "form", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2", "URL", "engine"]
)
async def test_admin_accepts_every_form_of_address(dsn, schema, form):
    rest = dsn.split("://", 1)[1]
    async with connected(dsn) as connection:
        addresses = connection._addr  # the socket's folder, or host and port
        host, port = addresses if isinstance(addresses, tuple) else (addresses.rsplit("/.s.PGSQL.", 1))
        parameters = connection._params
    url = URL.create(
        "postgresql",
        username=parameters.user,
        password=parameters.password,
        database=parameters.database,
        query={"host": str(host), "port": str(port)},
    )
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    target = {"URL": url, "engine": engine}.get(form, f"{form}://{rest}")
    async with Admin(target, schema) as admin:
        await admin.install()
        assert await greeting(await admin.create_workflow("greeting", "ann"), "ann") == "hello ann"
    async with engine.connect() as still_usable:
        await still_usable.exec_driver_sql("SELECT 1")
    await engine.dispose()


async def test_admin_can_be_closed_twice_and_used_again(admin):
    await admin.close()
    await admin.close()
    assert (await admin.create_workflow("greeting")).id() > 0


async def test_caller_engine_is_not_disposed(engine, schema):
    async with Admin(engine, schema) as admin:
        await admin.install()
        pool = engine.pool
    assert engine.pool is pool
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")


async def test_run_creates_runs_and_returns(admin):
    assert await admin.run(greeting, "ann") == "hello ann"
    assert await admin.run(greeting, name="bob") == "hello bob"
    newest, oldest = await admin.list_workflows()
    assert (oldest.name, oldest.input) == ("greeting", {"args": ["ann"], "kwargs": {}})
    assert (newest.name, newest.input) == ("greeting", {"args": [], "kwargs": {"name": "bob"}})


# --- Complete Example ---

COMPLETE = """
import asyncio
import os

from pgqrs import Admin, PyWorkflow
from pgqrs.decorators import step, workflow


@step
async def validate_input(ctx: PyWorkflow, data: str) -> dict:
    print(f"[validate] Checking: {data}")
    if not data:
        raise ValueError("Empty input")
    return {"valid": True, "data": data, "length": len(data)}


@step
async def transform_data(ctx: PyWorkflow, validated: dict) -> dict:
    print(f"[transform] Processing: {validated}")
    data = validated["data"]
    return {"original": data, "transformed": data.upper(), "doubled": data * 2}


@step
async def save_result(ctx: PyWorkflow, transformed: dict) -> str:
    print(f"[save] Storing: {transformed}")
    await asyncio.sleep(0.1)
    return f"Saved: {transformed['transformed']}"


@workflow
async def data_pipeline(ctx: PyWorkflow, raw_data: str):
    print(f"[workflow] Starting with: {raw_data}")
    validated = await validate_input(ctx, raw_data)
    transformed = await transform_data(ctx, validated)
    result = await save_result(ctx, transformed)
    print(f"[workflow] Completed: {result}")
    return result


async def main():
    admin = Admin(os.environ["PGQRS_DSN"], None)
    await admin.install()
    ctx = await admin.create_workflow("data_pipeline", "hello world")
    print(f"Created workflow: {ctx.id()}")
    result = await data_pipeline(ctx, "hello world")
    print(f"Final result: {result}")
    # CLOSE


if __name__ == "__main__":
    asyncio.run(main())
"""

prints_once = pytest.mark.without_replay("what the body prints is compared")

OUTPUT = """\
Created workflow: 1
[workflow] Starting with: hello world
[validate] Checking: hello world
[transform] Processing: {'valid': True, 'data': 'hello world', 'length': 11}
[save] Storing: {'original': 'hello world', 'transformed': 'HELLO WORLD', 'doubled': 'hello worldhello world'}
[workflow] Completed: Saved: HELLO WORLD
Final result: Saved: HELLO WORLD
"""


@prints_once
@pytest.mark.parametrize("end", ["pass", "await admin.close()"])
def test_complete_example_prints_the_documented_output(run_program, own_database, end):
    ran = run_program(COMPLETE.replace("# CLOSE", end), dev=True, PGQRS_DSN=own_database)
    assert ran == (0, OUTPUT, "")


@prints_once
def test_program_exiting_without_close_prints_no_error(run_program, own_database):
    source = COMPLETE.replace("# CLOSE", "raise SystemExit(3)")
    assert run_program(source, PGQRS_DSN=own_database) == (3, OUTPUT, "")


@prints_once
def test_two_successive_event_loops_print_no_error(run_program, own_database):
    source = COMPLETE.replace("asyncio.run(main())", "asyncio.run(main()); asyncio.run(main())")
    second = OUTPUT.replace("Created workflow: 1", "Created workflow: 2")
    assert run_program(source, PGQRS_DSN=own_database) == (0, OUTPUT + second, "")


# --- Error Handling ---


async def test_step_error_is_recorded_and_replayed_with_its_text(admin, sql, capsys):
    executed = []

    @step
    async def risky_step(ctx: PyWorkflow, data: str) -> str:
        executed.append(data)
        if data == "bad":
            raise ValueError("Invalid data")
        return f"ok_{data}"

    @workflow
    async def error_demo(ctx: PyWorkflow, data: str) -> str:
        try:
            return await risky_step(ctx, data)
        except ValueError as e:
            print(f"Step failed: {e}")
            raise

    ctx = await admin.create_workflow("error_demo", "bad")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^Invalid data$"):
            await error_demo(ctx, "bad")
        assert capsys.readouterr().out == "Step failed: Invalid data\n"
        assert await status(sql, ctx) == "ERROR"
    assert executed == ["bad"]
    assert await error_demo(await admin.create_workflow("error_demo", "good"), "good") == "ok_good"


async def test_unhandled_workflow_exception_is_recorded(admin):
    @workflow
    async def may_fail(ctx: PyWorkflow, data: str) -> str:
        if data == "crash":
            raise RuntimeError("Workflow crashed")
        return "success"

    ctx = await admin.create_workflow("may_fail", "crash")
    with pytest.raises(RuntimeError, match="Workflow crashed"):
        await may_fail(ctx, "crash")
    [record] = await admin.list_workflows()
    assert record.status == "ERROR"
    assert (record.error["type"], record.error["message"]) == ("RuntimeError", "Workflow crashed")


async def test_terminal_step_error_fails_the_next_run_at_once(admin):
    executed = []

    @step
    async def check(ctx: PyWorkflow, data: str) -> str:
        executed.append("check")
        raise ValueError(f"unusable: {data}")

    @step
    async def after(ctx: PyWorkflow) -> None:
        executed.append("after")

    @workflow
    async def my_workflow(ctx: PyWorkflow, data: str) -> None:
        await check(ctx, data)
        await after(ctx)

    ctx = await admin.create_workflow("my_workflow", "bad_data")
    with pytest.raises(ValueError, match="unusable: bad_data"):
        await my_workflow(ctx, "bad_data")
    with pytest.raises(Exception, match="unusable: bad_data"):
        await my_workflow(ctx, "bad_data")
    assert executed == ["check"]


# --- Crash Recovery ---


async def test_next_run_resumes_at_the_failed_step(admin, sql, capsys):
    crash_on_step_two = True

    @step
    async def step_one(ctx: PyWorkflow, data: str) -> str:
        print("[step_one] Executing")
        return f"s1_{data}"

    @step
    async def step_two(ctx: PyWorkflow, data: str) -> str:
        nonlocal crash_on_step_two
        print("[step_two] Executing")
        if crash_on_step_two:
            crash_on_step_two = False
            raise RuntimeError("Crash!")
        return f"s2_{data}"

    @workflow
    async def crash_demo(ctx: PyWorkflow, data: str) -> str:
        r1 = await step_one(ctx, data)
        return await step_two(ctx, r1)

    ctx = await admin.create_workflow("crash_demo", "test")
    with pytest.raises(RuntimeError, match="Crash!"):
        await crash_demo(ctx, "test")
    assert capsys.readouterr().out == "[step_one] Executing\n[step_two] Executing\n"
    assert await steps(sql, ctx) == {"step_one": "SUCCESS", "step_two": "ERROR"}
    print(f"Result: {await crash_demo(ctx, 'test')}")
    assert capsys.readouterr().out == "[step_two] Executing\nResult: s2_s1_test\n"


# --- Best Practices ---


async def test_datetime_is_refused_and_isoformat_text_is_not(admin, sql):
    @step
    async def get_timestamp(ctx: PyWorkflow) -> datetime:
        return datetime.now(UTC)

    @step
    async def get_text(ctx: PyWorkflow) -> str:
        return datetime.now(UTC).isoformat()

    ctx = await admin.create_workflow("timestamps")
    with pytest.raises(SerializationError, match="get_timestamp"):
        await get_timestamp(ctx)
    assert datetime.fromisoformat(await get_text(ctx)).tzinfo is not None
    assert await steps(sql, ctx) == {"get_timestamp": "ERROR", "get_text": "SUCCESS"}


async def test_workflow_id_gives_a_stable_idempotency_key(admin):
    sent = []

    @step
    async def send_notification(ctx: PyWorkflow, user_id: str) -> str:
        sent.append(f"workflow-{ctx.id()}-notify-{user_id}")
        if len(sent) == 1:
            raise ConnectionError("lost the answer")
        return "sent"

    @workflow
    async def notify(ctx: PyWorkflow, user_id: str) -> str:
        return await send_notification(ctx, user_id)

    ctx = await admin.create_workflow("notify", "u1")
    with pytest.raises(ConnectionError):
        await notify(ctx, "u1")
    assert await notify(ctx, "u1") == "sent"
    assert sent == [f"workflow-{ctx.id()}-notify-u1"] * 2


async def test_step_returns_permanent_errors_as_data(admin):
    class PermanentError(Exception):
        pass

    answers = [TransientError("busy"), PermanentError("gone")]

    @step
    async def robust_step(ctx: PyWorkflow) -> dict:
        try:
            raise answers.pop(0)
        except TransientError:
            raise
        except PermanentError as e:
            return {"success": False, "error": str(e)}

    @workflow
    async def robust(ctx: PyWorkflow) -> dict:
        return await robust_step(ctx)

    ctx = await admin.create_workflow("robust")
    with pytest.raises(TransientError, match="busy"):
        await robust(ctx)
    assert await robust(ctx) == {"success": False, "error": "gone"}


# --- Testing ---


async def test_a_step_can_be_unit_tested_with_a_mocked_context():
    ctx = MagicMock(spec=PyWorkflow)
    guard = AsyncMock()
    guard.success.side_effect = lambda value: value
    ctx.acquire_step = AsyncMock(return_value=MagicMock(status="EXECUTE", guard=guard))
    assert await greet(ctx, "ann") == "hello ann"
    ctx.acquire_step.assert_awaited_once_with("greet")
    guard.success.assert_awaited_once_with("hello ann")


async def test_mocked_context_can_skip_a_step():
    ctx = MagicMock(spec=PyWorkflow)
    ctx.acquire_step = AsyncMock(return_value=MagicMock(status="SKIPPED", value="recorded"))
    assert await greet(ctx, "ann") == "recorded"


async def test_step_function_can_be_unwrapped():
    assert await inspect.unwrap(greet)(None, "ann") == "hello ann"


async def test_many_workflows_run_at_once_in_one_loop(admin):
    results = await asyncio.gather(*(admin.run(greeting, f"n{n}") for n in range(50)))
    assert results == [f"hello n{n}" for n in range(50)]
    assert {record.status for record in await admin.list_workflows()} == {"SUCCESS"}
