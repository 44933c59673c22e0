"""The plans of batches: indexes alone, and pages that do not grow with the workflows that have ended."""

import pytest
import pytest_asyncio

from pgqrs.storage.batches.statements import form
from tests.support.plans import Prepared, check_indexed, pages

ENDED = 5_000


@pytest_asyncio.fixture
async def driver(schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver(sorting=False)
    await driver.execute(f"SET search_path = {schema}")
    yield driver
    await driver.close()


async def _plant_submissions(driver, count):
    await driver.execute(f"""
        INSERT INTO pgqrs_workflows (name, input, queue, priority, ready_at)
        SELECT 'w', '{{}}', 'q', n % 3, now() FROM generate_series(1, {count}) n
    """)


async def _plant_ended(driver):
    await driver.execute(f"""
        INSERT INTO pgqrs_workflows (name, input, queue, status, output, completed_at)
        SELECT 'w', '{{}}', 'q', 'SUCCESS', '1', now() FROM generate_series(1, {ENDED})
    """)


@pytest.mark.new_tables
@pytest.mark.plants_rows
async def test_formation_uses_indexes_and_few_pages(admin, driver, schema):
    given = {
        "names": ["w"], "runs": ["w/batch"], "sizes": [10], "withins": [60.0], "timeouts": [], "queues": ["q"],
        "sequence": f"{schema}.pgqrs_workflows_id_seq", "written_with": None, "new_token": 1,
    }  # fmt: skip
    formation = Prepared(await admin.store(), driver, form, given)
    await formation.prepare()
    await _plant_submissions(driver, 35)
    few = pages(await formation.plan())
    await _plant_ended(driver)
    for state in ("stale statistics", "analyzed"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows")
        plan = await formation.plan()
        check_indexed(plan)
        assert pages(plan) <= 2 * few + 50, state


@pytest.mark.new_tables
@pytest.mark.plants_rows
async def test_end_of_a_batch_reads_no_whole_table(driver):
    """The plans of the trigger are made on an empty table, and kept."""
    members = list(range(1, 11))
    for first in (0, 100, 200, 300, 400, 500, 600):
        ids = [first + each for each in members]
        await driver.execute(f"""
            INSERT INTO pgqrs_workflows (id, name, input, batch_id)
            SELECT n, 'w', '{{}}', {first + 50} FROM unnest('{{{",".join(map(str, ids))}}}'::bigint[]) n;
            INSERT INTO pgqrs_workflows (id, name, input, batch_id)
            VALUES ({first + 50}, 'w/batch', '{ids}', {first + 50});
        """)
        if first == 600:
            await driver.execute("SELECT setval('pgqrs_workflows_id_seq', 10000)")
            await _plant_ended(driver)
        async with driver.transaction():
            before = await _whole_scans(driver)
            await driver.execute(
                "UPDATE pgqrs_workflows SET status = 'SUCCESS', completed_at = now(), output = $1::text::json WHERE id = $2",
                str(members),
                first + 50,
            )
            assert await _whole_scans(driver) == before
    found = await driver.fetch(
        "SELECT id, output::text FROM pgqrs_workflows WHERE batch_id = 650 AND id <> 650 ORDER BY id"
    )
    assert [(each["id"], each["output"]) for each in found] == [(600 + each, str(each)) for each in members]


async def _whole_scans(driver):
    return await driver.fetchval(
        "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'pgqrs_workflows'::regclass"
    )
