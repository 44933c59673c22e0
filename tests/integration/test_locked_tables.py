"""A table that another session has locked whole, as VACUUM FULL and ALTER TABLE do: calls give up, and so does the server."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin, DatabaseUnavailableError
from tests.integration.storage_helpers import become_true


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


async def _waiting(truth, schema):
    return await truth.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass($1)",
        f"{schema}.pgqrs_workflows",
    )


@pytest.mark.parametrize("kind", ["a DSN", "an engine"])
async def test_a_call_that_gave_up_leaves_no_session_that_waits(dsn, schema, admin, truth, kind):
    async with admin_of(kind, dsn, schema) as own:
        await own.list_workflows()
        async with truth.transaction():
            await truth.execute(f"LOCK TABLE {schema}.pgqrs_workflows IN ACCESS EXCLUSIVE MODE")
            asked = [asyncio.create_task(own.list_workflows()) for _ in range(3)]
            await become_true(lambda: _waiting(truth, schema))
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, DatabaseUnavailableError)
            left = 0 if kind == "a DSN" else await _waiting(truth, schema)
            for _ in range(3):
                with pytest.raises(DatabaseUnavailableError):
                    await own.list_workflows()
            await become_true(lambda: _no_more_wait_than(left, truth, schema))
        assert await own.list_workflows() == []


async def _no_more_wait_than(count, truth, schema):
    return await _waiting(truth, schema) <= count
