"""pgqrs never calls functions and operators that another role has created in `public`.

PostgreSQL takes a function or an operator of exactly the types given before its own that takes them by conversion,
wherever in the `search_path` it lies. So for the functions and operators that our statements use, one lies in wait
for each combination of the types that could be given.
"""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from alembic.config import main as alembic_main
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import Admin, PyWorkflow, RetryPolicy, TransientError, Worker, step, workflow
from pgqrs.models import HEAD
from pgqrs.storage.schema.migrate import sql_script
from tests.support.database import connected, engine_on
from tests.support.workflows import numbered

CHECKOUT = Path(__file__).parents[2]

FUNCTIONS = [
    "array_agg", "count", "hashtextextended", "max", "min", "nextval", "num_nonnulls", "pg_advisory_xact_lock",
    "pg_notify", "pg_try_advisory_lock", "unnest", "generate_series",
]  # fmt: skip
ARGUMENTS = ["text", "varchar", "int4", "int8", "regclass", "uuid", "timestamptz", "text[]", "varchar[]", "int8[]"]
OPERATORS = ["=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "|", "<<"]
OPERANDS = [
    "text", "varchar", "name", '"char"', "int2", "int4", "int8", "oid", "regclass", "float8", "numeric", "uuid",
    "timestamptz", "interval", "json",
]  # fmt: skip

# A sequence counts what a transaction that is rolled back has called, too. What PostgreSQL has itself is left out: no
# other schema's is ever taken for it.
TRAPS = """
CREATE SEQUENCE public.calls;
CREATE TABLE public.loot (who text, what text);
GRANT ALL ON public.loot, public.calls TO PUBLIC;
DO $do$
DECLARE
    functions text[] := '{functions}'; arguments text[] := '{arguments}';
    operators text[] := '{operators}'; operands text[] := '{operands}';
    body text := 'RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN PERFORM pg_catalog.nextval(%L); '
        'INSERT INTO public.loot VALUES (current_user, %L); RETURN NULL; END $f$';
    name text; own text; other text; given text;
BEGIN
    SET LOCAL check_function_bodies = off;
    FOREACH own IN ARRAY arguments LOOP
        FOREACH other IN ARRAY arguments || ARRAY[''] LOOP
            given := concat_ws(', ', own, nullif(other, ''));
            FOREACH name IN ARRAY functions LOOP
                CONTINUE WHEN to_regprocedure(format('pg_catalog.%s(%s)', name, given)) IS NOT NULL;
                EXECUTE format('CREATE FUNCTION public.%s(%s) ' || body, name, given, 'public.calls',
                    format('%s(%s)', name, given));
            END LOOP;
        END LOOP;
    END LOOP;
    FOREACH own IN ARRAY operands LOOP
        FOREACH other IN ARRAY operands LOOP
            EXECUTE format('CREATE FUNCTION public.trap(%s, %s) ' || body, own, other, 'public.calls',
                format('%s with %s', own, other));
            FOREACH name IN ARRAY operators LOOP
                CONTINUE WHEN to_regoperator(format('pg_catalog.%s(%s,%s)', name, own, other)) IS NOT NULL;
                EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, RIGHTARG = %s)',
                    name, own, other);
            END LOOP;
        END LOOP;
    END LOOP;
END $do$;
"""


def traps() -> str:
    text = TRAPS
    for name, values in (
        ("functions", FUNCTIONS),
        ("arguments", ARGUMENTS),
        ("operators", OPERATORS),
        ("operands", OPERANDS),
    ):
        text = text.replace(f"{{{name}}}", "{" + ",".join(each.replace('"', '\\"') for each in values) + "}")
    return text


@asynccontextmanager
async def looted(dsn):
    """Lay the traps; give a function that returns what was called since it was called last."""
    connection = await asyncpg.connect(dsn)
    calls = 0

    async def loot():
        nonlocal calls
        before, calls = (
            calls,
            await connection.fetchval("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM calls"),
        )
        kept = await connection.fetch("DELETE FROM loot RETURNING what")
        return calls - before, sorted({what for (what,) in kept})

    try:
        await connection.execute(traps())
        yield loot
    finally:
        await connection.close()


@step(transactional=True)
async def counted(ctx: PyWorkflow) -> int:
    return int((await ctx.session.execute(text("SELECT 1"))).scalar_one())


@workflow
async def of_many_kinds(ctx: PyWorkflow, what: str) -> int:
    failed: set[str] = set()

    @step(retry=RetryPolicy(initial=0.001))
    async def failing_once(ctx: PyWorkflow) -> None:
        if not failed:
            failed.add(what)
            raise TransientError("once")

    await failing_once(ctx)
    await ctx.sleep(0.01)
    return sum(await asyncio.gather(numbered(ctx, 1), numbered(ctx, 2))) + await counted(ctx)


@workflow
async def failing(ctx: PyWorkflow) -> None:
    raise ValueError("it fails")


async def _use(dsn: str, pooler: str) -> None:
    """Do all that an application and an operator do."""
    option = f"{'&' if '?' in dsn else '?'}pgqrs_pooler={pooler}"
    async with Admin(dsn + option) as admin, Worker(admin, [of_many_kinds, failing], concurrency=4):
        await admin.install()
        await admin.verify(deep=True)
        assert await admin.run(of_many_kinds, "run") == 4
        first = await admin.options(key="k", timeout=60).enqueue(of_many_kinds, "one")
        again = await admin.options(key="k").enqueue(of_many_kinds, "one")
        many = await admin.enqueue_many(of_many_kinds, [("a",), ("b",), ("c",)], key=str)
        later = await admin.options(delay=0.01).enqueue(of_many_kinds, "later")
        assert await asyncio.gather(*(each.result(timeout=30) for each in (first, again, *many, later))) == [4] * 6
        bad = await admin.enqueue(failing)
        with pytest.raises(ValueError, match="it fails"):
            await bad.result(timeout=30)
        for options in ({}, {"taken": "replace"}, {"taken": "cancel"}, {"debounce": 60}, {"throttle": 60}):
            await admin.options(unique="v", queue="unserved", **options).enqueue(of_many_kinds, "unique")
        await _use_caller_session(dsn, admin)
        resumed = await admin.resume_workflow(bad.id)
        await admin.cancel_workflow(resumed.id())
        assert len(await admin.list_workflows(status="SUCCESS", name="of_many_kinds")) == 6
        assert {each.step_id for each in await admin.list_steps(first.id)} >= {"numbered:1", "numbered:2"}
        await _rewind_in_caller_session(dsn, admin, first.id)
        assert await admin.list_workers()
        await admin.verify(deep=True)


async def _rewind_in_caller_session(dsn: str, admin: Admin, workflow_id: int) -> None:
    engine = engine_on(dsn)
    async with AsyncSession(engine) as session:
        found = await admin.rewind(workflow_id, before="numbered:2", session=session)
        await session.commit()
    assert (await admin.why(workflow_id)).reasons
    assert await admin.list_rewinds(workflow_id) == [found]
    await engine.dispose()


async def _use_caller_session(dsn: str, admin: Admin) -> None:
    engine = engine_on(dsn)
    async with AsyncSession(engine) as session:
        unserved = admin.options(queue="unserved", session=session)
        await unserved.enqueue(of_many_kinds, "lent")
        one, two = await unserved.enqueue_many(of_many_kinds, [("d",), ("e",)], key=str)
        assert [each.id for each in await unserved.enqueue_many(of_many_kinds, [("e",)], key=str)] == [two.id]
        for options in ({}, {"taken": "replace"}, {"taken": "cancel"}, {"debounce": 60}, {"throttle": 60}):
            submit = admin.options(unique="v", queue="unserved", session=session, **options)
            await submit.enqueue(of_many_kinds, "unique")
        await admin.cancel_workflow(one.id, session=session)
        await admin.resume_workflow(one.id, session=session)
        await session.commit()
    await engine.dispose()


@pytest.mark.parametrize("pooler", ["session", "transaction"])
async def test_no_function_in_public_is_called(own_database, pooler):
    async with looted(own_database) as loot:
        async with Admin(own_database) as admin:
            await admin.install()
        await _use(own_database, pooler)
        assert await loot() == (0, [])


async def test_alembic_and_script_call_no_function_in_public(own_database):
    async with looted(own_database) as loot:
        for arguments in (["upgrade", "head"], ["check"], ["downgrade", "0001"], ["upgrade", "head"], ["current"]):
            options = ["--raiseerr", "-c", str(CHECKOUT / "alembic.ini"), "-x", f"dsn={own_database}"]
            await asyncio.to_thread(alembic_main, [*options, *arguments])
        async with connected(own_database) as connection:
            await connection.execute(sql_script("other"))
            await connection.execute(sql_script("other", start=HEAD, end="0001"))
        assert await loot() == (0, [])


async def test_traps_catch_unqualified_function_calls(own_database):
    async with looted(own_database) as loot, connected(own_database) as connection:
        for careless in (
            "SELECT hashtextextended('x'::varchar, 0)",
            "SELECT * FROM unnest(ARRAY['x']::varchar[])",
            "SELECT pg_notify('x'::varchar, 'y'::varchar)",
            "SELECT 'x'::text = 'x'::varchar",
            "SELECT relname = 'x'::varchar FROM pg_catalog.pg_class LIMIT 1",
            "SELECT 1::int8 = 1.5::float8",
        ):
            await connection.execute(careless)
            assert (await loot())[0] == 1, careless
