"""What the integration tests share beyond the engine and the `Admin`."""

import asyncpg
import pytest_asyncio


@pytest_asyncio.fixture
async def truth(dsn, schema):
    """A connection of the test's own, in the schema of the test."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": schema})
    yield connection
    await connection.close()
