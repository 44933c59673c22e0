"""Misuse of the session of a transactional step is a clear error, and nothing is recorded."""

from __future__ import annotations

from itertools import product

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from pgqrs import Admin, RetryPolicy, SessionError, TransientError, step, workflow
from tests.support.database import engine_on
from tests.support.recorded import steps as recorded
from tests.support.shop import Payment
from tests.support.waiting import no_hang

SOON = RetryPolicy(attempts=3, initial=0.01, jitter=0)


@pytest_asyncio.fixture
async def shop(dsn, schema, app, sessions):
    """An `Admin` that makes the sessions of steps on the application's engine."""
    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(app)) as it:
        yield it


async def write(ctx, order):
    """Write a payment through the step's session."""
    ctx.session.add(Payment(order=order, amount=1))
    await ctx.session.flush()


async def on_disk(sql):
    """Return the orders that are paid, over a connection of the test's own."""
    return [row["order_number"] for row in await sql.fetch("SELECT order_number FROM payments ORDER BY id")]


class Tried:
    """A workflow of one transactional step, which is tried again where it may be, and how often it was called."""

    def __init__(self, body):
        self.calls = 0

        @step(transactional=True, retry=SOON)
        async def misuse(ctx):
            self.calls += 1
            await body(ctx)

        @workflow
        async def misusing(ctx):
            await misuse(ctx)

        self.workflow = misusing

    async def refused(self, admin, sql, match):
        """Run it, and see that it is refused at once and that nothing is recorded of its step."""
        ctx = await admin.create_workflow("misusing")
        async with no_hang():
            with pytest.raises(SessionError, match=match):
                await self.workflow(ctx)
        # A mark that the step is running, which takes long on a busy machine, is no record.
        assert set((await recorded(sql, ctx)).values()) <= {"RUNNING"}


async def _commit_of_connection(ctx):
    await (await ctx.session.connection()).commit()


async def _commit_as_sql(ctx):
    await ctx.session.execute(text("COMMIT"))


async def _commit_as_sql_of_the_driver(ctx):
    raw = await (await ctx.session.connection()).get_raw_connection()
    await raw.driver_connection.execute("COMMIT")


async def _commit_in_a_savepoint(ctx):
    await ctx.session.begin_nested()
    await write(ctx, 2)
    await ctx.session.commit()


async def _rollback_of_connection(ctx):
    await (await ctx.session.connection()).rollback()


async def _raises(_ctx):
    raise TransientError("try me again")


async def _rolls_back(ctx):
    await ctx.session.rollback()


async def _writes_more(ctx):
    await write(ctx, 3)


async def _returns(_ctx):
    pass


