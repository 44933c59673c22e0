"""The loop of the background duties: no error ends it, a wake cuts its rest short, its end waits for the turn."""

import asyncio
import logging
import time

import pytest

from pgqrs import DatabaseUnavailableError
from pgqrs.worker.service import NEVER, PeriodicService


class Counting(PeriodicService):
    """Does what it is told turn by turn, and then rests for ever."""

    name = "counting"

    def __init__(self, *turns):
        super().__init__()
        self.turns = list(turns)
        self.begun = 0
        self.idle = asyncio.Event()

    async def run_once(self):
        self.begun += 1
        if not self.turns:
            self.idle.set()
            return NEVER
        told = self.turns.pop(0)
        if isinstance(told, Exception):
            raise told
        return told


async def _run(duty):
    async with asyncio.timeout(10):
        duty.start()
        duty.start()
        await duty.idle.wait()
        await duty.stop()


async def test_each_turn_sets_the_length_of_the_next_pause():
    duty = Counting(0, 0.05, 0.1)
    began = time.monotonic()
    await _run(duty)
    assert time.monotonic() - began >= 0.15
    assert duty.begun == 4


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), ValueError("odd"), TimeoutError()])
async def test_errors_do_not_stop_the_service_and_are_logged_once(caplog, error):
    caplog.set_level(logging.INFO, "pgqrs")
    await _run(Counting(0, error, error, 0, error))
    messages = [each.getMessage() for each in caplog.records]
    assert len([each for each in messages if "counting failed and will be retried" in each]) == 2
    assert len([each for each in messages if "counting works again after" in each]) == 2
    assert all(bool(each.exc_info) != isinstance(error, DatabaseUnavailableError) for each in caplog.records[:1])


async def test_wake_ends_the_pause_and_is_not_lost_during_a_turn():
    duty = Counting(60)
    duty.start()
    async with asyncio.timeout(10):
        while duty.begun < 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        duty.wake()
        await duty.idle.wait()
        for count in (3, 4):
            duty.wake()
            while duty.begun < count:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await duty.stop()
        await duty.stop()
    assert duty.begun == 4
