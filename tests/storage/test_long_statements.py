"""Statements that are too long for asyncpg's cache of prepared statements."""

import pytest
import pytest_asyncio

from pgqrs.storage.connections import dedicated
from pgqrs.storage.connections.watchdog import WatchedConnection
from tests.support.queues import QUEUE, claimed, planted

KEPT = "SELECT statement FROM pg_prepared_statements WHERE statement ~ '^SELECT [0-9]+ '"
PLANS = "SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement LIKE $1"


COMMENT = f"/* {'x' * dedicated.MAX_LENGTH} */"


def long_select(number):
    return f"SELECT {number} {COMMENT}"


@pytest_asyncio.fixture
async def watched(store):
    connection = WatchedConnection(store.database, lambda: True)
    yield connection
    connection.dedicated.terminate()


async def test_claim_of_a_limited_queue_is_prepared_once(admin, watch, sql):
    ids = await planted(sql, None, 3)
    await admin.set_queue(QUEUE, concurrency=3)
    assert await claimed(watch, 1) == ids[:1]
    assert await claimed(watch, 1) == ids[1:2]
    rows = await watch._dedicated.driver.fetch(PLANS, "WITH RECURSIVE settings %")
    assert [row[0] for row in rows] == [2]


async def test_long_statement_survives_a_change_of_its_columns(watched, sql, schema):
    await sql.execute(f'CREATE TABLE "{schema}".changed (value integer)')
    text = f'SELECT value FROM "{schema}".changed {COMMENT}'
    assert await watched.fetch(text, ()) == []
    await sql.execute(f'ALTER TABLE "{schema}".changed ALTER COLUMN value TYPE text')
    await sql.execute(f"INSERT INTO \"{schema}\".changed VALUES ('one')")
    assert [row["value"] for row in await watched.fetch(text, ())] == ["one"]


async def test_connection_keeps_the_last_long_statements(watched):
    most = dedicated.MAX_LONG_STATEMENTS
    for number in range(most + 1):
        assert (await watched.fetch(long_select(number), ()))[0][0] == number
    kept = await watched.dedicated.driver.fetch(KEPT)
    assert sorted(int(row[0].split()[1]) for row in kept) == list(range(1, most + 1))


async def test_failed_long_statement_is_prepared_anew(watched):
    text = f"SELECT 1 / $1::integer {COMMENT}"
    with pytest.raises(Exception, match="division by zero"):
        await watched.fetch(text, (0,))
    assert (await watched.fetch(text, (1,)))[0][0] == 1
