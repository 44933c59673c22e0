"""Calls on a table that another session has locked time out, and leave no waiting session in the server."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin, DatabaseUnavailableError
from tests.support.waiting import until


@asynccontextmanager
async def admin_of(kind, dsn, schema):
    if kind == "a DSN":
        async with Admin(dsn, schema, timeout=0.3, outage_timeout=0.4) as admin:
            yield admin
        return

    async def connect():
        return await asyncpg.connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with Admin(engine, schema, timeout=0.3, outage_timeout=0.4) as admin:
        yield admin
    await engine.dispose()


async def _waiting(sql, schema):
    return await sql.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass($1)",
        f"{schema}.pgqrs_workflows",
    )


@pytest.mark.parametrize("kind", ["a DSN", "an engine"])
async def test_timed_out_call_leaves_no_waiting_session(dsn, schema, admin, sql, kind):
    async with admin_of(kind, dsn, schema) as own:
        await own.list_workflows()
        async with sql.transaction():
            await sql.execute(f"LOCK TABLE {schema}.pgqrs_workflows IN ACCESS EXCLUSIVE MODE")
            asked = [asyncio.create_task(own.list_workflows()) for _ in range(3)]
            await until(lambda: _waiting(sql, schema))
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, DatabaseUnavailableError)
            left = 0 if kind == "a DSN" else await _waiting(sql, schema)
            for _ in range(3):
                with pytest.raises(DatabaseUnavailableError):
                    await own.list_workflows()
            await until(lambda: _no_more_wait_than(left, sql, schema))
        assert await own.list_workflows() == []


async def _no_more_wait_than(count, sql, schema):
    return await _waiting(sql, schema) <= count
