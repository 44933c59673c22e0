"""Event loops that come and go, programs that never close anything, and `close` in every order."""

import asyncio
import gc
import re
import threading
import warnings

import pytest

from pgqrs import Admin, ConfigurationError, PyWorkflow, Worker, workflow
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.writes.steps import StepOutcome
from tests.support.conversation import converse
from tests.support.database import connected, engine_on
from tests.support.families import double
from tests.support.forks import Forkery
from tests.support.processes import line_of
from tests.support.waiting import DEADLINE, no_hang
from tests.support.wire import Wire
from tests.support.workflows import Killed, numbered


@workflow
async def three_steps(ctx: PyWorkflow) -> int:
    return sum([await numbered(ctx, n) for n in range(3)])


def fetchval(dsn, query):
    async def fetch():
        async with connected(dsn) as connection:
            return await connection.fetchval(query)

    return asyncio.run(fetch())


PRELUDE = """
import asyncio, gc, sys
from pgqrs import Admin, PyWorkflow, step, workflow
from pgqrs.storage.writes.steps import StepOutcome

dsn, schema = sys.argv[1:]

@step(key=lambda n: n)
async def numbered(ctx: PyWorkflow, n):
    return n

@workflow
async def three_steps(ctx: PyWorkflow):
    return sum([await numbered(ctx, n) for n in range(3)])

@workflow
async def endless(ctx: PyWorkflow):
    n = 0
    while True:
        await numbered(ctx, n)
        n += 1

async def offer(admin, count, workflow_id=7, claim=1):
    journal, told = (await admin.store()).journal, []
    for n in range(count):
        await journal.wait_for_capacity()
        journal.submit(StepOutcome(workflow_id, 1, f"s{n}", "1", None, 0.0, claim=claim), told.append)
    return told

"""


QUIET = "asyncio.get_running_loop().slow_callback_duration = 60"
"""A machine that is busy with other tests is slow; asyncio's debug mode would say so."""

SLOW_CALLBACK = re.compile(r"^Executing <.* took [\d.]+ seconds\n", re.MULTILINE)
"""What it says of the loop of the pulse, which is out of the reach of `QUIET`."""


@pytest.fixture(scope="module")
def strict():
    """The process that programs are forked from, as strict as Python can be."""
    with Forkery("-X", "dev", "-W", "error") as strict:
        yield strict


@pytest.fixture
def start(strict, children, tmp_path):
    """Start a program on a schema of a server."""

    def start(program, dsn, schema):
        path = tmp_path / "program.py"
        path.write_text(PRELUDE + program)
        return children.adopt(strict.start(path, dsn, schema, PYTHONUNBUFFERED="1"))

    return start


@pytest.fixture
def run(start, dsn, installed):
    """Run a program on the test's schema, and return its exit code, its output and what it said on stderr."""

    def run(program):
        process = start(program, dsn, installed)
        out, err = process.communicate(timeout=40)
        return process.returncode, out, SLOW_CALLBACK.sub("", err)

    return run


RUNNING = "task = asyncio.create_task(admin.run(endless)); await asyncio.sleep(0.1)"
FIFTY = "tasks = [asyncio.create_task(admin.run({})) for _ in range(50)]; await asyncio.sleep({})"
STARTED = "ctx = await admin.create_workflow('w'); await ctx.start()"
CLOSING = "task = asyncio.create_task(admin.close()); await asyncio.sleep(0)"

ENDS = {
    "never closes": (["assert await admin.run(three_steps) == 3"], 0, None),
    "only installs": (["await admin.install()"], 0, None),
    "never connects": (["await asyncio.sleep(0)"], 0, None),
    "raises": (["await admin.run(three_steps)", "raise RuntimeError('my own')"], 1, "RuntimeError: my own"),
    "is interrupted": (["await admin.run(three_steps)", "raise KeyboardInterrupt"], -2, "KeyboardInterrupt"),
    "exits": (["await admin.run(three_steps)", "sys.exit(3)"], 3, None),
    "leaves a task that runs": ([RUNNING], 0, None),
    "leaves many tasks that run": ([FIFTY.format("endless", 0.1)], 0, None),
    "leaves tasks just started": ([FIFTY.format("three_steps", 0)], 0, None),
    "raises with tasks running": ([RUNNING, "raise RuntimeError('my own')"], 1, "RuntimeError: my own"),
    "is interrupted with tasks running": ([RUNNING, "raise KeyboardInterrupt"], -2, "KeyboardInterrupt"),
    "exits with tasks running": ([RUNNING, "sys.exit(3)"], 3, None),
    "exits with a write just accepted": (
        [STARTED, "await offer(admin, 1, ctx.id(), ctx._run.claim)", "sys.exit(3)"],
        3,
        None,
    ),
    "drops the Admin": (["await admin.run(three_steps)", "admin = None", "gc.collect()"], 0, None),
    "drops an Admin that has only read": (
        ["await admin.list_workflows()", "admin = None", "gc.collect()", "await asyncio.sleep(0.2)"],
        0,
        None,
    ),
    "closes while tasks run": ([RUNNING, "await admin.close()", "await asyncio.sleep(0.1)"], 0, None),
    "closes twice at once": (
        [STARTED, "await offer(admin, 50, ctx.id(), ctx._run.claim)", CLOSING, "await admin.close()"],
        0,
        None,
    ),
    "cancels a close": ([STARTED, CLOSING, "task.cancel(); await asyncio.wait([task])"], 0, None),
    "continues after a close": (["await admin.run(three_steps)", "await admin.close()"] * 2, 0, None),
    "uses a run's context after a close": ([STARTED, "await admin.close()", "await numbered(ctx, 1)"], 0, None),
}


