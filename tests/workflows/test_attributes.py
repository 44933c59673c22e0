"""Attributes and tags: given with a workflow in the statement that writes it, or set by its steps; fenced."""

import json

import pytest
from cryptography.fernet import Fernet

from pgqrs import (
    Admin,
    ConfigurationError,
    Every,
    InvalidNameError,
    PyWorkflow,
    SerializationError,
    WorkflowFencedError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec
from pgqrs.testing import crash_everywhere, run_enqueued

ODD = ("eu", 'quo"te', "back\\slash", "{a,b}", "NULL", "ünï 💡", " ")

GIVEN = {"customer": 7, "name": 'quo"te \\ {a}', "at": {"city": ["Köln", None, 1.5, True]}}


@workflow
async def plain(ctx: PyWorkflow, number: int = 0) -> int:
    return number


@workflow
async def starts(ctx: PyWorkflow) -> None:
    described = ctx.options(attributes=GIVEN, tags=("child",))
    children = [await described.start(plain, 1), await described.start_many(plain, [(2,), (3,)])]
    keyed = await ctx.options(attributes={"n": 1}, tags=("child", "keyed"), key="k").start(plain, 4)
    await ctx.start(plain, 5)
    await ctx.gather(*children, keyed)


@workflow
async def ships(ctx: PyWorkflow) -> None:
    await ctx.set_attributes(stage="packed", parcels=1)
    await ctx.add_tags("eu", "fragile")
    await ctx.set_attributes(stage="shipped")
    await ctx.add_tags("eu")
    await handed_over(ctx)


@step
async def handed_over(ctx: PyWorkflow) -> None:
    await ctx.set_attributes(handed={"by": "ann"})


async def found(admin, workflow_id):
    (record,) = [each for each in await admin.list_workflows(limit=1000) if each.id == workflow_id]
    return record.attributes, set(record.tags)


async def test_each_submission_may_have_attributes_and_tags(admin, sessions):
    options = {"attributes": GIVEN, "tags": ODD}
    handles = [
        await admin.options(**options).enqueue(plain),
        await admin.options(**options, key="k").enqueue(plain),
        await admin.options(**options, key="end", until="end").enqueue(plain),
        await admin.options(**options, partition_key="p").enqueue(plain),
        await admin.options(**options, unique="u").enqueue(plain),
        *await admin.options(**options).enqueue_many(plain, [(1,), (2,)], key=str),
    ]
    await admin.options(**options).run(plain)
    async with sessions() as session:
        handles += await admin.options(**options, session=session, partition_key="p").enqueue_many(plain, [(1,)])
        handles.append(await admin.options(**options, session=session, unique="v").enqueue(plain))
        await session.commit()
        gone = await admin.options(attributes={"gone": True}, session=session).enqueue(plain)
        await session.rollback()
    listed = await admin.list_workflows(tags=ODD, attributes=GIVEN)
    assert {*(each.id for each in handles)} < {each.id for each in listed}
    assert (len(listed), listed[0].attributes, set(listed[0].tags)) == (10, GIVEN, set(ODD))
    assert await admin.list_workflows(attributes={"gone": True}) == []
    assert gone.id not in {each.id for each in listed}
    again = await admin.options(key="k", attributes={"other": 1}).enqueue(plain)
    assert await found(admin, again.id) == (GIVEN, set(ODD))  # the workflow that has the key keeps its own
    await admin.options(unique="u", taken="return", tags="other").enqueue(plain)
    assert await found(admin, handles[4].id) == (GIVEN, set(ODD))
    replaced = await admin.options(unique="u", taken="replace", attributes={"new": 1}).enqueue(plain)
    assert (replaced.id, await found(admin, replaced.id)) == (handles[4].id, ({"new": 1}, set()))


async def test_children_may_have_attributes_and_tags(admin):
    handle = await admin.enqueue(starts)
    await run_enqueued(admin, [starts, plain])
    await handle.result()
    children = await admin.list_workflows(tags="child")
    assert [each.input["args"] for each in children if each.attributes == GIVEN] == [[3], [2], [1]]
    (keyed,) = await admin.list_workflows(tags=("keyed", "child"), attributes={"n": 1})
    assert keyed.input["args"] == [4]
    assert len(await admin.list_workflows(parent=handle.id)) == 5


async def test_steps_set_attributes_once_under_a_crash(pgqrs_admin):
    ids = set()

    @workflow
    async def crashing(ctx: PyWorkflow) -> None:
        ids.add(ctx.id())
        await ctx.set_attributes(stage="packed", parcels=1)
        await ctx.set_attributes(stage="shipped")

    await crash_everywhere(crashing, admin=pgqrs_admin)
    for each in ids:
        assert await found(pgqrs_admin, each) == ({"stage": "shipped", "parcels": 1}, set())


async def test_attributes_are_plain_with_a_sealing_codec(dsn, schema, admin, sql):
    async with Admin(dsn, schema, codec=FernetCodec([Fernet.generate_key()])) as sealing:
        handle = await sealing.options(attributes={"customer": 7}).enqueue(ships)
        await run_enqueued(sealing, [ships])
        expected = {"customer": 7, "stage": "shipped", "parcels": 1, "handed": {"by": "ann"}}
        assert await found(sealing, handle.id) == (expected, {"eu", "fragile"})
        steps = [each.step_id for each in await sealing.list_steps(handle.id)]
    assert {*steps} == {
        "set_attributes/parcels,stage:1", "add_tags/eu,fragile:1", "set_attributes/stage:1", "add_tags/eu:1",
        "handed_over/set_attributes/handed:1", "handed_over",
    }  # fmt: skip
    ((listed,), stored) = await admin.list_workflows(tags="fragile"), await sql.fetch("TABLE pgqrs_attributes")
    assert listed.attributes == expected == json.loads(stored[0]["attributes"])


async def test_a_stale_run_sets_no_attributes(admin, dsn, schema, sql):
    async with Admin(dsn, schema) as other:

        @workflow
        async def stale(ctx: PyWorkflow) -> None:
            await ctx.set_attributes(stage="first")
            await sql.execute("UPDATE pgqrs_executors SET stopped_at = now()")
            await (await other.get_workflow(ctx.id())).start()
            await ctx.set_attributes(stage="stale")

        with pytest.raises(WorkflowFencedError):
            await admin.run(stale)
        assert await found(admin, 1) == ({"stage": "first"}, set())


async def test_attributes_that_cannot_be_stored_are_refused(admin):
    for options, error in (
        ({"attributes": {"at": object()}}, SerializationError),
        ({"attributes": {"a": float("nan")}}, SerializationError),
        ({"attributes": {"a": "\x00"}}, SerializationError),
        ({"attributes": {1: "a"}}, SerializationError),
        ({"attributes": ["a"]}, TypeError),
        ({"tags": ("a", "")}, InvalidNameError),
        ({"tags": (5,)}, InvalidNameError),
    ):
        with pytest.raises(error):
            admin.options(**options)
    with pytest.raises(ConfigurationError, match="no attributes"):
        await admin.options(tags="a").schedule("s", Every(60), plain)
