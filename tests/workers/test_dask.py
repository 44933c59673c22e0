"""Steps on a Dask cluster: real workers, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, KilledWorker, LocalCluster

from pgqrs import PyWorkflow, RetryPolicy, step, workflow
from tests.support import blocking_steps
from tests.support.recorded import is_replay, steps
from tests.support.waiting import no_hang, until

# Dask reruns what a worker died of, by itself; the retry policy is to decide.
CONFIG = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
TWICE = RetryPolicy(attempts=2, initial=0.01)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    before = set(psutil.Process().children(recursive=True))
    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL, "host": "127.0.0.1"}
    folder = {"temporary-directory": str(tmp_path_factory.mktemp("dask"))}
    with (
        dask.config.set(CONFIG | folder),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client
    left = [each for each in psutil.Process().children(recursive=True) if each not in before]
    _, alive = psutil.wait_procs([each for each in left if "resource_tracker" not in " ".join(each.cmdline())], 10)
    assert alive == []


def calls(folder):
    """Return the processes that steps ran in, in order: each leaves a file."""
    return [int(each.read_text()) for each in sorted(folder.iterdir())]


def note_call(folder):
    """Say in which process a step runs; return which call it is."""
    number = len(list(folder.iterdir()))
    part = folder.parent / f"{folder.name}.part"
    part.write_text(str(os.getpid()))
    part.rename(folder / str(number))
    return number


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


async def test_dask_step_runs_in_another_process_once(client, admin, sql, folder):
    note = note_call

    @step(executor=client.get_executor)
    def local(path: str, *, plus: int) -> list:
        return [note(Path(path)) + plus, os.getpid()]

    of_a_module = step(executor=client.get_executor)(blocking_steps.heavy.__wrapped__)

    crashes = [OSError("crashed")]

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [*await local(ctx, str(folder), plus=5), *await of_a_module(ctx, 7, plus=1)]
        if crashes:
            raise crashes.pop()
        return found

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(OSError, match="crashed"):
            await wf(ctx)
        number, pid, square, its_pid = await wf(await admin.get_workflow(ctx.id()))
    assert (number, square) == (5, 50)
    assert pid == its_pid != os.getpid()
    assert await steps(sql, ctx) == {"local": "SUCCESS", "heavy": "SUCCESS"}
    assert calls(folder) == [pid]


async def test_equal_calls_of_different_workflows_all_execute(client, admin, folder):
    """Dask takes calls that are alike for one."""
    note = note_call

    @step(executor=client.get_executor)
    def alike(path: str) -> int:
        return note(Path(path))

    contexts = [await admin.create_workflow("wf") for _ in range(5)]
    async with no_hang():
        for ctx in contexts:
            await ctx.start()
        await asyncio.gather(*(alike(ctx, str(folder)) for ctx in contexts))
    assert len(calls(folder)) == 5


async def test_dask_errors_are_raised_recorded_and_retried(client, admin, sql, folder):
    note = note_call

    @step(executor=client.get_executor, retry=TWICE)
    def fails(path: str) -> None:
        note(Path(path))
        raise ConnectionError("no such thing")

    refuses = step(executor=client.get_executor)(blocking_steps.refuses.__wrapped__)
    ctx = await admin.create_workflow("wf")
    for failing, argument, error in (
        (fails, str(folder), ConnectionError),
        (refuses, "no such thing", LookupError),
    ):
        async with no_hang():
            with pytest.raises(error, match="no such thing"):
                await failing(ctx, argument)
            with pytest.raises(error) as caught:
                await failing(ctx, argument)
        assert is_replay(caught.value, error)
    assert len(calls(folder)) == 2
    classes = await sql.fetch("SELECT error::json ->> 'type' FROM pgqrs_workflow_steps ORDER BY step_id")
    assert [each[0] for each in classes] == ["ConnectionError", "LookupError"]


@pytest.mark.parametrize("retry", [TWICE, None], ids=["two attempts", "no policy"])
async def test_killed_dask_worker_follows_the_retry_policy(client, admin, sql, folder, retry):
    note = note_call

    @step(executor=client.get_executor, retry=retry)
    def held(path: str) -> str:
        if note(Path(path)) == 0:
            threading.Event().wait()
        return "done"

    async def has_begun():
        return calls(folder)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        await ctx.start()
        task = asyncio.create_task(held(ctx, str(folder)))
        [pid] = await until(has_begun)
        os.kill(pid, signal.SIGKILL)
        if retry is None:
            with pytest.raises(KilledWorker):
                await task
            with pytest.raises(KilledWorker) as caught:
                await held(ctx, str(folder))
            assert is_replay(caught.value, KilledWorker)
            assert calls(folder) == [pid]
        else:
            assert await task == "done"
            first, second = calls(folder)
            assert first == pid != second
    assert await steps(sql, ctx) == {"held": "ERROR" if retry is None else "SUCCESS"}