@pytest.mark.parametrize("end", ENDS)
def test_program_ending_without_close_prints_no_warning(run, end):
    lines, code, last_line = ENDS[end]
    body = "\n    ".join([QUIET, "admin = Admin(dsn, schema)", *lines])
    program = f"async def main():\n    {body}\n\nasyncio.run(main())\n"
    returncode, _, stderr = run(program)
    if last_line is None:
        assert stderr == ""
    else:
        assert stderr.splitlines()[-1] == last_line
        assert stderr.startswith("Traceback (most recent call last):")
        assert not any(word in stderr for word in ("Warning", "destroyed", "never", "ignored", "asyncpg"))
    assert returncode == code


@pytest.mark.parametrize(
    "last", ["", "raise SystemExit", "asyncio.current_task().cancel(); await asyncio.sleep(1)"]
)
def test_accepted_records_are_written_at_the_end_of_the_loop(run, dsn, installed, last):
    program = f"""
async def main():
    {QUIET}
    admin = Admin(dsn, schema)
    ctx = await admin.create_workflow("w")
    await ctx.start()
    await offer(admin, 3000, ctx.id(), ctx._run.claim)
    {last}

try:
    asyncio.run(main())
except asyncio.CancelledError:
    pass
"""
    assert run(program) == (0, "", "")
    assert fetchval(dsn, f"SELECT count(*) FROM {installed}.pgqrs_workflow_steps") == 3000


def test_accepted_records_are_written_by_close(dsn, installed):
    async def main():
        async with Admin(dsn, installed) as admin:
            ctx = await admin.create_workflow("w")
            await ctx.start()
            journal = (await admin.store()).journal
            told = []
            for n in range(3000):
                journal.submit(
                    StepOutcome(ctx.id(), 1, f"s{n}", "1", None, 0.0, claim=ctx._run.claim), told.append
                )
        assert told == [StoredOutcome("1", None)] * 3000

    asyncio.run(main())
    assert fetchval(dsn, f"SELECT count(*) FROM {installed}.pgqrs_workflow_steps") == 3000


def test_locked_workflow_does_not_block_program_exit(run):
    program = """
import asyncpg

async def main():
    admin = Admin(dsn, schema, timeout=0.5)
    ctx = await admin.create_workflow("w")
    await ctx.start()
    other = await asyncpg.connect(dsn)
    await other.execute(f"BEGIN; SELECT FROM {schema}.pgqrs_workflows FOR UPDATE")
    task = asyncio.create_task(numbered(ctx, 1))
    await asyncio.sleep(0.1)
    await admin.close()
    other.terminate()
    try:
        await task
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
"""
    assert run(program) == (0, "DatabaseUnavailableError\n", "")


@pytest.mark.parametrize("how", ["cut", "silent"])
@pytest.mark.parametrize(
    "end",
    [
        "return",
        "await admin.close(); assert len(told) == 10, told",
        "raise SystemExit",
    ],
    ids=["return", "close", "exit"],
)
async def test_program_exits_promptly_during_an_outage(  # noqa: PLR0917  # fixtures
    dsn, schema, admin, sql, start, how, end
):
    program = f"""
async def main():
    {QUIET}
    admin = Admin(dsn, schema, timeout=0.5, outage_timeout=30)
    await admin.run(three_steps)
    ctx = await admin.create_workflow("w")
    await ctx.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    told = await offer(admin, 10, ctx.id(), ctx._run.claim)
    await asyncio.sleep(0.05)
    {end}

asyncio.run(main())
"""
    async with Wire(dsn, sql) as wire:
        process = start(program, wire.dsn, schema)
        assert await line_of(process.stdout) == "ready\n"
        if how == "cut":
            await wire.cut()
        else:
            wire.mute()
        _, stderr = await asyncio.to_thread(process.communicate, "\n", 12)
    assert (process.returncode, SLOW_CALLBACK.sub("", stderr)) == (0, "")


def test_admin_has_a_separate_store_for_each_event_loop(dsn, installed):
    admin = Admin(dsn, installed)
    stores = []

    async def main():
        stores.append(await admin.store())
        return await admin.run(three_steps)

    assert [asyncio.run(main()) for _ in range(3)] == [3, 3, 3]
    assert len({id(store) for store in stores}) == 3
    assert len(admin._loops.stores) == 1


def test_admin_serves_two_event_loops_concurrently(dsn, installed):
    admin = Admin(dsn, installed)

    async def main():
        assert await asyncio.gather(*(admin.run(three_steps) for _ in range(10))) == [3] * 10
        assert await asyncio.to_thread(asyncio.run, admin.run(three_steps)) == 3
        assert await admin.run(three_steps) == 3

    asyncio.run(main())


