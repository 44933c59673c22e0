"""The plans of the pages of lists: each condition is searched by an index, and within a bound."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from pgqrs import WorkflowFilter
from pgqrs.models import SCHEMA, Workflow
from pgqrs.storage.selection import activity, pages
from pgqrs.storage.selection.pages import WorkflowLists
from tests.support.dashboard import browser
from tests.support.plans import nodes

FILL = """
    INSERT INTO pgqrs_workflows (id, name, status, input, output, error, queue, key, parent_id, parent_step, place,
        completed_at, created_at, ready_at, executor, epoch)
    OVERRIDING SYSTEM VALUE
    SELECT i, CASE WHEN i = 77 THEN 'rare' ELSE 'wf' || i % 5 END,
        CASE WHEN i % 1000 = 3 THEN 'ERROR' WHEN i % 2000 = 7 THEN 'CANCELLED' WHEN i % 2000 = 11 THEN 'RUNNING'
            WHEN i % 2000 = 13 THEN 'PENDING' ELSE 'SUCCESS' END,
        '{"args": ["a text of a usual size", 1, 2, 3], "kwargs": {}}', '1',
        CASE WHEN i % 1000 = 3 THEN '{"message": "card declined"}'::json END,
        'default', CASE WHEN i % 3 = 0 THEN 'key' || i END,
        CASE WHEN i % 11 = 0 THEN i / 1000 + 1 END, CASE WHEN i % 11 = 0 THEN 's' END, CASE WHEN i % 11 = 0 THEN i END,
        CASE WHEN i % 2000 NOT IN (11, 13) THEN now() END, now(), CASE WHEN i % 2000 = 13 THEN now() END,
        CASE WHEN i % 2000 = 11 THEN (SELECT min(id::text)::uuid FROM pgqrs_executors) END, 1
    FROM generate_series(1, $1::int) i
"""

FILL_ATTRIBUTES = """
    INSERT INTO pgqrs_attributes
    SELECT i, ARRAY[CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 't' || i % 1000],
        jsonb_build_object('plan', CASE WHEN i % 4 = 0 THEN 'free' ELSE 'gold' END, 'customer', i % 10000)
    FROM generate_series(1, $1::int) i
"""


def filters():
    now = datetime.now(UTC)
    conditions = {
        "none": {},
        "a rare name": {"name": "rare"},
        "a name of nothing": {"name": "nothing"},
        "SUCCESS": {"status": "SUCCESS"},
        "ERROR": {"status": "ERROR"},
        "a rare name and ERROR": {"status": ["ERROR", "CANCELLED"], "name": "rare"},
        "RUNNING": {"status": "RUNNING"},
        "PENDING": {"status": "PENDING"},
        "a queue of nothing": {"queue": "nothing"},
        "a name and a key": {"name": "wf1", "key": "key21"},
        "a key": {"key": "key21"},
        "a partition key": {"partition_key": "nothing"},
        "a parent": {"parent": 5},
        "a usual tag": {"tags": "eu"},
        "a rare tag": {"tags": ("eu", "t998")},
        "one of two tags": {"any_tags": ("t7", "nothing")},
        "a usual attribute": {"attributes": {"plan": "gold"}},
        "a rare attribute": {"attributes": {"customer": 7}},
        "a usual attribute and a name of nothing": {"attributes": {"plan": "gold"}, "name": "nothing"},
        "an error": {"error": "no such text"},
        "times": {"created": (None, now - timedelta(days=1)), "completed": (now - timedelta(days=1), None)},
        "a condition": {"where": Workflow.priority > 5},
    }
    return {name: WorkflowFilter(**each) for name, each in conditions.items()}


class Explaining:
    """A connection that keeps the plan of each statement that it executes."""

    def __init__(self, connection, sql, schema):
        self._connection = connection
        self._sql = sql
        self._schema = schema
        self.plans = []

    async def execute(self, statement):
        await self._explain(statement)
        return await self._connection.execute(statement)

    async def scalar(self, statement):
        await self._explain(statement)
        return await self._connection.scalar(statement)

    async def _explain(self, statement):
        text = statement.compile(
            dialect=dialect.dialect(),
            compile_kwargs={"literal_binds": True},
            schema_translate_map={SCHEMA: self._schema},
            render_schema_translate=True,
        )

        found = await self._sql.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}")
        self.plans.append(json.loads(found)[0]["Plan"])


def examined(plan):
    """Return the number of rows that the scans of a plan have read."""
    return sum(
        (each["Actual Rows"] + each.get("Rows Removed by Filter", 0)) * each["Actual Loops"]
        for each in nodes(plan)
        if "Scan" in each["Node Type"] and "Relation Name" in each
    )


@pytest.mark.plants_rows
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
async def test_each_condition_has_an_index_and_a_bound(admin, sql, schema, monkeypatch, count):
    store = await admin.store()
    await sql.execute(
        "INSERT INTO pgqrs_executors (id, host, pid, expires_at) VALUES (gen_random_uuid(), 'h', 1, now() + '1 h')"
    )
    await sql.execute(FILL, count)
    await sql.execute(FILL_ATTRIBUTES, count)
    await sql.execute("ANALYZE pgqrs_workflows")
    await sql.execute("VACUUM ANALYZE pgqrs_attributes")  # the new entries wait in a list of their own before that
    if count < pages.SEARCHED:
        monkeypatch.setattr(pages, "SEARCHED", 1000)
        monkeypatch.setattr(pages, "LOOKED_UP", 250)
    for name, given in filters().items():

        async def page(connection, given=given):
            own = Explaining(connection, sql, schema)
            await WorkflowLists(own).page(given, limit=20, after=None)
            return own.plans

        plans = await store.database.run_with_retries(page, lasting=60)
        kinds = {each["Node Type"] for plan in plans for each in nodes(plan) if each.get("Relation Name")}
        assert "Seq Scan" not in kinds, (name, kinds)
        assert sum(map(examined, plans)) <= 4 * pages.SEARCHED + 200, (name, plans)
        if count > pages.SEARCHED:
            # The middle of the table, too; the best of five, because other processes use the machine.
            for after in (None, count // 2):
                assert min([await seconds(admin.list_workflows, given, after=after) for _ in range(5)]) < bound(
                    count
                ), name

    await check_dashboard(admin, store, sql, schema, count)


def bound(count):
    """Return the seconds that a page may take: with few rows, among other tests, to find a scan of everything."""
    return 0.2 if count == 1_000_000 else 2.0


async def check_dashboard(admin, store, sql, schema, count):
    """Check the read of the recent activity, and, with many workflows, the time of each page of the dashboard."""

    async def read(connection):
        own = Explaining(connection, sql, schema)
        await activity.newest_activity(own)
        return own.plans

    (plan,) = await store.database.run_with_retries(read, lasting=60)
    assert {each["Node Type"] for each in nodes(plan) if each.get("Relation Name")} == {"Index Scan"}
    assert examined(plan) == activity.NEWEST
    if count > pages.SEARCHED:
        paths = [
            "/",
            "/list?name=nothing",
            "/list?status=ERROR",
            f"/workflow/{count}",
            "/queues",
            "/queue?name=default",
        ]
        own = browser(admin)
        for path in [*paths, "/schedules", "/workers", "/doctor"]:
            assert min([await seconds(own.get, path) for _ in range(5)]) < bound(count), path


async def seconds(call, *args, **kwargs):
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    await call(*args, **kwargs)
    return time.perf_counter() - began
