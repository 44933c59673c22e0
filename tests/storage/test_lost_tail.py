"""A server that loses its last moments, as a standby that is promoted or a restored backup does, mixes nothing up."""

import asyncio
import uuid
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import pytest

from pgqrs import Admin, PyWorkflow, Worker, WorkflowFencedError, WorkflowNotFoundError, step, workflow
from pgqrs.storage.store import Store
from pgqrs.storage.writes.creation import Submission
from pgqrs.storage.writes.steps import StepOutcome
from tests.support.database import connected, engine_on
from tests.support.journal_records import offered
from tests.support.waiting import until

pytestmark = pytest.mark.unfaulted("it breaks all connections itself")


@step
async def charge(ctx: PyWorkflow, who: str) -> str:
    return f"charged {who}"


@workflow
async def order(ctx: PyWorkflow, who: str) -> str:
    return await charge(ctx, who)


class Tail:
    """A database of which the last moments can be lost."""

    def __init__(self, server, name):
        self.server = server
        self.name = name

    @property
    def dsn(self):
        return urlunsplit(urlsplit(self.server)._replace(path=f"/{self.name}"))

    async def execute(self, *statements):
        async with connected(self.server) as connection:
            for each in statements:
                await connection.execute(each)

    async def _execute_without_sessions(self, *statements):
        """Execute statements while no session is in the database."""
        await self.execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        async with connected(self.server) as connection:

            async def is_empty():
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", self.name
                )
                count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
                return await connection.fetchval(count, self.name) == 0

            await until(is_empty)
        await self.execute(*statements)

    async def remember(self):
        """Keep the state: it is what a standby has."""
        await self._execute_without_sessions(
            f"CREATE DATABASE {self.name}_then TEMPLATE {self.name} STRATEGY file_copy",
            f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true",
        )

    async def lose(self):
        """Break all connections, and go on from the state that was kept."""
        await self._execute_without_sessions(
            f"ALTER DATABASE {self.name} RENAME TO {self.name}_lost",
            f"ALTER DATABASE {self.name}_then RENAME TO {self.name}",
        )


@asynccontextmanager
async def lost_tail(dsn):
    tail = Tail(dsn, f"tail_{uuid.uuid4().hex[:12]}")
    await tail.execute(f"CREATE DATABASE {tail.name}")
    try:
        yield tail
    finally:
        for end in ("", "_then", "_lost"):
            await tail.execute(f"DROP DATABASE IF EXISTS {tail.name}{end} WITH (FORCE)")


async def inputs(admin):
    return sorted(each.input["args"][0] for each in await admin.list_workflows())


async def submissions(admin, session=None):
    """Submit in each of the ways that there are; return the handles by their argument."""
    options = admin.options(session=session)
    made = {"one": await options.enqueue(order, "one")}
    made |= zip(["x", "y"], await options.enqueue_many(order, [("x",), ("y",)]), strict=True)
    keyed = admin.options(session=session, key="k")
    made["keyed"] = await keyed.enqueue(order, "keyed")
    return made


@pytest.mark.parametrize("lent", [False, True], ids=["own transactions", "caller's session"])
async def test_reissued_ids_do_not_mix_workflows(dsn, lent):
    async with lost_tail(dsn) as tail, Admin(tail.dsn) as ours, Admin(tail.dsn) as theirs:
        await ours.install()
        for n in range(3):
            await ours.enqueue(order, f"before {n}")
        await tail.remember()
        await ours.enqueue(order, "lost, and granted")  # a block of ids: the others stay in stock
        await tail.lose()
        await asyncio.gather(*(theirs.enqueue(order, f"theirs {n}") for n in range(8)))
        engine = engine_on(tail.dsn)
        if lent:
            async with engine.begin() as connection:
                handles = await submissions(ours, connection)
                created = await ours.create_workflow("order", "created", session=connection)
        else:
            handles = await submissions(ours)
            created = await ours.create_workflow("order", "created")
        await engine.dispose()
        assert await order(created, "created") == "charged created"
        async with Worker(theirs, [order]):
            for who, handle in handles.items():
                assert await handle.result(timeout=20) == f"charged {who}"
        expected = [*(f"before {n}" for n in range(3)), *(f"theirs {n}" for n in range(8)), *handles, "created"]
        assert await inputs(theirs) == sorted(expected)


async def test_runs_with_reissued_ids_keep_their_results(dsn):
    async with lost_tail(dsn) as tail, Admin(tail.dsn) as ours, Admin(tail.dsn) as theirs:
        await ours.install()
        await ours.run(order, "before")
        await tail.remember()
        await ours.enqueue(order, "lost, and granted")
        await tail.lose()
        assert await asyncio.gather(*(theirs.run(order, f"theirs {n}") for n in range(4))) == [
            f"charged theirs {n}" for n in range(4)
        ]
        assert await asyncio.gather(*(ours.run(order, f"ours {n}") for n in range(4))) == [
            f"charged ours {n}" for n in range(4)
        ]


