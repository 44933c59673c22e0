"""Keys of workflows: a name and a key have one workflow, one set of arguments, and one run at a time."""

import asyncio
import logging
import os

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from pgqrs import Admin, PyWorkflow, Worker, WorkflowStatus, step, workflow
from pgqrs.errors import ConfigurationError, KeyConflictError, StepFailedError, WorkflowInProgressError
from tests.support.waiting import until

EXECUTED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_executed():
    EXECUTED.clear()


@step
async def charge(ctx: PyWorkflow, who: str, cents: int) -> str:
    EXECUTED.append(who)
    await asyncio.sleep(0.05)
    return f"{who} paid {cents}"


@workflow
async def pay(ctx: PyWorkflow, who: str, cents: int = 5) -> str:
    return await charge(ctx, who, cents)


async def executed(who):
    return who in EXECUTED


async def test_key_with_different_arguments_is_a_conflict(admin):
    first = await admin.options(key="req-1").enqueue(pay, "alice")
    same = [
        await admin.options(key="req-1").enqueue(pay, "alice"),
        await admin.options(key="req-1").enqueue(pay, who="alice"),
    ]
    assert [each.id for each in same] == [first.id] * 2
    for submit in (
        admin.options(key="req-1").enqueue(pay, "mallory"),
        admin.options(key="req-1").enqueue(pay, "alice", 6),
        admin.options(key="req-1").run(pay, "mallory"),
        admin.enqueue_many(pay, [("bob", 1), ("mallory", 2)], key=lambda who, cents: "req-1"),
    ):
        with pytest.raises(KeyConflictError, match="different arguments") as caught:
            await submit
        assert (caught.value.workflow_id, caught.value.key) == (first.id, "req-1")
    assert len(await admin.list_workflows()) == 1


async def test_enqueue_many_compares_arguments_of_equal_keys(admin):
    handles = await admin.enqueue_many(pay, [("a", 1), ("a", 1)], key=lambda who, cents: who)
    assert handles[0].id == handles[1].id
    with pytest.raises(KeyConflictError):
        await admin.enqueue_many(pay, [("b", 1), ("b", 2)], key=lambda who, cents: who)
    assert len(await admin.list_workflows()) == 2  # the first of each key is there


async def test_on_conflict_sets_the_report_of_a_key_conflict(admin, caplog):
    first = await admin.options(key="k").enqueue(pay, "alice")
    for how, warned in (("warn", 1), ("ignore", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pgqrs"):
            again = await admin.options(key="k", on_conflict=how).enqueue(pay, "bob")
        assert (again.id, len(caplog.records)) == (first.id, warned)
    with pytest.raises(ConfigurationError, match="on_conflict"):
        admin.options(key="k", on_conflict="error")


async def test_key_conflict_leaves_the_caller_session_usable(admin, engine):
    await admin.options(key="k").enqueue(pay, "alice")
    async with async_sessionmaker(engine).begin() as session:
        with pytest.raises(KeyConflictError):
            await admin.options(key="k", session=session).enqueue(pay, "bob")
        handle = await admin.options(key="k", session=session).enqueue(pay, "alice")
        other = await admin.options(key="other", session=session).enqueue(pay, "bob")
    assert (handle.id, await other.status()) == (1, WorkflowStatus.PENDING)


async def test_concurrent_runs_of_one_key_share_one_run(admin):
    results = await asyncio.gather(*(admin.options(key="k").run(pay, "alice") for _ in range(5)))
    assert (results, EXECUTED) == (["alice paid 5"] * 5, ["alice"])
    assert (await admin.list_workflows())[0].epoch == 1


@pytest.mark.unfaulted("a submission that a fault delays comes after the failed run, and retries")
async def test_runs_of_one_key_share_an_error_and_a_later_run_retries(admin):
    calls = []

    @workflow
    async def failing(ctx: PyWorkflow) -> str:
        calls.append(1)
        await asyncio.sleep(0.1)
        if len(calls) == 1:
            raise OSError("no network")
        return "done"

    results = await asyncio.gather(
        *(admin.options(key="k").run(failing) for _ in range(3)), return_exceptions=True
    )
    assert [isinstance(each, OSError) for each in results] == [True] * 3
    assert sorted(isinstance(each, StepFailedError) for each in results) == [False, True, True]
    assert (await admin.options(key="k").run(failing), len(calls)) == ("done", 2)


async def test_run_with_a_key_joins_the_run_of_another_executor(dsn, schema, admin):
    """A second `Admin` is another executor, as that of another process is."""
    async with Admin(dsn, schema) as other, Worker(other, [pay]):
        await admin.options(key="k").enqueue(pay, "alice")
        assert await admin.options(key="k").run(pay, "alice") == "alice paid 5"

        @workflow
        async def parent(ctx: PyWorkflow) -> str:
            return await admin.options(key="child").run(pay, "bob")

        theirs = asyncio.create_task(other.options(key="child").run(pay, "bob"))
        await until(executed, "bob")
        assert await admin.run(parent) == await theirs == "bob paid 5"
    assert EXECUTED == ["alice", "bob"]


async def test_workflow_cannot_run_itself_by_its_key(admin):
    @workflow
    async def itself(ctx: PyWorkflow) -> None:
        await admin.options(key="k").run(itself)

    with pytest.raises(WorkflowInProgressError):
        await admin.options(key="k").run(itself)


@pytest.mark.unfaulted("the process that forks has the threads of the wire, which its child has not")
def test_forked_process_has_its_own_executor(dsn, installed):
    own = Admin(dsn, installed)
    loop = asyncio.new_event_loop()

    async def before():
        await asyncio.gather(*(own.run(pay, f"before {n}") for n in range(9)))
        await own.close()

    async def after(who):
        results = [await own.run(pay, f"{who} {n}") for n in range(5)]
        executor = (await own.store()).executor_id
        await own.close()
        return f"{[each.startswith(who) for each in results]} {executor}"

    loop.run_until_complete(before())
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            told = loop.run_until_complete(asyncio.wait_for(after("child"), 30))
        except BaseException as error:  # nothing leaves the child
            told = repr(error)
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    ours = loop.run_until_complete(asyncio.wait_for(after("parent"), 30))
    theirs = os.read(read, 4096).decode()
    os.waitpid(child, 0)
    os.close(read)
    loop.close()
    right = str([True] * 5)
    assert ours.startswith(right)
    assert theirs.startswith(right)
    assert ours != theirs
