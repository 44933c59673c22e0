"""Write futures, whose waiters are resumed without the event loop."""

import asyncio
import contextvars
import gc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pgqrs.storage.journal.futures import Waker, WriteFuture, resume_inline

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
    return WriteFuture(loop=asyncio.get_running_loop())


@pytest.mark.parametrize("verdict", [7, None, ValueError("no")])
async def test_waiter_resumes_inline_in_its_own_task_and_context(verdict):
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    itself = asyncio.current_task()
    waiting = answer.resolve_now(verdict)
    assert told == []
    resume_inline(itself, [waiting])
    assert told == [verdict, (waiter, "waiter")]
    assert (asyncio.current_task(), place.get()) == (itself, "elsewhere")
    assert await waiter is None


async def test_write_future_resolves_like_an_ordinary_future():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    answer.resolve(7)
    assert told == []
    await waiter
    assert told[0] == 7


async def test_done_callbacks_run_in_the_next_turn():
    answer, told, heard = _answer(), [], []
    waiter = await _waiting(answer, told)
    answer.add_done_callback(lambda each: heard.append(each.result()))
    resume_inline(asyncio.current_task(), [answer.resolve_now(7)])
    assert (told[0], heard) == (7, [])
    assert waiter.done()
    await asyncio.sleep(0)
    assert heard == [7]


async def test_future_without_a_waiter_is_resolved():
    answer = _answer()
    assert answer.resolve_now(7) is None
    assert await answer == 7


async def test_cancelled_waiter_is_not_resumed():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    waiter.cancel()
    assert answer.resolve_now(7) is None
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert told == []


async def test_task_cancelled_before_its_resumption_is_cancelled():
    answer, told = _answer(), []
    waiter = await _waiting(answer, told)
    waiting = answer.resolve_now(7)
    waiter.cancel()
    resume_inline(asyncio.current_task(), [waiting])
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert answer.result() == 7


async def test_keyboard_interrupt_of_a_waiter_reaches_its_waker():
    answer = _answer()

    async def wait():
        await answer
        raise KeyboardInterrupt

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0)
    itself = asyncio.current_task()
    with pytest.raises(KeyboardInterrupt):
        resume_inline(itself, [answer.resolve_now(7)])
    assert asyncio.current_task() is itself
    assert isinstance(waiter.exception(), KeyboardInterrupt)


@pytest.mark.parametrize("how", ["by hand", "in the next turn", "cancelled"])
async def test_finished_future_releases_its_waiter(how):
    answer = _answer()
    waiter = await _waiting(answer, [])
    match how:
        case "by hand":
            resume_inline(asyncio.current_task(), [answer.resolve_now(7)])
        case "in the next turn":
            answer.resolve(7)
        case _:
            answer.cancel()
    await asyncio.wait([waiter])
    freed = weakref.ref(waiter)
    with _collector_off():
        del waiter
        await asyncio.sleep(0)
        assert freed() is None


async def test_kept_error_of_a_waiter_does_not_keep_its_task():
    answer, kept = _answer(), []

    async def fail():
        try:
            await answer
            raise ValueError("no")
        except ValueError as error:
            kept.append(error)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    resume_inline(asyncio.current_task(), [answer.resolve_now(7)])
    freed = weakref.ref(task)
    with _collector_off():
        del task
        await asyncio.sleep(0)
        assert freed() is None
    assert kept


def _waker(*, alone=False):
    waker = Waker(asyncio.get_running_loop())
    waker.expect(alone=alone)
    return waker


async def test_batch_waiters_resume_in_order_in_the_next_turn():
    answers, told = [_answer() for _ in range(3)], []
    waiters = [await _waiting(answer, told) for answer in answers]
    waker = _waker()
    for verdict, answer in enumerate(answers):
        waker.resolve(answer, verdict)
    assert told == []
    await asyncio.sleep(0)
    assert told == [each for n, waiter in enumerate(waiters) for each in (n, (waiter, "waiter"))]
    assert all(waiter.done() for waiter in waiters)


