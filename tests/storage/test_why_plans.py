"""The plan of `why`: indexes alone, and pages that do not grow with the workflows; milliseconds with a million."""

from time import perf_counter

import pytest
import pytest_asyncio

from pgqrs import Rate
from pgqrs.storage.diagnosis.facts import why
from tests.support.parked import SIZES, plant_waiting
from tests.support.plans import Prepared, check_indexed, nodes, pages

QUEUE, FEW = "mail", 20_000

TABLES = "pgqrs_workflows, pgqrs_workflow_steps, pgqrs_waits, pgqrs_executors, pgqrs_workers, pgqrs_queues"

EACH_STATE = f"""
    WITH of_queue AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM pgqrs_workflows WHERE queue = '{QUEUE}')
    SELECT max(id) FILTER (WHERE ready_at IS NOT NULL), max(id) FILTER (WHERE executor IS NOT NULL)
    FROM pgqrs_workflows WHERE queue = '{QUEUE}'
"""


@pytest_asyncio.fixture
async def driver(schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver()
    await driver.execute(f"SET search_path = {schema}")
    yield driver
    await driver.close()


async def _plant(driver, count):
    """Plant ready, running and ended workflows of a queue, and workers that know a thousand names each."""
    await driver.execute(f"""
        INSERT INTO pgqrs_workflows (name, input, queue, partition_key, ready_at)
            SELECT 'w', '{{}}', '{QUEUE}', 'k' || n % 100, now() FROM generate_series(1, {count}) n;
        INSERT INTO pgqrs_workflows (name, input, queue, partition_key, status, output, completed_at, started_at, slot)
            SELECT 'w', '{{}}', '{QUEUE}', 'k' || n % 100, 'SUCCESS', '1', now(), now(), 'k' || n % 100
            FROM generate_series(1, {count}) n;
        INSERT INTO pgqrs_executors (id, host, pid, expires_at)
            SELECT gen_random_uuid(), 'h', n, now() + interval '1 h' FROM generate_series(1, 200) n;
        INSERT INTO pgqrs_workers (executor, id, names, batched, names_key, queues, concurrency)
            SELECT id, 1, ARRAY(SELECT 'name ' || n FROM generate_series(1, 1000) n) || ARRAY['w'], '{{}}', 5,
                '{{{QUEUE}}}', 100 FROM pgqrs_executors;
        UPDATE pgqrs_workflows SET status = 'RUNNING', ready_at = NULL, started_at = now(), slot = partition_key,
            epoch = 1, executor = (SELECT min(id::text)::uuid FROM pgqrs_executors)
            WHERE id IN (SELECT min(id) FROM pgqrs_workflows WHERE ready_at IS NOT NULL GROUP BY partition_key);
    """)


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.parametrize("count", [FEW, *SIZES[1:]])
async def test_why_uses_indexes_and_few_pages(admin, driver, count):
    store = await admin.store()
    prepared = Prepared(store, driver, why, {"workflow": 1})
    await prepared.prepare()
    await admin.set_queue(QUEUE, ordered=True, concurrency=1000, rate=Rate(10), partition_rate=Rate(1))
    await _plant(driver, 200)
    ids = await driver.fetchrow(EACH_STATE)
    few = max([pages(await prepared.plan(workflow=each)) for each in ids])
    await driver.execute("DELETE FROM pgqrs_workers; DELETE FROM pgqrs_executors")
    await _plant(driver, count // 3)
    await plant_waiting(driver, count // 3)
    ids = [*await driver.fetchrow(EACH_STATE), await driver.fetchval("SELECT max(workflow_id) FROM pgqrs_waits")]
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute(f"ANALYZE {TABLES}")
        for each in ids:
            plan = await prepared.plan(workflow=each)
            check_indexed(plan)
            scanned = {node.get("Relation Name") for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
            assert scanned <= {"pgqrs_executors", "pgqrs_workers", "pgqrs_queues", "pg_database"}
            assert pages(plan) <= 3 * few + 100, (state, each)
    for each in ids:
        took = []
        for _ in range(10):
            began = perf_counter()
            await admin.why(each)
            took.append(perf_counter() - began)
        assert min(took) < 0.05  # the others wait for a busy machine
