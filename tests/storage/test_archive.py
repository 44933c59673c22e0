"""The archive: the documents of deleted workflows, by month, and the results that handles read from them."""

import asyncio
import json
from datetime import timedelta

import pytest

from pgqrs import DatabaseError, PyWorkflow, Worker, step, workflow
from pgqrs.storage.retention import passes
from tests.support.retention import aged, left, passed, retention_of
from tests.support.waiting import no_hang, until


@step
async def odd(ctx: PyWorkflow) -> list[object]:
    return [1e300, -0.0, {"b": 1, "a": 2}]


@workflow
async def oddly(ctx: PyWorkflow) -> list[object]:
    return await odd(ctx)


@workflow
async def failing(ctx: PyWorkflow) -> None:
    raise ValueError("no")


async def partitions(sql):
    rows = await sql.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'pgqrs_archive'::regclass ORDER BY 1"
    )
    return [row["relname"] for row in rows]


async def test_archived_workflow_has_its_document_and_result(admin, sql):
    async with no_hang(), Worker(admin, [oddly, failing]):
        handle, failed = await admin.enqueue(oddly), await admin.enqueue(failing)
        result = await handle.result()
        with pytest.raises(ValueError, match="no"):
            await failed.result()
    texts = await sql.fetchrow("SELECT input::text, output::text FROM pgqrs_workflows WHERE id = $1", handle.id)
    await sql.execute(
        "UPDATE pgqrs_workflows SET created_at = '2026-03-01Z', completed_at = '2026-03-31 23:59:59Z'"
    )
    await admin.set_retention(archive=True)
    assert await passed(admin) == 2
    assert await left(sql) == []
    assert await partitions(sql) == ["pgqrs_archive_2026_03"]
    again = await admin.enqueue(oddly)
    assert again.id not in {handle.id, failed.id}
    assert await handle.result(timeout=5) == result
    assert repr((await handle.result())[1]) == "-0.0"
    with pytest.raises(ValueError, match="no"):
        await failed.result(timeout=5)
    document = json.loads(await sql.fetchval("SELECT document FROM pgqrs_archive WHERE id = $1", handle.id))
    assert (document["workflow"]["input"], document["workflow"]["output"]) == tuple(texts)
    assert [each["step_id"] for each in document["steps"]] == ["odd"]
    restored = await admin.import_workflow(await admin.export_workflow(failed.id), ids="keep")
    assert await admin.resume_workflow(restored.id)


async def test_waiting_handle_gets_the_result_from_the_archive(admin, sql):
    old = await aged(sql)
    waiting = asyncio.ensure_future((await admin.store()).reader.archived_result(old, None))
    assert await waiting is None
    state = await admin.loop_state()
    await sql.execute("UPDATE pgqrs_workflows SET status = 'PENDING', completed_at = NULL")
    result = asyncio.ensure_future(state.results.wait(old, None))
    await until(lambda: state.results._waiting)
    await sql.execute("UPDATE pgqrs_workflows SET status = 'SUCCESS', completed_at = now() - interval '31 d'")
    await admin.set_retention(archive=True)
    await passed(admin)
    async with no_hang():
        assert (await result).output == '"done"'


async def test_old_months_are_dropped(admin, sql):
    await aged(sql, 400)
    await aged(sql, 40)
    await admin.set_retention(archive=timedelta(days=200))
    await passed(admin)
    assert len(await partitions(sql)) == 2
    async with retention_of(admin) as steps:
        assert (await steps.look()).has_old_month
        await steps.drop_months()
        assert not (await steps.look()).has_old_month
    assert len(await partitions(sql)) == 1
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_archive") == 1


async def test_too_large_workflow_is_passed_over(admin, sql, caplog, monkeypatch):
    large = await aged(sql, 31)
    other = await aged(sql, 31)
    await sql.execute(
        "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.id = {large} THEN RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded'; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER refused BEFORE INSERT ON pgqrs_archive FOR EACH ROW EXECUTE FUNCTION refused()"
    )
    await admin.set_retention(archive=True)
    async with retention_of(admin) as steps:
        assert (await steps.step(passes.WORKFLOWS)).missing
        await sql.execute("UPDATE pgqrs_retention SET next_at = now()")
        for _ in range(4):  # 500, 62, 7 and 1 workflows
            with pytest.raises(DatabaseError):
                await steps.step(passes.WORKFLOWS)
        assert f"workflow {large} is too large" in caplog.text
        done = await until(lambda: steps.step(passes.WORKFLOWS))
        assert (done.deleted, await left(sql)) == (1, [large])
    assert other not in await left(sql)


async def test_missing_month_is_made_before_anything_is_deleted(admin, sql):
    old = [await aged(sql, days) for days in (100, 31)]
    await admin.set_retention(archive=True)
    async with retention_of(admin) as steps:
        done = await steps.step(passes.WORKFLOWS)
        assert (done.deleted, len(done.missing)) == (0, 2)
        assert await left(sql) == old
    assert await passed(admin) == 2
