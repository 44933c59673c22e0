"""Lists and counts of workflows: each condition, stable pages, and rows that cannot be read."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Column, Integer, MetaData, Table, select

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    PyWorkflow,
    SerializationError,
    Unreadable,
    Worker,
    WorkflowFilter,
    WorkflowStatus,
    workflow,
)
from pgqrs.codecs import FernetCodec
from pgqrs.models import Workflow
from pgqrs.storage.selection import pages


@workflow
async def alpha(ctx: PyWorkflow, number: int = 0) -> int:
    return number


@workflow
async def beta(ctx: PyWorkflow) -> None:
    raise ValueError('card declined: 100 % "bad" \\ Ünï')


DESCRIBED = "INSERT INTO pgqrs_attributes (workflow_id, tags, attributes) VALUES ($1, $2, $3)"


async def ids_of(admin, *args, **conditions):
    return [each.id for each in await admin.list_workflows(*args, **conditions)]


async def test_each_condition_selects_its_workflows(admin, sql):
    await admin.run(alpha)  # 1
    with pytest.raises(ValueError, match="declined"):
        await admin.run(beta)  # 2
    await admin.options(key="k", queue="eu", partition_key="p").enqueue(alpha, 3)
    await admin.options(key="k", queue="us").enqueue(beta)
    await admin.cancel_workflow((await admin.enqueue(alpha)).id)
    await sql.execute("UPDATE pgqrs_workflows SET parent_id = 1, parent_step = 's', place = 0 WHERE id = 2")
    await sql.execute("UPDATE pgqrs_workflows SET created_at = now() - interval '1 d' WHERE id = 4")
    await sql.execute("UPDATE pgqrs_workflows SET completed_at = now() - interval '1 d' WHERE id = 2")
    await sql.execute(
        DESCRIBED, 3, ["eu", "gold"], json.dumps({"customer": 7, "address": {"country": "DE", "n": 1}})
    )
    await sql.execute(DESCRIBED, 4, ["us"], json.dumps({"customer": 8}))
    ago = datetime.now(UTC) - timedelta(hours=1)
    expected = [
        ({"name": "alpha"}, [5, 3, 1]),
        ({"name": ["alpha", "beta"], "status": ["ERROR", "CANCELLED"]}, [5, 2]),
        ({"status": "PENDING"}, [4, 3]),
        ({"status": "RUNNING"}, []),
        ({"queue": ["eu", "us"]}, [4, 3]),
        ({"key": "k"}, [4, 3]),
        ({"key": "k", "name": "alpha"}, [3]),
        ({"key": "k", "name": "alpha", "queue": "us"}, []),
        ({"partition_key": "p"}, [3]),
        ({"parent": 1}, [2]),
        ({"tags": ("eu", "gold")}, [3]),
        ({"tags": ("eu", "us")}, []),
        ({"any_tags": ("eu", "us")}, [4, 3]),
        ({"attributes": {"customer": 7}}, [3]),
        ({"attributes": {"address": {"country": "DE"}}, "tags": "eu", "name": "alpha"}, [3]),
        ({"attributes": {"customer": 7}, "status": "SUCCESS"}, []),
        ({"error": 'DECLINED: 100 % "bad" \\ ünï'}, [2]),
        ({"error": "100_"}, []),
        ({"created": (None, ago)}, [4]),
        ({"created": (ago, None), "status": "PENDING"}, [3]),
        ({"completed": (None, ago)}, [2]),
        ({"completed": (ago, datetime.now(UTC) + timedelta(hours=1))}, [5, 1]),
        ({"where": Workflow.id.in_([1, 2, 3]) & (Workflow.epoch > 0), "name": "beta"}, [2]),
    ]
    for conditions, ids in expected:
        assert await ids_of(admin, **conditions) == ids, conditions
        assert sum(each.number for each in await admin.count_workflows(**conditions)) == len(ids), conditions
    assert [(each.name, each.status, each.number) for each in await admin.count_workflows()] == [
        ("alpha", "CANCELLED", 1), ("alpha", "PENDING", 1), ("alpha", "SUCCESS", 1),
        ("beta", "ERROR", 1), ("beta", "PENDING", 1),
    ]  # fmt: skip
    (found,) = await admin.list_workflows(tags="gold")
    assert (found.tags, found.attributes) == (
        ("eu", "gold"),
        {"customer": 7, "address": {"country": "DE", "n": 1}},
    )


async def test_where_may_join_other_tables_by_a_subquery(admin, sql, schema):
    orders = Table("orders", MetaData(schema=schema), Column("workflow_id", Integer), Column("customer", Integer))
    await sql.execute("CREATE TABLE orders (workflow_id bigint, customer int); INSERT INTO orders VALUES (2, 7)")
    for _ in range(3):
        await admin.enqueue(alpha)
    own = select(orders.c.workflow_id).where(orders.c.customer == 7)
    assert await ids_of(admin, where=Workflow.id.in_(own)) == [2]
    exists = select(orders).where(orders.c.workflow_id == Workflow.id).exists()
    assert await ids_of(admin, where=~exists, name="alpha") == [3, 1]
    with pytest.raises(ConfigurationError, match=r"has test_.*\.orders\. Use a subquery"):
        await admin.list_workflows(where=orders.c.customer == 7)
    await sql.execute("DROP TABLE orders")


@pytest.mark.parametrize("searched", [3, 100_000])
async def test_pages_are_stable_while_workflows_are_added(admin, sql, monkeypatch, searched):
    monkeypatch.setattr(pages, "SEARCHED", searched)
    monkeypatch.setattr(pages, "LOOKED_UP", searched)
    handles = await admin.enqueue_many(alpha, [(number,) for number in range(12)])
    there = [each.id for each in reversed(handles)]
    for handle in handles:
        await sql.execute(DESCRIBED, handle.id, ["all"], json.dumps({"even": handle.id % 2 == 0}))
    even = [each for each in there if each % 2 == 0]
    cases = [({}, there), ({"name": "alpha"}, there), ({"attributes": {"even": True}}, even),
             ({"tags": "all", "where": Workflow.id % 2 == 0}, even), ({"where": Workflow.id % 2 == 0}, even)]  # fmt: skip
    for conditions, expected in cases:
        found, after = [], None
        for _ in range(20):
            page = await admin.list_workflows(after=after, limit=2, **conditions)
            found += [each.id for each in page]
            await admin.enqueue(alpha, 99)  # newer ones do not shift the pages
            if (after := page.next) is None:
                break
        assert after is None
        assert found[-len(expected) :] == expected  # the first page may have newer ones, of the case before
        assert len(set(found)) == len(found)


async def test_a_page_shows_rows_that_cannot_be_read(admin, dsn, schema, sql):
    async with Admin(dsn, schema, codec=FernetCodec([Fernet.generate_key()])) as sealing:
        await sealing.enqueue(alpha, 1)
    await admin.enqueue(alpha, 2)
    await admin.enqueue(alpha, 3)
    await sql.execute("""UPDATE pgqrs_workflows SET error = '"edited"', created_at = 'infinity' WHERE id = 2""")
    await sql.execute("INSERT INTO pgqrs_attributes VALUES (2, ARRAY[NULL, 'a'], '{\"n\": 1e5000}')")
    *_, sealed = page = await admin.list_workflows()
    assert [each.id for each in page] == [3, 2, 1]
    assert page[0].input == {"args": [3], "kwargs": {}}
    assert page[1].created_at.year == 9999
    assert page[1].attributes == {"n": float("inf")}
    assert isinstance(sealed.input, Unreadable)
    assert "CodecMismatchError" in sealed.input.error


@pytest.mark.plants_rows
async def test_a_status_of_another_program_is_shown_as_it_is(admin, sql):
    handle = await admin.enqueue(alpha, 1)
    step = "(workflow_id, step_id, status, started_at, epoch) VALUES (1, 's', 'ASLEEP', now(), 0)"
    await sql.execute("UPDATE pgqrs_workflows SET status = 'STOPPED', ready_at = NULL")
    await sql.execute(f"INSERT INTO pgqrs_workflow_steps {step}")
    (record,) = await admin.list_workflows()
    assert isinstance(record.status, WorkflowStatus)
    assert record.status == (await handle.status()) == (await admin.why(1)).status == "STOPPED"
    assert [each.status for each in await admin.list_steps(1)] == ["ASLEEP"]
    assert list(await admin.count_workflows()) == [("alpha", "STOPPED", 1)]
    assert (await admin.export_workflow(1))["workflow"]["status"] == "STOPPED"
    await admin.cancel_workflow(1)


@pytest.mark.plants_rows
async def test_saga_state_of_another_program_stops_no_worker(admin, sql):
    handles = await admin.enqueue_many(alpha, [(1,), (2,)])
    await sql.execute("UPDATE pgqrs_workflows SET saga_state = 'BEGUN' WHERE id = 1")
    async with Worker(admin, [alpha]):
        assert [await each.result(timeout=30) for each in handles] == [1, 2]


async def test_conditions_that_cannot_be_meant_are_refused(admin):
    refused = [
        ({"created": (datetime.now(UTC).replace(tzinfo=None), None)}, ConfigurationError, "aware"),
        ({"created": datetime.now(UTC)}, TypeError, "tuple of two datetimes"),
        ({"tags": ("",)}, InvalidNameError, "invalid tag"),
        ({"attributes": [7]}, TypeError, "must be a mapping"),
        ({"attributes": {"at": datetime.now(UTC)}}, SerializationError, r"at \$.at: datetime"),
        ({"where": "id > 5"}, TypeError, "an SQLAlchemy condition"),
        ({"status": "WRONG"}, ValueError, "WRONG"),
        ({"parent": "1"}, TypeError, "`parent` must be an int"),
        ({"error": 5}, TypeError, "`error` must be a str"),
        ({"colour": "red"}, TypeError, "colour"),
    ]
    for conditions, error, said in refused:
        with pytest.raises(error, match=said):
            await admin.list_workflows(**conditions)
        with pytest.raises(error, match=said):
            await admin.count_workflows(**conditions)
    with pytest.raises(ConfigurationError, match="set name in the filter"):
        await admin.list_workflows(WorkflowFilter(), name="alpha")
