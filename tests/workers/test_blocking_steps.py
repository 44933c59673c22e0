"""Blocking code: steps in threads of the library's, and in executors of the application's."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pgqrs import PyWorkflow, RetryPolicy, StepTimeoutError, TransientError, step, workflow
from pgqrs.engine.calls.thread_pool import StepThreads
from tests.support import blocking_steps
from tests.support.processes import line_of
from tests.support.recorded import is_replay, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import cancel_task

WHERE = contextvars.ContextVar("where", default="nowhere")


# --- threads ---


async def test_blocking_function_runs_in_the_step_thread_pool(admin, sql):
    loop = asyncio.get_running_loop()
    loop.set_default_executor(refusing := RefusingExecutor())

    @step(thread=True)
    def blocking(ctx: PyWorkflow, text: str, *, twice: bool = False) -> list:
        return [text * (2 if twice else 1), threading.current_thread().name, WHERE.get(), ctx.id()]

    WHERE.set("here")
    ctx = await admin.create_workflow("wf")
    text, thread, where, workflow_id = await blocking(ctx, "a", twice=True)
    assert (text, where, workflow_id) == ("aa", "here", ctx.id())
    assert thread.startswith("pgqrs-step")
    assert (await blocking(ctx, "a", twice=True))[0] == "aa"
    assert await steps(sql, ctx) == {"blocking": "SUCCESS"}
    assert refusing.asked == 0


class RefusingExecutor(ThreadPoolExecutor):
    asked = 0

    def submit(self, *args, **kwargs):
        self.asked += 1
        raise AssertionError


async def test_event_loop_runs_during_a_blocking_step(admin):
    release = threading.Event()

    @step(thread=True)
    def blocking(ctx: PyWorkflow) -> str:
        assert release.wait(20)
        return "done"

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    task = asyncio.create_task(blocking(ctx))
    async with no_hang():
        await asyncio.sleep(0.02)
        release.set()
        assert await task == "done"


async def test_step_threads_are_bounded(admin):
    seen = set()

    @step(thread=True, key=lambda n: n)
    def blocking(ctx: PyWorkflow, n: int) -> None:
        seen.add(threading.current_thread().name)
        time.sleep(0.001)

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    async with no_hang():
        await asyncio.gather(*(blocking(ctx, n) for n in range(200)))
    assert 1 < len(seen) <= 32


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), StopIteration(), TimeoutError("x")])
async def test_thread_error_is_recorded_as_the_step_error(admin, sql, error):
    @step(thread=True)
    def blocking(ctx: PyWorkflow) -> None:
        raise error

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(expected):
            await blocking(ctx)
        with pytest.raises(expected) as caught:
            await blocking(ctx)
    assert is_replay(caught.value, expected)
    assert await steps(sql, ctx) == {"blocking": "ERROR"}


async def test_thread_step_times_out_and_retries(admin, sql):
    release, calls = threading.Event(), []

    @step(thread=True, timeout=0.1, retry=RetryPolicy(attempts=2, initial=0.01))
    def blocking(ctx: PyWorkflow) -> str:
        calls.append(1)
        assert release.wait(20)
        return "late"

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(StepTimeoutError):
            await blocking(ctx)
        release.set()
    assert len(calls) == 2
    await asyncio.sleep(0.05)  # what comes late is dropped
    assert await steps(sql, ctx) == {"blocking": "ERROR"}


@pytest.fixture
def one_thread(monkeypatch):
    """A pool of one thread, for which steps queue."""
    pool = StepThreads(1)
    monkeypatch.setattr("pgqrs.engine.calls.offload.step_threads", lambda _pid: pool)
    return pool


async def test_timeout_excludes_the_wait_for_a_thread(admin, one_thread):
    release = threading.Event()

    @step(thread=True)
    def first(ctx: PyWorkflow) -> None:
        assert release.wait(20)

    @step(thread=True, timeout=0.1)
    def second(ctx: PyWorkflow) -> str:
        return "in time"

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    async with no_hang():
        tasks = [asyncio.create_task(first(ctx))]
        await until(_is_busy, one_thread)
        tasks.append(asyncio.create_task(second(ctx)))
        _, pending = await asyncio.wait(tasks[1:], timeout=0.3)
        assert pending
        release.set()
        assert await asyncio.gather(*tasks) == [None, "in time"]


async def _is_busy(pool):
    return pool._threads == 1 and not pool._idle and not pool._calls


async def test_hung_calls_free_their_threads_and_are_logged(admin, one_thread, caplog, monkeypatch):
    release, ended = threading.Event(), []

    @step(thread=True, timeout=0.05, key=lambda n: n)
    def hangs(ctx: PyWorkflow, n: int) -> None:
        release.wait(20)
        ended.append(n)

    @step(thread=True, timeout=10)
    def fine(ctx: PyWorkflow) -> str:
        return "fine"

    async def all_ended():
        return len(ended) == 3 and one_thread._left == 0

    monkeypatch.setattr("pgqrs.engine.calls.thread_pool.MAX_ABANDONED", 2)
    monkeypatch.setattr("pgqrs.engine.calls.offload.MAX_ABANDONED", 2)
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        for n in range(2):
            with pytest.raises(StepTimeoutError):
                await hangs(ctx, n)
        assert await fine(ctx) == "fine"
        with pytest.raises(StepTimeoutError):
            await hangs(ctx, 2)
        release.set()
        await until(all_ended)
    said = [record.getMessage() for record in caplog.records if "in its thread" in record.getMessage()]
    assert [f"({n} such calls" in text and "hangs of workflow" in text for n, text in enumerate(said, 1)] == [
        True
    ] * 3
    assert ["blocks a thread" in text for text in said] == [False, False, True]


HANGING = """
import asyncio, os, threading
from pgqrs import Admin, PyWorkflow, Worker, step, workflow

