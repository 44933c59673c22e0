"""The documents of workflows: exported, and imported with the same ids or with new ones."""

import json

import pytest
from cryptography.fernet import Fernet

from pgqrs import Admin, CodecMismatchError, ConfigurationError, KeyTakenError, PyWorkflow, Worker, step, workflow
from pgqrs.codecs.fernet import FernetCodec
from tests.support.families import double
from tests.support.retention import left
from tests.support.waiting import no_hang, until


@step
async def odd(ctx: PyWorkflow) -> list[float]:
    return [1e300, -0.0]


@workflow
async def talkative(ctx: PyWorkflow) -> list[object]:
    await ctx.set_event("stage", "begun")
    values = await odd(ctx)
    told = await ctx.receive("word")
    child = await ctx.start(double, 4)
    return [values, told, await child]


async def told(admin, **options):
    handle = await admin.options(**options).enqueue(talkative)
    await handle.send("word", {"b": 1, "a": [2]}, key="k")
    return handle


async def everything(sql):
    tables = ("pgqrs_workflows", "pgqrs_workflow_steps", "pgqrs_events", "pgqrs_messages", "pgqrs_attributes")
    own = {"pgqrs_messages": "(t.workflow_id, t.address, t.key, t.payload::text)"}
    return {
        each: [row[0] for row in await sql.fetch(f"SELECT ({own.get(each, 't')})::text FROM {each} t ORDER BY 1")]
        for each in tables
    }


async def emptied(sql):
    for each in ("workflows", "workflow_steps", "events", "messages", "attributes"):
        await sql.execute(f"DELETE FROM pgqrs_{each}")


async def test_tree_is_restored_as_it_was(admin, sql):
    async with no_hang(), Worker(admin, [talkative, double]):
        handle = await told(admin, key="once")
        result = await handle.result()
        await until(lambda: sql.fetchval("SELECT NOT bool_or(is_new) FROM pgqrs_messages"))
    await sql.execute(
        "INSERT INTO pgqrs_attributes VALUES ($1, $2, $3)", handle.id, ['e"u', "a,b"], '{"customer": {"n": 7}}'
    )
    document = json.loads(json.dumps(await admin.export_workflow(handle.id)))
    assert [each["workflow"]["name"] for each in document["children"]] == ["double"]
    before = await everything(sql)
    with pytest.raises(ConfigurationError, match="is not free"):
        await admin.import_workflow(document, ids="keep")
    with pytest.raises(KeyTakenError):
        await admin.import_workflow(document)
    assert await everything(sql) == before
    await emptied(sql)
    again = await admin.import_workflow(document, ids="keep")
    assert await everything(sql) == before
    assert (again.id, await handle.result(), await again.result()) == (handle.id, result, result)
    assert await handle.event("stage") == "begun"


async def test_new_ids_reach_steps_messages_and_children(admin, sql):
    async with no_hang(), Worker(admin, [talkative, double]):
        handle = await told(admin)
        await handle.result()
    document = await admin.export_workflow(handle.id)
    copy = await admin.import_workflow(document)
    (child,) = await sql.fetch("SELECT id FROM pgqrs_workflows WHERE parent_id = $1", copy.id)
    assert copy.id != handle.id
    assert await left(sql) == sorted({*await left(sql), handle.id, copy.id, child["id"]})
    addresses = await sql.fetch("SELECT address FROM pgqrs_workflow_steps WHERE workflow_id = $1", copy.id)
    assert {row["address"] for row in addresses if row["address"]} == {
        f"m/{copy.id}/word",
        f"c/{copy.id}/start/double:1",
    }
    assert repr(await copy.result()) == repr(await handle.result())
    other = await admin.export_workflow(copy.id)
    assert [each["step_id"] for each in other["steps"]] == [each["step_id"] for each in document["steps"]]


async def test_live_workflow_is_continued_only_on_request(admin, sql):
    async with no_hang(), Worker(admin, [talkative]):
        handle = await admin.enqueue(talkative)
        await until(lambda: sql.fetchval("SELECT status = 'WAITING' FROM pgqrs_workflows"))
    document = await admin.export_workflow(handle.id)
    with pytest.raises(ConfigurationError, match="a second time"):
        await admin.import_workflow(document)
    await emptied(sql)
    again = await admin.import_workflow(document, ids="keep", live=True)
    assert await again.status() == "PENDING"
    async with no_hang(), Worker(admin, [talkative, double]):
        await handle.send("word", 3)
        assert await again.result() == [[1e300, -0.0], 3, 8]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps WHERE step_id = 'odd'") == 1


async def test_import_in_a_session_is_all_or_nothing(admin, sessions, sql):
    async with no_hang(), Worker(admin, [double]):
        handle = await admin.enqueue(double, 1)
        await handle.result()
    document = await admin.export_workflow(handle.id)
    async with sessions() as session:
        copy = await admin.import_workflow(document, session=session)
        await session.rollback()
    assert copy.id not in await left(sql)
    async with sessions() as session, session.begin():
        copy = await admin.import_workflow(document, session=session)
    assert await copy.result() == 2


async def test_unusable_documents_are_refused(admin, sql, dsn, schema):
    handle = await admin.enqueue(double, 1)
    document = await admin.export_workflow(handle.id)
    for broken, said in (
        ({}, "no `format`"),
        ({**document, "format": 99}, "format 99"),
        ({**document, "workflow": {**document["workflow"], "colour": 1}}, "unknown fields: colour"),
        ({**document, "steps": [{"step_id": "s"}]}, "lacks fields"),
        ({**document, "steps": 7}, "not as"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            await admin.import_workflow(broken, live=True)
    far = {**document, "workflow": {**document["workflow"], "id": 10**12}}
    with pytest.raises(ConfigurationError, match="was not given out"):
        await admin.import_workflow(far, ids="keep", live=True)
    async with Admin(dsn, schema, codec=FernetCodec([Fernet.generate_key()])) as sealed:
        with pytest.raises(CodecMismatchError):
            await sealed.import_workflow(document, live=True)
