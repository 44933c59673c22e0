"""The hot path's statements go by the primary keys, whatever the tables held when they were planned."""

import itertools
import json
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event

from pgqrs.models import Step, Workflow
from pgqrs.storage import writes

TABLES = {Workflow.__tablename__, Step.__tablename__}
ROWS = 1_000_000
KINDS = ("create", "end", "start", "step")
BATCHES = [names for n in range(1, 5) for names in itertools.combinations(KINDS, n)]
BATCHES += [tuple(sorted((*names, "reopen"))) for names in BATCHES if "end" in names]


def _value(bind, n):
    """Return the n-th literal of an array for a bind."""
    column = bind.partition("_")[2]
    if column == "workflow_id":
        # New workflows lie beyond the table; the rest are spread over it, each kind in a part of its own.
        offset = {"create": ROWS, "start": 1, "step": 2, "end": 3, "reopen": 3, "asked": 4}[bind.partition("_")[0]]
        return str(offset + 1 + 10 * n if offset == ROWS else 100 * n + offset)
    return {"epoch": "1", "claim": str(UUID(int=n)), "elapsed": "0.5", "step_id": "s", "error": "NULL"}.get(
        column, "7"
    )


def _arguments(statement, size):
    arrays = ("{" + ",".join(_value(bind, n) for n in range(size)) + "}" for bind in statement.binds)
    return ", ".join(f"'{array}'" for array in arrays)


def _values(statement):
    return ", ".join(
        "NULL" if value == "NULL" else f"'{value}'" for value in (_value(b, 1) for b in statement.binds)
    )


def _nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _top(explained):
    """Return the plan; SQLAlchemy has its connections decode JSON already."""
    (top,) = json.loads(explained) if isinstance(explained, str) else explained
    return top


def _scans(explained):
    top = _top(explained)
    return [
        node for node in _nodes(top["Plan"]) if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]
    ]


async def _fill(connection, schema):
    await connection.execute(f"""
        INSERT INTO {schema}.pgqrs_workflows (name, status, epoch, input, output)
        SELECT 'w', 'RUNNING', 1, '{{}}', '1' FROM generate_series(1, {ROWS});
        INSERT INTO {schema}.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output)
        SELECT n, 's', 'ERROR', 0, now(), '1' FROM generate_series(1, {ROWS}) n;
    """)


async def test_no_statement_reads_a_large_table_from_end_to_end(dsn, schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver()
    reader = await asyncpg.connect(dsn, server_settings={"plan_cache_mode": "force_generic_plan"})
    reads = []

    def note(*told):
        if "workflow_steps" in told[2]:
            reads.append(told[2])

    engine = store.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await store.outcomes(1)
    event.remove(engine, "before_cursor_execute", note)
    (outcomes,) = reads
    try:
        # Planned while the tables are empty, as by a process that was there before the rows.
        statements = {names: store.journal._statement(names) for names in [*BATCHES, ("asked",)]}
        for kind in writes.KINDS.values():
            lone = store.journal._lone_statement(kind)
            await driver.execute(f"PREPARE lone_{kind.name} AS {lone.text}")
            await driver.execute(f"BEGIN; EXECUTE lone_{kind.name}({_values(lone)}); ROLLBACK")
        for number, statement in enumerate(statements.values()):
            await driver.execute(f"PREPARE hot_{number} AS {statement.text}")
            if number < 15:
                await driver.execute(f"BEGIN; EXECUTE hot_{number}({_arguments(statement, 2)}); ROLLBACK")
        await reader.execute(f"PREPARE outcomes AS {outcomes}")
        await reader.execute("EXECUTE outcomes(1, 'SUCCESS', 'ERROR')")
        await _fill(reader, schema)
        for state in ("stale statistics", "analyzed"):
            if state == "analyzed":
                await reader.execute(f"ANALYZE {schema}.pgqrs_workflows; ANALYZE {schema}.pgqrs_workflow_steps")
            for number, (names, statement) in enumerate(statements.items()):
                explained = await driver.fetchval(
                    f"EXPLAIN (FORMAT JSON) EXECUTE hot_{number}({_arguments(statement, 50)})"
                )
                scans = _scans(explained)
                assert scans or names == ("create",)
                for node in scans:
                    assert node["Node Type"] != "Seq Scan", (state, names, node)
                    assert "Index Cond" in str(node) or node["Node Type"] == "Tid Scan", (state, names, node)
            for kind in writes.KINDS.values():
                lone = store.journal._lone_statement(kind)
                explained = await driver.fetchval(
                    f"EXPLAIN (FORMAT JSON) EXECUTE lone_{kind.name}({_values(lone)})"
                )
                scans = _scans(explained)
                assert scans or kind.name == "create"
                for node in scans:
                    assert node["Node Type"] == "Index Scan", (state, kind.name, node)
            for node in _scans(
                await reader.fetchval("EXPLAIN (FORMAT JSON) EXECUTE outcomes(1, 'SUCCESS', 'ERROR')")
            ):
                assert node["Node Type"] != "Seq Scan", (state, node)
    finally:
        await reader.close()
        await driver.close()


@pytest.mark.parametrize("size", [50, 1000])
async def test_a_batch_touches_pages_in_proportion_to_its_rows(dsn, schema, admin, size):
    store = await admin.store()
    driver = await store.database.open_driver()
    try:
        await _fill(driver, schema)
        for number, names in enumerate([*BATCHES[:4], ("create", "end", "start", "step"), ("asked",)]):
            statement = store.journal._statement(names)
            await driver.execute(f"PREPARE hot_{number} AS {statement.text}")
            async with driver.transaction():
                explained = await driver.fetchval(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hot_{number}({_arguments(statement, size)})"
                )
            top = _top(explained)
            plan = top["Plan"]
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert pages < 60 * size, (names, pages)
            compared = max((node.get("Rows Removed by Join Filter", 0) for node in _nodes(plan)), default=0)
            assert compared <= 20 * size, (names, compared, top["Execution Time"])
    finally:
        await driver.close()