async def test_waiter_of_a_lone_record_resumes_inline():
    first, second = _answer(), _answer()
    told = []
    for answer in (first, second):
        await _waiting(answer, told)
    waker = _waker(alone=True)
    waker.resolve(first, 1)
    waker.resolve(second, 2)  # its journal gave the one up, and with it what was still to come
    waker.resume_inline(asyncio.current_task())
    assert told[0] == 1
    assert 2 not in told
    assert not waker.alone
    await asyncio.sleep(0)
    assert told[2] == 2


async def test_cancelled_batch_waiter_does_not_affect_other_waiters():
    answers, told = [_answer() for _ in range(3)], []
    waiters = [await _waiting(answer, told) for answer in answers]
    waker = _waker()
    for answer in answers:
        waker.resolve(answer, 7)
    waiters[1].cancel()
    await asyncio.wait(waiters)
    assert [waiter.cancelled() for waiter in waiters] == [False, True, False]


def test_interrupt_in_a_batch_waiter_keeps_the_remaining_waiters():
    told = []

    async def wait(answer):
        if await answer == "interrupt":
            raise KeyboardInterrupt
        told.append(answer.result())

    async def three():
        answers = [_answer() for _ in range(3)]
        waiters = [asyncio.create_task(wait(answer)) for answer in answers]
        await asyncio.sleep(0)
        waker = _waker()
        for answer, verdict in zip(answers, ("first", "interrupt", "last"), strict=True):
            waker.resolve(answer, verdict)
        await asyncio.wait(waiters, timeout=5)

    loop = asyncio.new_event_loop()
    try:
        running = loop.create_task(three())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(running)
        assert told == ["first"]
        loop.run_until_complete(running)
        assert told == ["first", "last"]
    finally:
        loop.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_debug_mode_leaves_the_resumption_to_the_loop(alone):
    asyncio.get_running_loop().set_debug(True)
    answer, told = _answer(), []
    await _waiting(answer, told)
    waker = _waker(alone=alone)
    waker.resolve(answer, 7)
    waker.resume_inline(asyncio.current_task())
    assert told == []
    await asyncio.sleep(0)
    assert told[0] == 7


async def test_kept_error_does_not_keep_other_batch_waiters():
    class Thing:
        """Something that can be looked for."""

    kept = []

    async def wait(answer):
        try:
            await answer
        except LookupError as error:
            kept.append(error)

    answers = [_answer() for _ in range(3)]
    waiters = [asyncio.create_task(wait(answer)) for answer in answers]
    await asyncio.sleep(0)
    waker = _waker()
    things = [Thing(), Thing()]
    freed = [weakref.ref(each) for each in (*things, *waiters)]
    for answer, verdict in zip(answers, (things[0], LookupError("kept"), things[1]), strict=True):
        waker.resolve(answer, verdict)
    await asyncio.wait(waiters)
    with _collector_off():
        del waiters, answers, answer, verdict, things
        await asyncio.sleep(0)
        assert [each() for each in freed] == [None] * 5
    assert len(kept) == 1


async def test_reentrant_loop_does_not_deadlock_batch_waiters():
    waker, told = _waker(), []
    first, second, third = answers = [_answer() for _ in range(3)]

    async def nesting():
        await first
        waker.resolve(third, 3)
        told.append(len(asyncio.get_running_loop()._ready))  # what such a loop would come to

    waiters = [
        asyncio.create_task(nesting()),
        *(asyncio.create_task(_append_result(each, told)) for each in answers[1:]),
    ]
    await asyncio.sleep(0)
    waker.resolve(first, 1)
    waker.resolve(second, 2)
    await asyncio.wait(waiters)
    assert told[0] > 0
    assert told[1:] == [2, 3]


async def _append_result(answer, told):
    told.append(await answer)


@pytest.mark.parametrize("alone", [True, False])
async def test_next_record_wakes_waiters_of_a_lost_callback(alone, monkeypatch):
    waker, told = _waker(), []
    answers = [_answer() for _ in range(2)]
    waiters = [asyncio.create_task(_append_result(each, told)) for each in answers]
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(waker, "_loop", SimpleNamespace(call_soon=lambda _callback: None))
        for verdict, answer in enumerate(answers):
            waker.resolve(answer, verdict)
    await asyncio.sleep(0)
    assert told == []
    waker.expect(alone=alone)
    await asyncio.wait(waiters, timeout=5)
    assert told == [0, 1]
