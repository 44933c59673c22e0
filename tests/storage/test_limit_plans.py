"""The plan of a claim from a queue with limits: indexes alone, and pages that do not grow with the queue."""

import json
from uuid import UUID

import pytest
import pytest_asyncio

from pgqrs import Rate
from pgqrs.storage.limits.claims import claim_limited
from pgqrs.storage.queue_claims import lock_key

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


def _literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(json.dumps(each) for each in value) + "}'"
    return str(value) if isinstance(value, bool | int | float) else f"'{value}'"


def _nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


class Limited:
    """The statement, prepared in one session while the tables are empty."""

    def __init__(self, store, driver):
        self._compiled = store.database.compile(claim_limited)
        self._driver = driver
        self._lock = lock_key(store.database.schema, QUEUE)

    async def prepare(self):
        await self._driver.execute(f"PREPARE limited AS {self._compiled.text}")
        await self.plan()

    async def plan(self, **values):
        """Execute, roll back, and return the plan."""
        given = {
            "queue": QUEUE, "names": ["w", "v"], "codec": None, "limit": 100, "budget": 2**26, "avoid": [], "floor": 0,
            "lock": self._lock, "cursor": "", "ahead_keys": ["k1"], "ahead_by": [0.5], "token": 1, "executor": UUID(int=1),
        }  # fmt: skip
        arguments = ", ".join(_literal(each) for each in self._compiled.arguments(given | values))
        transaction = self._driver.transaction()
        await transaction.start()
        try:
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE limited({arguments})"
            found = await self._driver.fetchval(text)
        finally:
            await transaction.rollback()
        (top,) = json.loads(found) if isinstance(found, str) else found
        return top["Plan"]


def _pages(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def _check(plan):
    for node in _nodes(plan):
        if node.get("Relation Name") == "pgqrs_workflows" and "Scan" in node["Node Type"]:
            assert node["Node Type"] in {"Index Scan", "Index Only Scan"}, node
            assert "Index Cond" in node, node


@pytest.mark.plants_rows
@pytest.mark.parametrize("kind", ["slots", "rates", "not fair"])
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_a_large_key_uses_indexes_and_few_pages(admin, driver, queued, kind):
    limited = Limited(await admin.store(), driver)
    await limited.prepare()
    rates = {"rate": Rate(1000, burst=900), "partition_rate": Rate(9, burst=9)} if kind == "rates" else {}
    await admin.set_queue(QUEUE, concurrency=1000, partition_concurrency=5, fair=kind != "not fair", **rates)
    await _plant(driver, 3, 20)
    few = _pages(await limited.plan())
    await _plant(driver, 1, queued)
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows")
        plan = await limited.plan()
        _check(plan)
        assert _pages(plan) <= 3 * few + 50, state
    await driver.execute(
        "UPDATE pgqrs_workflows SET ready_at = NULL, status = 'RUNNING', executor = gen_random_uuid()"
        " WHERE id IN (SELECT id FROM pgqrs_workflows WHERE partition_key = 'k1' LIMIT 5)"
    )
    full = await limited.plan()
    _check(full)
    assert _pages(full) <= 3 * few + 50


@pytest.mark.plants_rows
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_holders_does_not_read_the_waiting_ones(admin, driver, queued):
    limited = Limited(await admin.store(), driver)
    await limited.prepare()
    await admin.set_queue(QUEUE, partition_concurrency=2, holds="until_end")
    await _plant(driver, 3, 20)
    few = _pages(await limited.plan())
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
        _check(plan)
        assert plan["Actual Rows"] == 4, state
        assert _pages(plan) <= 3 * few + 50, state


@pytest.mark.plants_rows
@pytest.mark.parametrize("queued", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
async def test_claim_of_an_ordered_queue_reads_the_heads_alone(admin, driver, queued):
    limited = Limited(await admin.store(), driver)
    await limited.prepare()
    await admin.set_queue(QUEUE, ordered=True)
    await _plant(driver, 3, 20)
    few = _pages(await limited.plan())
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
        _check(plan)
        assert plan["Actual Rows"] == 3, state
        assert _pages(plan) <= 3 * few + 50, state
