"""The plan of a claim from a queue with limits: indexes alone, and pages that do not grow with the queue."""

from uuid import UUID

import pytest
import pytest_asyncio

from pgqrs import Rate
from pgqrs.storage.limits.claims import claim_limited
from pgqrs.storage.queue_claims import lock_key
from tests.support.plans import Prepared, check_indexed, nodes, pages

QUEUE, MANY, FEW = "mail", 200_000, 2_000


@pytest_asyncio.fixture
async def driver(schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver(sorting=False)
    await driver.execute(f"SET search_path = {schema}")
    yield driver
    await driver.close()


async def _plant(driver, keys, each, *, key="k"):
    await driver.execute(f"""
        INSERT INTO pgqrs_workflows (name, input, queue, partition_key, priority, ready_at)
        SELECT 'w', '{{}}', '{QUEUE}', '{key}' || k, n % 3, now()
        FROM generate_series(1, {keys}) k, generate_series(1, {each}) n
    """)


def _limited(store, driver):
    given = {
        "queue": QUEUE, "names": ["w", "v"], "codec": None, "limit": 100, "budget": 2**26, "avoid": [], "floor": 0,
        "lock": lock_key(store.database.schema, QUEUE), "cursor": "", "ahead": '{"k1": 0.5}', "token": 1, "executor": UUID(int=1),
    }  # fmt: skip
    return Prepared(store, driver, claim_limited, given)


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.parametrize("kind", ["slots", "rates", "not fair"])
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_a_large_key_uses_indexes_and_few_pages(admin, driver, queued, kind):
    limited = _limited(await admin.store(), driver)
    await limited.prepare()
    rates = {"rate": Rate(1000, burst=900), "partition_rate": Rate(9, burst=9)} if kind == "rates" else {}
    await admin.set_queue(QUEUE, concurrency=1000, partition_concurrency=5, fair=kind != "not fair", **rates)
    await _plant(driver, 3, 20)
    few = pages(await limited.plan())
    await _plant(driver, 1, queued)
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows")
        plan = await limited.plan()
        check_indexed(plan)
        assert pages(plan) <= 3 * few + 50, state
    await driver.execute(
        "UPDATE pgqrs_workflows SET ready_at = NULL, status = 'RUNNING', executor = gen_random_uuid()"
        " WHERE id IN (SELECT id FROM pgqrs_workflows WHERE partition_key = 'k1' LIMIT 5)"
    )
    full = await limited.plan()
    check_indexed(full)
    assert pages(full) <= 3 * few + 50


@pytest.mark.new_tables
@pytest.mark.plants_rows
async def test_claim_passes_over_no_rows_of_a_key_that_had_all(admin, driver):
    """The statistics are of a time at which no other key had workflows, and the statement is prepared after it."""
    await admin.set_queue(QUEUE, partition_concurrency=1)
    await _plant(driver, 1, 10 * FEW, key="large")
    await driver.execute("ANALYZE pgqrs_workflows")
    await _plant(driver, 3, 20)
    limited = _limited(await admin.store(), driver)
    await limited.prepare()
    plan = await limited.plan()
    check_indexed(plan)
    assert sum(node.get("Rows Removed by Filter", 0) for node in nodes(plan)) < FEW


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_holders_does_not_read_the_waiting_ones(admin, driver, queued):
    limited = _limited(await admin.store(), driver)
    await limited.prepare()
    await admin.set_queue(QUEUE, partition_concurrency=2, holds="until_end")
    await _plant(driver, 3, 20)
    few = pages(await limited.plan())
    await _plant(driver, 1, queued)
    await driver.execute(f"""
        INSERT INTO pgqrs_workflows (name, input, queue, partition_key, slot, started_at, status, due_at)
        SELECT 'w', '{{}}', '{QUEUE}', 'waiting' || k, 'waiting' || k, now(), 'WAITING', now() + interval '1 h'
        FROM generate_series(1, {queued}) k
    """)
    await driver.execute(
        "UPDATE pgqrs_workflows SET started_at = now(), slot = partition_key WHERE id IN ("
        "SELECT id FROM pgqrs_workflows WHERE partition_key = 'k1' ORDER BY id DESC LIMIT 2)"
    )
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows")
        plan = await limited.plan(limit=4)
        check_indexed(plan)
        assert plan["Actual Rows"] == 4, state
        assert pages(plan) <= 3 * few + 50, state


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_an_ordered_queue_reads_the_heads_alone(admin, driver, queued):
    limited = _limited(await admin.store(), driver)
    await limited.prepare()
    await admin.set_queue(QUEUE, ordered=True)
    await _plant(driver, 3, 20)
    few = pages(await limited.plan())
    await _plant(driver, 1, queued, key="blocked")
    await driver.execute(
        "UPDATE pgqrs_workflows SET started_at = now(), slot = partition_key, ready_at = NULL, status = 'WAITING',"
        " due_at = now() + interval '1 h' WHERE position ="
        " (SELECT min(position) FROM pgqrs_workflows WHERE partition_key = 'blocked1')"
    )
    await _plant(driver, 1, queued, key="late")
    await driver.execute(
        "UPDATE pgqrs_workflows SET ready_at = NULL, due_at = now() + interval '1 h' WHERE position ="
        " (SELECT min(position) FROM pgqrs_workflows WHERE partition_key = 'late1')"
    )
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows")
        plan = await limited.plan()
        check_indexed(plan)
        assert plan["Actual Rows"] == 3, state
        assert pages(plan) <= 3 * few + 50, state