@step(thread=True)
def hangs(ctx: PyWorkflow) -> None:
    print("hangs", flush=True)
    threading.Event().wait()

@workflow
async def wf(ctx: PyWorkflow) -> None:
    await hangs(ctx)

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await admin.enqueue(wf)
        await Worker(admin, [wf], grace=0.1).run()

asyncio.run(main())
print("the end")
"""


async def test_hung_call_does_not_block_process_exit(admin, program):
    process = program(HANGING)
    assert await line_of(process.stdout) == "hangs\n"
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0
    assert process.stdout.read() == "the end\n"


async def test_cancelled_wait_discards_the_late_result(admin, sql):
    release, started = threading.Event(), threading.Event()

    @step(thread=True)
    def blocking(ctx: PyWorkflow) -> str:
        started.set()
        assert release.wait(20)
        return "late"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await blocking(ctx)

    async def has_started():
        return started.is_set()

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await until(has_started)
        await cancel_task(task)
        release.set()
        assert await wf(ctx) == "late"


# --- executors ---


async def test_process_pool_runs_the_function_in_another_process(admin, sql):
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        square, pid, nested = await blocking_steps.computing(ctx, 7)
    assert (square, nested) == (50, 8)
    assert pid != os.getpid()
    assert await steps(sql, ctx) == {"heavy": "SUCCESS", "nested:7": "SUCCESS"}
    assert await blocking_steps.heavy(await admin.create_workflow("wf"), 2) == [4, pid]


async def test_process_error_is_recorded_as_the_step_error(admin):
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(LookupError, match="no such thing"):
            await blocking_steps.refuses(ctx, "no such thing")
        with pytest.raises(LookupError) as caught:
            await blocking_steps.refuses(ctx, "no such thing")
    assert is_replay(caught.value, LookupError)


async def test_main_module_step_runs_in_another_process(run_program):
    code, out, err = run_program(PROGRAM)
    assert (code, err) == (0, "")
    number, same = out.split()
    assert (number, same) == ("42", "False")


PROGRAM = """
import asyncio, os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pgqrs import Admin, step, workflow

pool = ProcessPoolExecutor(1, mp_context=get_context("spawn")) if __name__ == "__main__" else None

@step(executor=lambda: pool)
def heavy(number):
    return [number + 1, os.getpid()]

@workflow
async def wf(ctx):
    return await heavy(ctx, 41)

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await admin.install()
        number, pid = await admin.run(wf)
        print(number, pid == os.getpid())

if __name__ == "__main__":
    asyncio.run(main())
    pool.shutdown()
"""


async def test_executor_factory_is_called_once_at_first_use(admin):
    made = []

    def make():
        made.append(ThreadPoolExecutor(1, thread_name_prefix="mine"))
        return made[-1]

    @step(executor=make, key=lambda n: n)
    def where(n: int) -> str:
        return threading.current_thread().name

    assert made == []
    ctx = await admin.create_workflow("wf")
    for n in range(3):
        assert (await where(ctx, n)).startswith("mine")
    assert len(made) == 1
    made[0].shutdown()


async def test_broken_process_pool_is_replaced(admin):
    made = []

    def make():
        made.append(blocking_steps.process_pool())
        return made[-1]

    dies = step(executor=make, retry=RetryPolicy(attempts=2, initial=0.01))(blocking_steps.dies.__wrapped__)
    async with no_hang():
        with pytest.raises(RuntimeError):  # BrokenProcessPool is one, and transient
            await dies(await admin.create_workflow("wf"))
    assert len(made) == 2
    for each in made:
        each.shutdown()


async def test_thread_executor_accepts_a_closure(admin):
    pool, extra = ThreadPoolExecutor(1), 5

    @step(executor=pool)
    def add(number: int) -> int:
        return number + extra

    assert await add(await admin.create_workflow("wf"), 1) == 6
    pool.shutdown()


async def test_executor_cancelling_a_call_is_a_transient_error(admin):
    class GivesUp(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    @step(executor=GivesUp())
    def lost(number: int) -> int:
        return number

    with pytest.raises(TransientError, match="cancelled its call"):
        await lost(await admin.create_workflow("wf"), 1)


async def test_invalid_executor_is_refused(admin):
    with pytest.raises(TypeError, match="Executor"):
        step(executor=5)(lambda: None)
    no_executor = step(executor=lambda: 5, id="wrong")(lambda: None)
    with pytest.raises(TypeError, match="Executor"):
        await no_executor(await admin.create_workflow("wf"))


async def _asynchronous(ctx):
    pass


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, lambda ctx: None),
        ({"thread": True}, _asynchronous),
        ({"executor": ThreadPoolExecutor}, _asynchronous),
        ({"thread": True}, lambda: None),
        ({"thread": True, "executor": ThreadPoolExecutor}, lambda ctx: None),
    ],
)
def test_unsupported_blocking_functions_are_refused(options, function):
    with pytest.raises(TypeError):
        step(**options)(function)
