"""`pgqrs.models` in an application's own queries: its session, its tables, the default schema and another."""

from __future__ import annotations

import pytest
import pytest_asyncio
from sqlalchemy import BigInteger, event, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    contains_eager,
    foreign,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

from pgqrs import Admin, PyWorkflow, step, workflow
from pgqrs.models import SCHEMA, Step, Workflow
from tests.support.database import engine_on


@step
async def reserve(ctx: PyWorkflow, number: str) -> str:
    return f"reserved {number}"


@step
async def charge(ctx: PyWorkflow, number: str) -> int:
    if number == "unpaid":
        raise ValueError("no money")
    return 100


@step(key=lambda parcel: parcel)
async def ship(ctx: PyWorkflow, parcel: str) -> str:
    return parcel


@workflow
async def fulfil(ctx: PyWorkflow, number: str) -> str:
    await reserve(ctx, number)
    await charge(ctx, number)
    return await ship(ctx, "only")


STEPS = ["reserve", "charge", "ship:only"]


class AppBase(DeclarativeBase): ...


class Order(AppBase):
    __tablename__ = "orders"

    number: Mapped[str] = mapped_column(primary_key=True)
    workflow_id: Mapped[int] = mapped_column(BigInteger)

    workflow: Mapped[Workflow] = relationship(
        Workflow, primaryjoin=lambda: foreign(Order.workflow_id) == Workflow.id, viewonly=True
    )


@pytest_asyncio.fixture(params=[SCHEMA, "An other.schema"])
async def pgqrs_schema(request):
    return request.param


@pytest_asyncio.fixture
async def app_engine(own_database):
    engine = engine_on(own_database)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def orders(app_engine, pgqrs_schema):
    """The application's table in "public", and a workflow for each order, run to its end."""
    async with app_engine.begin() as connection:
        await connection.run_sync(AppBase.metadata.create_all)
    async with Admin(app_engine, pgqrs_schema) as admin:
        await admin.install()
        ids = {number: await _fulfilled(admin, number) for number in ("paid", "unpaid", "paid too")}
        async with AsyncSession(app_engine) as session, session.begin():
            session.add_all(Order(number=number, workflow_id=id_) for number, id_ in ids.items())
        yield ids
        await admin.verify(deep=True)


async def _fulfilled(admin, number):
    ctx = await admin.create_workflow("fulfil", number)
    try:
        await fulfil(ctx, number)
    except ValueError:
        assert number == "unpaid"
    return ctx.id()


@pytest_asyncio.fixture
async def session(app_engine, pgqrs_schema):
    """A session as the documentation makes it."""
    mapped = app_engine.execution_options(schema_translate_map={SCHEMA: pgqrs_schema})
    async with AsyncSession(mapped) as session:
        yield session


def statements_of(engine):
    sent = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    return sent


async def test_selectinload_returns_steps_in_start_order(session, orders):
    query = select(Workflow).where(Workflow.id == orders["paid"]).options(selectinload(Workflow.steps))
    found = (await session.scalars(query)).one()
    assert (found.status, found.input, found.output) == ("SUCCESS", {"args": ["paid"], "kwargs": {}}, "only")
    assert [step.step_id for step in found.steps] == STEPS
    assert [step.output for step in found.steps] == ["reserved paid", 100, "only"]


async def test_the_workflow_of_a_loaded_step_costs_no_query(session, orders, app_engine):
    query = select(Workflow).where(Workflow.id == orders["paid"]).options(selectinload(Workflow.steps))
    found = (await session.scalars(query)).one()
    sent = statements_of(app_engine)
    assert {step.workflow for step in found.steps} == {found}
    assert sent == []


async def test_selectinload_of_many_workflows_sends_two_queries(session, orders, app_engine):
    sent = statements_of(app_engine)
    query = select(Workflow).options(selectinload(Workflow.steps)).order_by(Workflow.id)
    found = (await session.scalars(query)).all()
    assert [len(workflow.steps) for workflow in found] == [3, 2, 3]
    assert len([statement for statement in sent if "pgqrs_" in statement]) == 2


@pytest.mark.parametrize("load", [selectinload, joinedload])
async def test_step_loads_its_workflow(session, orders, load):
    query = select(Step).where(Step.status == "ERROR").options(load(Step.workflow))
    found = (await session.scalars(query)).one()
    assert (found.step_id, found.workflow.id, found.workflow.status) == ("charge", orders["unpaid"], "ERROR")


async def test_workflow_joins_with_application_tables(session, orders):
    query = (
        select(Order.number, Workflow.status, func.count(Step.step_id))
        .join(Workflow, Workflow.id == Order.workflow_id)
        .join(Workflow.steps)
        .group_by(Order.number, Workflow.status)
        .order_by(Order.number)
    )
    found = [tuple(row) for row in await session.execute(query)]
    assert found == [("paid", "SUCCESS", 3), ("paid too", "SUCCESS", 3), ("unpaid", "ERROR", 2)]


async def test_application_relationship_loads_workflow_and_steps(session, orders):
    query = select(Order).order_by(Order.number).options(selectinload(Order.workflow).selectinload(Workflow.steps))
    found = (await session.scalars(query)).all()
    assert [order.workflow.status for order in found] == ["SUCCESS", "SUCCESS", "ERROR"]
    assert [step.step_id for step in found[0].workflow.steps] == STEPS


async def test_contains_eager_loads_joined_steps(session, orders):
    query = (
        select(Workflow).join(Workflow.steps).where(Step.status == "ERROR").options(contains_eager(Workflow.steps))
    )
    found = (await session.scalars(query)).unique().one()
    assert [step.step_id for step in found.steps] == ["charge"]


async def test_relationships_support_any_and_has(session, orders):
    failed = select(Workflow.id).where(Workflow.steps.any(Step.status == "ERROR"))
    assert (await session.scalars(failed)).all() == [orders["unpaid"]]
    of_failed = select(Step.step_id).where(Step.workflow.has(status="ERROR")).order_by(Step.started_at)
    assert (await session.scalars(of_failed)).all() == STEPS[:2]


async def test_run_sync_loads_steps_lazily(session, orders):
    def read(sync_session):
        return [step.step_id for step in sync_session.get_one(Workflow, orders["paid"]).steps]

    assert await session.run_sync(read) == STEPS


async def test_schema_map_of_one_statement_reaches_loader_queries(app_engine, orders, pgqrs_schema):
    """In a session that has already run SQL of its own; the loader's queries follow."""
    async with AsyncSession(app_engine) as session, session.begin():
        assert await session.scalar(select(func.count()).select_from(Order)) == 3
        query = select(Order).options(selectinload(Order.workflow).selectinload(Workflow.steps))
        options = {"schema_translate_map": {SCHEMA: pgqrs_schema}}
        found = (await session.scalars(query, execution_options=options)).all()
        assert sorted(len(order.workflow.steps) for order in found) == [2, 3, 3]


async def test_changing_the_relationship_writes_nothing(session, orders, app_engine):
    query = select(Workflow).where(Workflow.id == orders["paid"]).options(selectinload(Workflow.steps))
    found = (await session.scalars(query)).one()
    sent = statements_of(app_engine)
    found.steps.clear()
    await session.commit()
    assert not [statement for statement in sent if not statement.startswith(("SELECT", "BEGIN", "COMMIT"))]
    await session.refresh(found, ["steps"])
    assert [step.step_id for step in found.steps] == STEPS


def test_the_tables_have_no_foreign_key():
    """The relationship is the mapper's alone."""
    assert not Step.__table__.foreign_keys