@pytest.mark.parametrize("then", [_returns, _raises, _rolls_back, _writes_more])
@pytest.mark.parametrize("swallows", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize(
    ("how", "written"),
    [
        (_commit_of_connection, []),
        (_commit_in_a_savepoint, []),
        (_commit_as_sql, [1]),
        (_commit_as_sql_of_the_driver, [1]),
    ],
)
async def test_foreign_commit_is_an_error_and_not_retried(shop, sql, *, how, written, swallows, then):
    async def body(ctx):
        await write(ctx, 1)
        try:
            await how(ctx)
        except SessionError:
            if not swallows:
                raise
        await then(ctx)

    tried = Tried(body)
    await tried.refused(shop, sql, "must not (commit|end the transaction of) ctx.session")
    assert tried.calls == 1
    # One statement more, where the driver was told behind SQLAlchemy's back: it is what shows that.
    late = how is _commit_as_sql_of_the_driver and then is _writes_more
    assert await on_disk(sql) == ([1, 3] if late else written)


async def test_refused_commit_leaves_nothing_in_the_connection(dsn, schema, sessions, sql):
    engine = engine_on(dsn, schema, pool_size=1, max_overflow=0)

    async def body(ctx):
        await write(ctx, 1)
        try:
            await _commit_of_connection(ctx)
        finally:
            await ctx.session.close()

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin:
        await Tried(body).refused(admin, sql, "must not commit")
        async with AsyncSession(engine) as session, session.begin():
            session.add(Payment(order=2, amount=1))
    await engine.dispose()
    assert await on_disk(sql) == [2]


@pytest.mark.parametrize("then", [_returns, _writes_more])
async def test_rollback_on_the_connection_is_an_error(shop, sql, then):
    async def body(ctx):
        await write(ctx, 1)
        await _rollback_of_connection(ctx)
        await then(ctx)

    await Tried(body).refused(shop, sql, "must not end the transaction")
    assert await on_disk(sql) == []


async def test_ordinary_step_errors_are_not_reported_as_misuse(shop, sessions, sql):
    """Neither leaves the driver in a transaction that goes on, and neither is misuse."""

    @step(transactional=True)
    async def connects(ctx):
        await ctx.session.connection()
        raise ValueError("after all not")

    @step(transactional=True)
    async def fails(ctx):
        await write(ctx, 1)
        await write(ctx, None)

    ctx = await shop.create_workflow("own errors")
    with pytest.raises(ValueError, match="after all not"):
        await connects(ctx)
    with pytest.raises(IntegrityError):
        await fails(ctx)
    assert await recorded(sql, ctx) == {"connects": "ERROR", "fails": "ERROR"}
    await ctx.fail("the end")


@pytest.mark.parametrize("then", [_returns, _writes_more])
@pytest.mark.parametrize("how", ["statement", "flush"])
async def test_swallowed_transaction_failure_is_an_error(shop, sql, how, then):
    async def body(ctx):
        await write(ctx, 1)
        try:
            if how == "statement":
                await ctx.session.execute(text("SELECT 1 / 0"))
            else:
                await write(ctx, None)
        except Exception:
            pass
        if then is _writes_more:
            ctx.session.add(Payment(order=3, amount=1))  # which is flushed with the outcome

    tried = Tried(body)
    await tried.refused(shop, sql, "failed already|cannot be used")
    assert tried.calls == 1
    assert await on_disk(sql) == []


# --- sessionmakers that make no transaction of the step's own ---


@pytest.mark.parametrize("swallows", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("of", ["engine", "connection"])
async def test_autocommit_is_refused_before_the_first_write(dsn, schema, sessions, sql, *, of, swallows):
    options = {"isolation_level": "AUTOCOMMIT"}
    engine = engine_on(dsn, schema, **(options if of == "engine" else {}))

    async def body(ctx):
        try:
            if of == "connection":
                await ctx.session.connection(execution_options=options)
            await write(ctx, 1)
        except SessionError:
            if not swallows:
                raise
            await ctx.session.execute(text("INSERT INTO payments VALUES (1, 2, 3)"))

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin:
        await Tried(body).refused(admin, sql, "AUTOCOMMIT")
    await engine.dispose()
    assert await on_disk(sql) == []


@pytest.mark.parametrize(
    ("mode", "in_savepoint"),
    [
        *product(["conditional_savepoint", "create_savepoint", "rollback_only"], [False, True]),
        ("control_fully", True),
    ],
)
async def test_joined_session_is_refused_before_the_step(dsn, schema, app, sessions, sql, *, mode, in_savepoint):
    async with app.connect() as connection:
        await connection.begin()
        if in_savepoint:
            await connection.begin_nested()
        make = async_sessionmaker(connection, join_transaction_mode=mode)
        async with Admin(dsn, schema, sessionmaker=make) as admin:
            tried = Tried(_writes_more)
            await tried.refused(admin, sql, "bound to a connection")
        await connection.rollback()
    assert tried.calls == 0
    assert await on_disk(sql) == []


@pytest.mark.parametrize("joins", [False, True])
async def test_session_controlling_its_connection_is_accepted(dsn, schema, app, sessions, sql, *, joins):
    async with app.connect() as connection:
        if joins:
            await connection.begin()
        make = async_sessionmaker(connection, join_transaction_mode="control_fully")
        async with Admin(dsn, schema, sessionmaker=make) as admin, no_hang():
            tried = Tried(_writes_more)
            ctx = await admin.create_workflow("misusing")
            await tried.workflow(ctx)
        assert await on_disk(sql) == [3]
        await connection.execute(text("INSERT INTO payments VALUES (10, 4, 5)"))
        await connection.commit()
    assert await on_disk(sql) == [3, 4]
    assert await recorded(sql, ctx) == {"misuse": "SUCCESS"}


async def test_session_commit_without_a_database_commit_is_an_error(dsn, schema, app, sessions, sql):
    class Held(AsyncSession):
        async def commit(self):
            await self.flush()

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(app, class_=Held)) as admin:
        tried = Tried(_writes_more)
        await tried.refused(admin, sql, "without a COMMIT")
    assert tried.calls == 1
    assert await on_disk(sql) == []
