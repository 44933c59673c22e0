"""Histories that earlier versions have recorded are replayed by this version.

`PGQRS_WRITE_HISTORY=0.17 .venv/bin/python -m pytest tests/workflows/test_golden_histories.py` writes the history of a
release, which no later version changes.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from pgqrs import PyWorkflow, Receive, Sleep, WaitTimeoutError, Worker, step, workflow
from tests.support.families import double
from tests.support.waiting import no_hang
from tests.support.workflows import Killed, note

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "histories"
VERSIONS = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
TABLES = ("pgqrs_workflows", "pgqrs_workflow_steps", "pgqrs_messages", "pgqrs_events")

executed: list[str] = []


@step
async def inner(ctx: PyWorkflow) -> dict:
    executed.append("inner")
    return {"ä": [1, 2.5, None, True, "\u2028"]}


@step
async def outer(ctx: PyWorkflow) -> dict:
    executed.append("outer")
    return await inner(ctx)


@step(retry=2)
async def broken(ctx: PyWorkflow) -> None:
    executed.append("broken")
    raise LookupError("no such order", 17)


@step
async def last(ctx: PyWorkflow) -> str:
    executed.append("last")
    return "end"


async def history(ctx: PyWorkflow) -> list:
    """Record each kind of step once."""
    found = [await outer(ctx), await note(ctx, "a:b/c"), await ctx.now(), await ctx.now(id="named")]
    try:
        await broken(ctx)
    except LookupError as error:
        found.append(str(error.args))
    await ctx.sleep(0)
    await ctx.set_event("status", "waits")
    await ctx.send(ctx.id(), "paid", 5)
    found.append(await ctx.receive("paid"))
    with pytest.raises(WaitTimeoutError):
        await ctx.receive("paid", timeout=0)
    found.append(await ctx.select(paid=Receive("paid"), late=Sleep(0)))
    found.append(await ctx.wait_event("closed", timeout=0, default="open"))
    child = await ctx.start(double, 4)
    many = await ctx.start_many(double, [(1,), (2,)])
    found += [await child, *await ctx.gather(many)]
    found += [await each async for each in ctx.as_completed(await ctx.start(double, 5))]
    found.append(await ctx.patched("new"))
    return [each.isoformat() if isinstance(each, datetime) else each for each in found]


@workflow(name="golden")
async def dying(ctx: PyWorkflow) -> None:
    remembered.append(await history(ctx))
    raise Killed


@workflow(name="golden", strict=True)
async def golden(ctx: PyWorkflow) -> list:
    return [await history(ctx), await last(ctx)]


remembered: list[list] = []


@pytest.mark.skipif("PGQRS_WRITE_HISTORY" not in os.environ, reason="it writes the history of a release")
async def test_history_of_this_version_is_written(admin, sql):
    ctx = await admin.create_workflow("golden")
    async with no_hang(), Worker(admin, [double]):
        with pytest.raises(Killed):
            await dying(ctx)
    await sql.execute("UPDATE pgqrs_workflows SET status = 'PENDING', executor = NULL WHERE id = $1", ctx.id())
    lines = [json.dumps(remembered[-1])]
    for table in TABLES:
        rows = await sql.fetch(f"SELECT to_json(t)::text AS row FROM {table} t ORDER BY 1")
        # As text, whose blanks count; a recorded traceback names files, and no folder of this machine.
        lines += [json.dumps([table, each["row"].replace(f"{ROOT}/", "")]) for each in rows]
    path = FOLDER / f"{os.environ['PGQRS_WRITE_HISTORY']}.jsonl"
    path.write_text("".join(f"{each}\n" for each in lines))


@pytest.mark.parametrize("version", VERSIONS)
def test_history_names_no_folder_of_a_machine(version):
    assert 'File \\\\\\"/' not in (FOLDER / f"{version}.jsonl").read_text()


@pytest.mark.parametrize("version", VERSIONS)
async def test_history_of_an_earlier_version_is_replayed(admin, sql, version):
    result, *rows = map(json.loads, (FOLDER / f"{version}.jsonl").read_text().splitlines())
    for table, row in rows:
        names = ", ".join(json.loads(row))
        await sql.execute(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_record(NULL::{table}, $1)", row
        )
    for table in ("pgqrs_workflows", "pgqrs_messages"):
        await sql.execute(f"ALTER TABLE {table} ALTER COLUMN id RESTART WITH 100")
    # The function reads a null as no value.
    await sql.execute(
        "UPDATE pgqrs_workflow_steps SET output = 'null' WHERE status = 'SUCCESS' AND output IS NULL"
    )
    workflow_id = await sql.fetchval("SELECT id FROM pgqrs_workflows WHERE name = 'golden'")
    executed.clear()
    async with no_hang():
        assert await golden(await admin.get_workflow(workflow_id)) == [result, "end"]
    assert executed == ["last"]


def test_there_is_a_history_of_each_release():
    assert VERSIONS == ["0.16"]
