"""The tests' own `until`: it returns the answer, and fails with the condition that it waited for."""

import asyncio

import pytest

from tests.support.waiting import blocking_until, until


async def test_until_returns_the_first_true_answer():
    answers = iter([0, None, 7])
    assert await until(lambda: next(answers)) == 7

    async def third(limit):
        return next(counted) if limit == 3 else None

    counted = iter([False, "third"])
    assert await until(third, 3) == "third"


async def test_until_fails_with_a_description_of_the_condition():
    async def is_there(name):
        return False

    done = []
    with pytest.raises(pytest.fail.Exception, match=r"await until\(lambda: len\(done\) > 2.*within 0.02 seconds"):
        await until(lambda: len(done) > 2, seconds=0.02)
    with pytest.raises(pytest.fail.Exception, match=r"is_there for 'lamp' did not come true within 0.02 seconds"):
        await until(is_there, "lamp", seconds=0.02)


async def test_until_ends_a_condition_that_hangs():
    with pytest.raises(pytest.fail.Exception, match="did not come true"):
        await until(asyncio.Event().wait, seconds=0.02)

    async def times_out():
        raise TimeoutError("the condition's own")

    with pytest.raises(TimeoutError, match="the condition's own"):
        await until(times_out)


def test_blocking_until_returns_and_fails_as_until_does():
    answers = iter([0, 7])
    assert blocking_until(lambda: next(answers)) == 7
    done = []
    with pytest.raises(pytest.fail.Exception, match=r"lambda: len\(done\) > 2.*within 0.02 seconds"):
        blocking_until(lambda: len(done) > 2, seconds=0.02)
