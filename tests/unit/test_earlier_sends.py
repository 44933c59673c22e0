"""Steps that send messages wait for the earlier ones of their run, so that the messages keep their order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pgqrs.engine.scope import StepExecution
from pgqrs.engine.step_runner import StepRunner


class Sends:
    """The sends of a run without a database."""

    def __init__(self) -> None:
        self.executions: dict[str, StepExecution] = {}
        lifecycle = SimpleNamespace(idle=SimpleNamespace(is_watched=False))
        store: Any = SimpleNamespace(journal=None, observer=None)
        parking: Any = SimpleNamespace(lifecycle=lifecycle)
        history: Any = None
        self.runner = StepRunner(object(), store, history, parking, self.executions)
        self.sent: list[str] = []

    def begin(self, step_id):
        run: Any = SimpleNamespace(context_key=None)
        execution = self.executions[step_id] = StepExecution(run, None, run, step_id, None)
        return asyncio.create_task(self._send(execution))

    async def _send(self, execution):
        await self.runner.wait_for_earlier_sends(execution)
        self.sent.append(execution.step_id)

    def end(self, step_id):
        self.runner._complete(self.executions[step_id])


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_each_send_waits_for_the_earlier_ones():
    sends = Sends()
    for each in "abc":
        sends.begin(each)
    for count, each in enumerate("abc", 1):
        await turns()
        assert sends.sent == list("abc"[:count])
        sends.end(each)
    sends.begin("d")
    await turns()
    assert sends.sent == list("abcd")


@pytest.mark.parametrize("later", ["before", "after"])
async def test_send_behind_an_abandoned_one_waits_on(later):
    sends = Sends()
    sends.begin("a")
    abandoned = sends.begin("b")
    await turns()
    if later == "before":
        sends.begin("c")
        await turns()
    abandoned.cancel()
    sends.end("b")
    if later == "after":
        sends.begin("c")
    await turns()
    assert sends.sent == ["a"]
    sends.end("a")
    await turns()
    assert sends.sent == ["a", "c"]


async def test_step_that_sends_nothing_delays_no_send():
    sends = Sends()
    run: Any = SimpleNamespace(context_key=None)
    sends.executions["other"] = StepExecution(run, None, run, "other", None)
    sends.begin("a")
    await turns()
    assert sends.sent == ["a"]


async def test_very_many_concurrent_sends_find_the_earlier_at_once():
    """A look at all the steps before each of them would take minutes."""
    sends = Sends()
    names = [f"send/paid:{n}" for n in range(50_000)]
    tasks = [sends.begin(each) for each in names]
    await turns()
    assert sends.sent == names[:1]
    for each in names:
        sends.end(each)
    await asyncio.gather(*tasks)
    assert sends.sent == names