@pytest.mark.parametrize("way", ["created", "found", "resumed"])
async def test_context_of_a_lost_workflow_claims_no_other_workflow(dsn, way):
    async with lost_tail(dsn) as tail, Admin(tail.dsn) as ours, Admin(tail.dsn) as theirs:
        await ours.install()
        await tail.remember()
        ctx = await ours.create_workflow("order", "lost")
        if way == "found":
            ctx = await ours.get_workflow(ctx.id())
        elif way == "resumed":
            ctx = await ours.resume_workflow(ctx.id())
        await tail.lose()
        others = [await theirs.create_workflow("order", f"theirs {n}") for n in range(20)]
        (other,) = [each for each in others if each.id() == ctx.id()]
        for use in (ctx.start, partial(order, ctx, "lost")):
            with pytest.raises(WorkflowNotFoundError, match="another workflow has its id"):
                await use()
        assert await theirs.list_steps(other.id()) == []
        assert await order(other, "theirs") == "charged theirs"


async def test_reissued_epoch_fences_the_run_of_the_lost_claim(dsn):
    async with lost_tail(dsn) as tail, Admin(tail.dsn) as ours, Admin(tail.dsn) as theirs:
        await ours.install()
        ctx = await ours.create_workflow("order")
        await tail.remember()
        await ctx.start()
        await tail.lose()
        other = await theirs.get_workflow(ctx.id())
        await other.start()
        with pytest.raises(WorkflowFencedError):
            await charge(ctx, "ours")
        assert await charge(other, "theirs") == "charged theirs"
        (recorded,) = await theirs.list_steps(ctx.id())
        assert (recorded.output, recorded.epoch) == ("charged theirs", 1)


@asynccontextmanager
async def replaced(dsn):
    """Give an admin, and handles on lost workflows whose ids another admin's workflows have."""
    async with lost_tail(dsn) as tail, Admin(tail.dsn) as ours, Admin(tail.dsn) as theirs:
        await ours.install()
        await ours.options(key="k").enqueue(order, "kept")
        await tail.remember()
        engine = engine_on(tail.dsn)
        async with engine.begin() as connection:
            lent = await ours.options(session=connection).enqueue(order, "lent")
        await engine.dispose()
        lost = [lent, await ours.enqueue(order, "lost"), *await ours.enqueue_many(order, [("x",), ("y",)])]
        kept = await ours.options(key="k").enqueue(order, "kept")
        await tail.lose()
        await theirs.enqueue_many(order, [(f"theirs {n}",) for n in range(20)])
        assert {each.id for each in lost} <= {each.id for each in await theirs.list_workflows()}
        yield theirs, lost, kept


async def test_handle_of_lost_workflow_does_not_show_another_workflow(dsn):
    async with replaced(dsn) as (theirs, lost, _kept), Worker(theirs, [order]):
        for handle in lost:
            assert (await theirs.handle(handle.id).result(timeout=20)).startswith("charged theirs")
            uses = handle.result(timeout=20), handle.status(), handle.steps(), handle.cancel(interrupt=True)
            for use in uses:
                with pytest.raises(WorkflowNotFoundError, match="another workflow has its id"):
                    await use


async def test_handle_of_lost_workflow_cancels_no_other_workflow(dsn):
    async with replaced(dsn) as (theirs, lost, _kept):
        for handle in lost:
            with pytest.raises(WorkflowNotFoundError, match="another workflow has its id"):
                await handle.cancel()
            assert await theirs.handle(handle.id).status() == "PENDING"
            with pytest.raises(WorkflowNotFoundError, match="another workflow has its id"):
                await handle.result(timeout=20)


async def test_handle_of_a_taken_key_is_of_the_workflow_with_the_key(dsn):
    async with replaced(dsn) as (theirs, _lost, kept), Worker(theirs, [order]):
        assert await kept.result(timeout=20) == "charged kept"
        assert await kept.status() == "SUCCESS"
        assert [each.output for each in await kept.steps()] == ["charged kept"]


async def test_submission_resent_after_a_claim_creates_no_workflow(admin, sql):
    """The token of a workflow stays, whichever run claims it."""
    store: Store = await admin.store()
    new = Submission(await store.ids.next(), "w", "{}", "default", 0, None, None, None, None, 77)
    assert await offered(store.journal, [new]) == [True]
    await store.claim(new.workflow_id)
    assert await offered(store.journal, [new]) == [True]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 1


async def test_outcome_of_another_claim_of_the_epoch_is_refused(admin):
    store: Store = await admin.store()
    ctx = await admin.create_workflow("w")
    await ctx.start()
    (told,) = await offered(store.journal, [StepOutcome(ctx.id(), 1, "s", "1", None, 0.0, None, 12345)])
    assert isinstance(told, WorkflowFencedError)