def test_two_event_loops_exchange_messages_and_events(dsn, installed):
    """The workflows run in one loop; the messages and the event come from other loops, by the same Admin."""
    admin = Admin(dsn, installed)

    async def elsewhere(asked):
        return await asyncio.to_thread(asyncio.run, asked)

    async def main():
        await converse(admin, elsewhere)
        await admin.verify(deep=True)
        await admin.close()

    asyncio.run(main())


def test_workers_of_two_event_loops_share_a_family(dsn, installed):
    """The parent waits in one loop, its children run in another."""
    admin = Admin(dsn, installed)
    stop = threading.Event()

    async def run_children():
        async with Worker(admin, [double]):
            await asyncio.to_thread(stop.wait, DEADLINE)
        await admin.close()

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        return sum(await ctx.gather(await ctx.start_many(double, ((each,) for each in range(50)))))

    async def main():
        async with no_hang(), Worker(admin, [parent]):
            assert await (await admin.enqueue(parent)).result() == 50 * 49
        await admin.close()

    thread = threading.Thread(target=lambda: asyncio.run(run_children()))
    thread.start()
    try:
        asyncio.run(main())
    finally:
        stop.set()
        thread.join()


def test_workflow_resumes_in_a_second_event_loop(dsn, installed):
    admin = Admin(dsn, installed)

    @workflow
    async def killed(ctx: PyWorkflow) -> None:
        await numbered(ctx, 0)
        raise Killed

    async def first():
        ctx = await admin.create_workflow("three_steps")
        with pytest.raises(Killed):
            await killed(ctx)
        return ctx

    ctx = asyncio.run(first())
    assert asyncio.run(three_steps(ctx)) == 3


def test_caller_engine_in_a_second_event_loop_is_an_error(dsn, installed):
    engine = engine_on(dsn)
    admin = Admin(engine, installed)

    async def first():
        assert await admin.run(three_steps) == 3
        await engine.dispose()

    async def second():
        with pytest.raises(ConfigurationError, match="another event loop"):
            await admin.run(three_steps)

    asyncio.run(first())
    asyncio.run(second())


async def test_close_returns_all_connections_of_the_caller_engine(engine, schema, admin):
    async with Admin(engine, schema) as own:
        await asyncio.gather(*(own.run(three_steps) for _ in range(20)))
    await own.close()
    assert engine.pool.checkedout() == 0
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1


async def test_close_closes_every_connection(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire:
        own = Admin(wire.dsn, schema)
        assert await asyncio.gather(*(own.run(three_steps) for _ in range(20))) == [3] * 20
        assert wire.connections > 1
        await asyncio.gather(*(own.close() for _ in range(5)))
        await own.close()
        await wire.quiet()
        assert await own.run(three_steps) == 3
        await own.close()


async def test_concurrent_closes_wait_for_pending_writes(dsn, schema, admin):
    own = Admin(dsn, schema)
    ctx = await own.create_workflow("w")
    await ctx.start()
    journal = (await own.store()).journal
    told = []
    for n in range(2500):
        journal.submit(StepOutcome(ctx.id(), 1, f"s{n}", "1", None, 0.0, claim=ctx._run.claim), told.append)

    async def close():
        await own.close()
        return len(told) == 2500

    assert await asyncio.gather(*(close() for _ in range(3))) == [True] * 3


USES = {
    "runs a workflow": lambda admin: admin.run(three_steps),
    "only reads": lambda admin: admin.list_workflows(),  # so that no journal is there to hold on to the engine
}


@pytest.mark.parametrize("use", USES)
async def test_dropped_admin_closes_its_connections_silently(dsn, schema, admin, sql, use):
    async with Wire(dsn, sql) as wire:
        own = Admin(wire.dsn, schema)
        await USES[use](own)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del own
            await wire.quiet(gc.collect)
        assert [str(each.message) for each in caught] == []


HAND_MADE = {
    "shutdown_asyncgens": "loop.run_until_complete(main()); loop.run_until_complete(loop.shutdown_asyncgens()); loop.close()",
    "close of the Admin": "loop.run_until_complete(main()); loop.run_until_complete(admin.close()); loop.close()",
    "a Runner": "runner = asyncio.Runner()\nrunner.run(main()); runner.run(main()); runner.close()",
    "async with": "loop.run_until_complete(scoped()); loop.close()",
    "run_forever": "task = loop.create_task(stopping()); loop.run_forever(); loop.run_until_complete(admin.close()); loop.close()",
}


@pytest.mark.parametrize("way", HAND_MADE)
def test_manually_created_loop_ends_without_warnings(run, way):
    program = f"""
admin = Admin(dsn, schema)

async def main():
    {QUIET}
    assert await admin.run(three_steps) == 3

async def scoped():
    async with admin:
        await main()

async def stopping():
    await main()
    asyncio.get_running_loop().stop()

loop = asyncio.new_event_loop()
{HAND_MADE[way]}
loop.close()
"""
    assert run(program) == (0, "", "")
