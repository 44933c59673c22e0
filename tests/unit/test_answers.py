"""Futures whose waiter is woken by hand."""

import asyncio
import contextvars
import gc
import weakref
from contextlib import contextmanager

import pytest

from pgqrs.storage.answers import Answer, step_aside

place = contextvars.ContextVar("place", default="nowhere")


async def _waiting(answer, told):
    """Start a task that waits for an answer and then tells what it saw; return the task once it waits."""

    async def wait():
        try:
            told.append(await answer)
        except Exception as error:  # to be looked at
            told.append(error)
        told.append((asyncio.current_task(), place.get()))

    place.set("waiter")
    task = asyncio.create_task(wait())
    place.set("elsewhere")
    await asyncio.sleep(0)
    return task


@contextmanager
def _collector_off():
    """Free only what nothing refers to: a cycle stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _answer():
    return Answer(loop=asyncio.get_running_loop())


@pytest.mark.parametrize("verdict", [7, None, ValueError("no")])
async def test_the_waiter_goes_on_at_once_as_its_own_task_and_in_its_own_context(verdict):
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    itself = asyncio.current_task()
    wake = answer.settle_by_hand(verdict)
    assert told == []
    step_aside(itself, [wake])
    assert told == [verdict, (waiter, "waiter")]
    assert (asyncio.current_task(), place.get()) == (itself, "elsewhere")
    assert await waiter is None


async def test_it_is_a_future_as_any_other_where_nobody_wakes_by_hand():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    answer.settle(7)
    assert told == []
    await waiter
    assert told[0] == 7


async def test_others_who_wait_hear_of_it_in_the_next_turn():
    answer, told, heard = _answer(), [], []
    waiter = await _waiting(answer, told)
    answer.add_done_callback(lambda each: heard.append(each.result()))
    step_aside(asyncio.current_task(), [answer.settle_by_hand(7)])
    assert (told[0], heard) == (7, [])
    assert waiter.done()
    await asyncio.sleep(0)
    assert heard == [7]


async def test_one_that_nobody_waits_for_yet_is_settled():
    answer = _answer()
    assert answer.settle_by_hand(7) is None
    assert await answer == 7


async def test_a_waiter_that_was_cancelled_is_let_alone():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    waiter.cancel()
    assert answer.settle_by_hand(7) is None
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert told == []


async def test_a_task_that_is_cancelled_between_the_verdict_and_its_step_hears_of_both():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    wake = answer.settle_by_hand(7)
    waiter.cancel()
    step_aside(asyncio.current_task(), [wake])
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert answer.result() == 7


async def test_an_interrupt_of_the_waiter_passes_through_and_leaves_the_caller_the_running_task():
    answer = _answer()

    async def wait():
        await answer
        raise KeyboardInterrupt

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0)
    itself = asyncio.current_task()
    with pytest.raises(KeyboardInterrupt):
        step_aside(itself, [answer.settle_by_hand(7)])
    assert asyncio.current_task() is itself
    assert isinstance(waiter.exception(), KeyboardInterrupt)


@pytest.mark.parametrize("how", ["by hand", "in the next turn", "cancelled"])
async def test_it_holds_its_waiter_no_longer_than_it_needs(how):
    answer = _answer()
    waiter = await _waiting(answer, [])
    match how:
        case "by hand":
            step_aside(asyncio.current_task(), [answer.settle_by_hand(7)])
        case "in the next turn":
            answer.settle(7)
        case _:
            answer.cancel()
    await asyncio.wait([waiter])
    freed = weakref.ref(waiter)
    with _collector_off():
        del waiter
        await asyncio.sleep(0)
        assert freed() is None


async def test_an_error_that_is_kept_keeps_neither_the_task_nor_what_stepped_aside():
    answer, kept = _answer(), []

    async def fail():
        try:
            await answer
            raise ValueError("no")
        except ValueError as error:
            kept.append(error)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    step_aside(asyncio.current_task(), [answer.settle_by_hand(7)])
    freed = weakref.ref(task)
    with _collector_off():
        del task
        await asyncio.sleep(0)
        assert freed() is None
    assert kept
