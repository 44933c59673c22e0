"""Rewinds: from each state, with messages, children, sagas and keys; a rewind beside other writers of the row."""

import asyncio

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import (
    Admin,
    KeyTakenError,
    PyWorkflow,
    ReasonKind,
    RewindRefusedError,
    SagaError,
    StepNotFoundError,
    TerminalError,
    Topic,
    Update,
    Worker,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.storage.access import bulk
from pgqrs.storage.rewinds.repository import RewindRepository
from pgqrs.testing import run_enqueued
from tests.support.database import connected
from tests.support.executors import planted_executor
from tests.support.waiting import no_hang, until

pytest_plugins = ("pytest_pgqrs",)

CODECS = {"json": None, "pydantic": PydanticCodec(), "fernet": FernetCodec([Fernet.generate_key()])}
WORD, ASK = Topic("word", str), Update("ask", str, str)


HELD_UP = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0"
"""The session whose statement on the tables of a schema waits for a lock."""


class Shop:
    """The steps of the workflows of one test: what they did, and which of them fails."""

    def __init__(self):
        self.done = []
        self.fails = set()

    async def act(self, what):
        self.done.append(what)
        if what in self.fails:
            raise TerminalError(f"no {what}")
        return f"{what} {self.done.count(what)}"


@pytest.fixture
def shop(monkeypatch):
    shop = Shop()
    monkeypatch.setattr(f"{__name__}.SHOP", shop)
    return shop


SHOP = Shop()


@step
async def reserve(ctx: PyWorkflow) -> str:
    return await SHOP.act("reserve")


@step
async def charge(ctx: PyWorkflow) -> str:
    return await SHOP.act("charge")


@step
async def ship(ctx: PyWorkflow) -> str:
    return await SHOP.act("ship")


@workflow
async def order(ctx: PyWorkflow) -> list[str]:
    return [await reserve(ctx), await charge(ctx), await ship(ctx)]


@workflow
async def gated(ctx: PyWorkflow) -> list[str]:
    done = [await reserve(ctx), await charge(ctx)]
    word = await ctx.receive(WORD)
    return [*done, word, await ship(ctx)]


async def finished(admin, *workflows):
    """Run enqueued workflows, and return whether there were any."""
    return await run_enqueued(admin, list(workflows))


async def test_later_steps_of_a_success_are_executed_again(kit, shop):
    handle = await kit.enqueue(order)
    await finished(kit, order)
    assert await handle.result() == ["reserve 1", "charge 1", "ship 1"]
    found = await kit.rewind(handle.id, before="charge")
    assert [each.step_id for each in found.steps] == ["charge", "ship"]
    assert (found.before, found.status, found.epoch) == ("charge", "SUCCESS", 2)
    assert found.output == ["reserve 1", "charge 1", "ship 1"]
    (record,) = await kit.list_workflows()
    assert (record.status, record.output, record.completed_at) == ("PENDING", None, None)
    await finished(kit, order)
    assert await handle.result() == ["reserve 1", "charge 2", "ship 2"]
    await kit.rewind(handle.id, before="ship")
    await finished(kit, order)
    first, second = await kit.list_rewinds(handle.id)
    assert [each.output for each in first.steps] == ["charge 1", "ship 1"]
    assert [each.output for each in second.steps] == ["ship 2"]
    assert shop.done == ["reserve", "charge", "ship", "charge", "ship", "ship"]


async def test_failed_and_cancelled_workflows_run_again(kit, shop):
    shop.fails = {"ship"}
    failed, cancelled = await kit.enqueue(order), await kit.enqueue(gated)
    await finished(kit, order, gated)
    await cancelled.cancel()
    shop.fails = set()
    found = await kit.rewind(failed.id, before="charge")
    assert (found.status, found.error["message"]) == ("ERROR", "no ship")
    assert [each.status for each in found.steps] == ["SUCCESS", "ERROR"]
    assert (await kit.rewind(cancelled.id, before="charge")).status == "CANCELLED"
    await kit.send(cancelled.id, WORD, "go")
    await finished(kit, order, gated)
    assert await failed.result() == ["reserve 1", "charge 3", "ship 2"]
    assert (await cancelled.result())[2] == "go"


async def test_parked_workflow_no_longer_waits(kit, shop):
    handle = await kit.enqueue(gated)
    await finished(kit, gated)
    assert await handle.status() == "WAITING"
    await kit.rewind(handle.id, before="charge")
    assert (await kit.why(handle.id)).kinds.isdisjoint({ReasonKind.MESSAGE, ReasonKind.ENDED})
    await handle.send(WORD, "go")
    await finished(kit, gated)
    assert (await handle.result())[:2] == ["reserve 1", "charge 2"]


async def test_running_workflow_is_refused_and_stays(admin, shop):
    ctx = await admin.create_workflow("order")
    await ctx.start()
    await reserve(ctx)
    with pytest.raises(RewindRefusedError, match="runs it") as refused:
        await admin.rewind(ctx.id(), before="reserve")
    assert refused.value.executor_id == (await admin.store()).executor_id
    assert await charge(ctx) == "charge 1"
    assert await admin.list_rewinds(ctx.id()) == []


async def test_run_of_a_dead_executor_is_fenced(admin, sql, shop):
    ctx = await admin.create_workflow("order")
    await ctx.start()
    await reserve(ctx)
    dead = await planted_executor(sql, stopped=True)
    await sql.execute("UPDATE pgqrs_workflows SET executor = $1", dead)
    await admin.rewind(ctx.id(), before="reserve")
    with pytest.raises(WorkflowFencedError):
        await charge(ctx)
    again = await admin.get_workflow(ctx.id())
    assert await order(again) == ["reserve 2", "charge 2", "ship 1"]


async def test_wrong_step_is_refused_with_near_ids(kit, shop):
    handle = await kit.enqueue(order)
    await finished(kit, order)
    with pytest.raises(StepNotFoundError, match="did you mean 'charge'") as error:
        await kit.rewind(handle.id, before="chrage")
    assert (error.value.near, error.value.step_id) == (("charge",), "chrage")
    with pytest.raises(WorkflowNotFoundError):
        await kit.rewind(4711, before="charge")
    with pytest.raises(TypeError):
        await kit.rewind(handle.id, before=charge)
    assert await handle.status() == "SUCCESS"


async def test_concurrent_step_that_ended_later_is_set_aside(admin, shop):
    """Of two steps at once, the one that ended before the chosen one began stays."""
    began, go = asyncio.Event(), asyncio.Event()

    @step
    async def slow(ctx: PyWorkflow) -> str:
        began.set()
        await go.wait()
        return await SHOP.act("slow")

    @workflow
    async def both(ctx: PyWorkflow) -> None:
        task = asyncio.create_task(slow(ctx))
        await began.wait()
        await reserve(ctx)
        await charge(ctx)
        go.set()
        await task

    handle = await admin.enqueue(both)
    await finished(admin, both)
    found = await admin.rewind(handle.id, before="charge")
    assert {each.step_id for each in found.steps} == {"slow", "charge"}
    await finished(admin, both)
    assert sorted(shop.done) == ["charge", "charge", "reserve", "slow", "slow"]


@workflow
async def talking(ctx: PyWorkflow) -> list[str]:
    said = [await ctx.receive(WORD), await ctx.receive(WORD), await charge(ctx)]
    request = await ctx.receive(ASK)
    await request.reply(f"{request.value} {said[2]}")
    return [*said, await ctx.receive(WORD)]


@pytest_asyncio.fixture(params=CODECS)
async def own(dsn, schema, admin, request):
    """An `Admin` with each kind of codec."""
    async with Admin(dsn, schema, codec=CODECS[request.param]) as own:
        yield own


async def test_messages_of_later_steps_return_in_their_order(own, sql, shop):
    async with Worker(own, [talking]), no_hang():
        handle = await own.enqueue(talking)
        for word in ("a", "b"):
            await handle.send(WORD, word)
        assert await handle.update(ASK, "x", key="k") == "x charge 1"
        await handle.send(WORD, "c")
        assert await handle.result() == ["a", "b", "charge 1", "c"]
        if own.codec.name != "json":  # as an hour later
            await sql.execute("DELETE FROM pgqrs_messages WHERE taken_at IS NOT NULL")
        steps = [each.step_id for each in await handle.steps()]
        await own.rewind(handle.id, before=steps[1])
        assert await handle.result() == ["a", "b", "charge 2", "c"]
        assert await handle.update(ASK, "x", key="k") == "x charge 2"
        assert (await own.list_rewinds(handle.id))[0].steps[0].output == "b"


@workflow
async def child(ctx: PyWorkflow, what: str) -> str:
    return await charge(ctx)


@workflow
async def parent(ctx: PyWorkflow, key: str | None) -> list[str]:
    options = ctx.options() if key is None else ctx.options(key=key)
    started = await options.start(child, "a")
    await reserve(ctx)
    return [await started, await ship(ctx)]


async def test_ended_child_of_a_step_that_stays_gives_its_result(kit, shop):
    handle = await kit.enqueue(parent, None)
    await finished(kit, parent, child)
    await kit.rewind(handle.id, before="reserve")
    await finished(kit, parent, child)
    assert await handle.result() == ["charge 1", "ship 2"]


@pytest.mark.parametrize("key", [None, "k"])
async def test_child_of_a_later_step_is_started_anew_unless_keyed(kit, shop, key):
    handle = await kit.enqueue(parent, key)
    await finished(kit, parent, child)
    first = (await handle.steps())[0]
    await kit.rewind(handle.id, before=first.step_id)
    await finished(kit, parent, child)
    assert await handle.result() == ["charge 1" if key else "charge 2", "ship 2"]
    assert len(await kit.list_workflows(name="child")) == (1 if key else 2)


async def test_live_child_of_a_later_step_is_cancelled(kit, shop):
    handle = await kit.enqueue(parent, None)
    await finished(kit, parent)
    (left,) = await kit.list_workflows(name="child")
    await kit.rewind(handle.id, before=(await handle.steps())[0].step_id)
    assert (await kit.list_workflows(name="child"))[0].status == "CANCELLED"
    await finished(kit, parent, child)
    assert await handle.result() == ["charge 1", "ship 1"]
    assert [each.status for each in await kit.list_workflows(name="child")] == ["SUCCESS", "CANCELLED"]
    assert left.id == (await kit.list_workflows(name="child"))[1].id


async def test_parent_keeps_the_result_of_a_rewound_child(kit, shop):
    handle = await kit.enqueue(parent, None)
    await finished(kit, parent, child)
    (ended,) = await kit.list_workflows(name="child")
    await kit.rewind(ended.id, before="charge")
    await finished(kit, parent, child)
    assert await kit.handle(ended.id).result() == "charge 2"
    assert (await handle.result())[0] == "charge 1"


@step
async def release(ctx: PyWorkflow, value: str | None) -> None:
    await SHOP.act("release")


@step(undo=release)
async def hold(ctx: PyWorkflow) -> str:
    return await SHOP.act("hold")


@workflow
async def journey(ctx: PyWorkflow) -> str:
    await reserve(ctx)
    async with ctx.saga():
        await hold(ctx)
        await charge(ctx)
        await ctx.receive(WORD)
        return await ship(ctx)


async def test_step_that_a_saga_has_undone_does_not_stay(kit, shop):
    shop.fails = {"charge"}
    handle = await kit.enqueue(journey)
    await finished(kit, journey)
    assert shop.done == ["reserve", "hold", "charge", "release"]
    with pytest.raises(RewindRefusedError, match="before 'hold'") as refused:
        await kit.rewind(handle.id, before="charge")
    assert refused.value.undone == "hold"
    with pytest.raises(RewindRefusedError, match="a step of a saga"):
        await kit.rewind(handle.id, before="undo/hold")
    await kit.rewind(handle.id, before="hold")
    shop.fails = set()
    await handle.send(WORD, "go")
    await finished(kit, journey)
    assert await handle.result() == "ship 1"
    assert shop.done[4:] == ["hold", "charge", "ship"]


async def test_cancelled_rewind_into_a_saga_undoes_what_stays(kit, shop):
    handle = await kit.enqueue(journey)
    await handle.send(WORD, "go")
    await finished(kit, journey)
    await kit.rewind(handle.id, before="ship")
    await handle.cancel()
    await finished(kit, journey)
    assert (await handle.status(), shop.done[-1]) == ("CANCELLED", "release")
    with pytest.raises(RewindRefusedError):
        await kit.rewind(handle.id, before="charge")


async def test_key_of_another_workflow_refuses_the_rewind(kit, engine, schema, sql, shop):
    once = kit.options(key="k", until="end")
    first = await once.enqueue(order)
    await finished(kit, order)
    second = await once.enqueue(order)
    async with AsyncSession(engine) as session:
        with pytest.raises(KeyTakenError) as taken:
            await kit.rewind(first.id, before="charge", session=session)
        assert taken.value.holder_id == second.id
        await session.commit()
    assert (await first.status(), await kit.list_rewinds(first.id)) == ("SUCCESS", [])
    assert len(await first.steps()) == 3
    await second.cancel()
    async with AsyncSession(engine) as session:
        await kit.rewind(first.id, before="charge", session=session)
        await session.rollback()
    assert await first.status() == "SUCCESS"
    async with AsyncSession(engine) as session, session.begin():
        await kit.rewind(first.id, before="charge", session=session)
    assert await first.status() == "PENDING"


async def test_rewound_workflow_is_first_in_its_ordered_queue(kit, shop):
    await kit.set_queue("accounts", ordered=True)
    of_key = kit.options(queue="accounts", partition_key="ada")
    first = await of_key.enqueue(order)
    await finished(kit, order)
    second = await of_key.enqueue(order)
    await kit.rewind(first.id, before="ship")
    assert (await kit.why(second.id)).reasons[0].workflow_ids == (first.id,)
    await finished(kit, order)
    assert await second.status() == "SUCCESS"


async def test_rewind_goes_no_further_back_than_continue_as_new(kit, shop):
    @workflow
    async def twice(ctx: PyWorkflow, n: int) -> list[str]:
        found = [await reserve(ctx), await charge(ctx)]
        started = await ctx.start(child, "a")
        if n == 0:
            await started
            await ctx.continue_as_new(twice, 1)
        return [*found, await started]

    handle = await kit.enqueue(twice, 0)
    await finished(kit, twice, child)
    first = await handle.result()
    await kit.rewind(handle.id, before="charge")
    await finished(kit, twice, child)
    again = await handle.result()
    assert (first[0], again[0]) == ("reserve 2", "reserve 2")
    assert first[1:] != again[1:]
    assert len(await kit.list_workflows(name="child")) == 3


async def test_rewind_beside_other_writers_leaves_one_state(admin, shop):
    """Each of two changes of a row sees the other one whole: a rewind, a claim, a resume, a cancellation."""
    async with no_hang(), Worker(admin, [order]):
        handle = await admin.enqueue(order)
        await handle.result()
        others = [
            lambda: admin.rewind(handle.id, before="reserve"),
            lambda: admin.resume_workflow(handle.id),
            handle.cancel,
            lambda: admin.rewind(handle.id, before="ship"),
        ]
        for other in others:
            await until(_has_ended, handle)
            found = await asyncio.gather(admin.rewind(handle.id, before="charge"), other(), return_exceptions=True)
            unexpected = (RewindRefusedError, StepNotFoundError, WorkflowFinishedError)
            assert [
                each for each in found if isinstance(each, Exception) and not isinstance(each, unexpected)
            ] == []
        await until(_has_ended, handle)
    await admin.verify(deep=True)
    rewinds = await admin.list_rewinds(handle.id)
    assert len({each.epoch for each in rewinds}) == len(rewinds) >= 3


async def test_many_workflows_are_rewound_at_once(kit, monkeypatch, shop):
    monkeypatch.setattr(bulk, "MAX_REWOUND", 2)  # several transactions
    handles = await kit.enqueue_many(order, [() for _ in range(5)])
    undone = await kit.enqueue(journey)
    shop.fails = {"charge"}
    await finished(kit, order, journey)
    waits = await kit.enqueue(order)
    shop.fails = set()
    which = [each.id for each in (*handles, undone, waits)]
    seen = await kit.rewind_workflows(which, before="charge", dry_run=True)
    assert (seen.found, seen.changed, seen.dry_run) == (7, 5, True), str(seen)
    assert await handles[0].status() == "ERROR"
    report = await kit.rewind_workflows(which, before="charge")
    assert (report.found, report.changed) == (7, 5)
    reasons = {each.reason: each.ids for each in report.left}
    assert reasons["have not ended"] == (waits.id,)
    assert sum(len(ids) for ids in reasons.values()) == 2
    assert (await kit.rewind_workflows(which, before="charge")).changed == 0
    await finished(kit, order)
    assert {(await each.result())[0] for each in handles} <= {f"reserve {n}" for n in range(10)}
    assert all([len(await kit.list_rewinds(each.id)) == 1 for each in handles])


async def test_rewind_that_dies_at_its_last_write_is_done_once(admin, dsn, sql, schema, shop):
    handle = await admin.enqueue(order)
    await finished(admin, order)
    async with no_hang():
        async with connected(dsn, schema) as other, other.transaction():
            await other.execute("LOCK TABLE pgqrs_set_aside_steps")
            rewinding = asyncio.create_task(admin.rewind(handle.id, before="charge"))
            dying = await until(sql.fetchval, HELD_UP, schema)
            assert await sql.fetchval("SELECT pg_terminate_backend($1)", dying)
            assert await handle.status() == "SUCCESS"
        found = await rewinding
    assert await admin.list_rewinds(handle.id) == [found]
    await finished(admin, order)
    assert await handle.result() == ["reserve 1", "charge 2", "ship 2"]


async def test_rewind_whose_answer_was_lost_is_not_repeated(admin, shop):
    handle = await admin.enqueue(order)
    await finished(admin, order)
    operations = (await admin.store()).operations
    first, second = [
        await operations.run(lambda connection: RewindRepository(connection).rewind(handle.id, "charge", 5))
        for _ in range(2)
    ]
    assert first == second
    assert len(await admin.list_rewinds(handle.id)) == 1


async def _has_ended(handle):
    return await handle.status() in {"SUCCESS", "CANCELLED"}


async def test_saga_error_is_the_end_that_a_rewind_takes_away(kit, shop):
    shop.fails = {"charge", "release"}
    handle = await kit.enqueue(journey)
    await finished(kit, journey)
    with pytest.raises(SagaError):
        await handle.result()
    shop.fails = set()
    found = await kit.rewind(handle.id, before="hold")
    assert "undo/hold" in {each.step_id for each in found.steps}
    await handle.send(WORD, "go")
    await finished(kit, journey)
    assert await handle.result() == "ship 1"
