"""`RetryPolicy`: a pure function of the number of failures and of the last error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs import ConfigurationError, RetryPolicy, TransientError
from pgqrs.codecs.failures import dump_error, load_error
from pgqrs.retry import policy_of

STEADY = RetryPolicy(attempts=6, initial=1, factor=2, maximum=5, jitter=0)


def test_delays_grow_up_to_the_maximum_and_end_with_the_attempts():
    assert [STEADY.delay(failures) for failures in range(1, 8)] == [1, 2, 4, 5, 5, None, None]


def test_single_attempt_is_not_retried():
    assert RetryPolicy(attempts=1).delay(1, OSError()) is None


@given(
    failures=st.integers(1, 10**6),
    initial=st.floats(0, 1e300),
    factor=st.floats(1, 1e300),
    maximum=st.floats(0, 3e9),
    jitter=st.floats(0, 1),
)
def test_a_delay_is_never_negative_nor_longer_than_the_maximum(failures, initial, factor, maximum, jitter):
    policy = RetryPolicy(attempts=10**6 + 1, initial=initial, factor=factor, maximum=maximum, jitter=jitter)
    assert 0 <= policy.delay(failures, OSError()) <= maximum


def test_jitter_shortens_delays_randomly():
    delays = [RetryPolicy(initial=10, jitter=0.5).delay(1) for _ in range(100)]
    assert all(5 <= delay <= 10 for delay in delays)
    assert len(set(delays)) > 1


@pytest.mark.parametrize("after", [0, 0.5, 7, 3600.0])
def test_retry_after_sets_the_delay(after):
    assert STEADY.delay(1, TransientError("busy", retry_after=after)) == after
    assert STEADY.delay(6, TransientError("busy", retry_after=after)) is None


@pytest.mark.parametrize("after", [None, "soon", True, math.nan, math.inf, [1]])
def test_non_numeric_retry_after_is_ignored(after):
    assert STEADY.delay(1, TransientError("busy", retry_after=after)) == 1


@pytest.mark.parametrize("after", [10**13, 10**19, 10**400, 1e300])
def test_retry_after_is_bounded(after):
    error = ExceptionGroup("both", [TransientError(retry_after=after), TransientError(retry_after=-after)])
    assert STEADY.delay(1, error) == 86400.0
    assert RetryPolicy(longest=7).delay(1, error) == 7


def test_retry_after_is_found_in_deeply_nested_groups():
    error = TransientError(retry_after=5)
    for _ in range(2000):
        error = ExceptionGroup("one", [error])
    assert STEADY.delay(1, error) == 5


def test_negative_retry_after_means_no_delay():
    assert STEADY.delay(1, TransientError(retry_after=-3)) == 0


def test_longest_retry_after_of_a_group_wins():
    inner = ExceptionGroup("inner", [TransientError(retry_after=4), OSError()])
    assert STEADY.delay(1, ExceptionGroup("outer", [TransientError(retry_after=2), inner])) == 4


def test_a_replayed_error_keeps_its_retry_after():
    text = dump_error(TransientError("busy", retry_after=9.5), terminal=False)
    replayed = load_error(text, workflow_id=1, step_id="a")
    assert replayed.retry_after == 9.5
    assert replayed.args == ("busy",)
    assert STEADY.delay(1, replayed) == 9.5


def test_transient_error_accepts_positional_arguments():
    assert TransientError().retry_after is None
    assert TransientError("a", 2).args == ("a", 2)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"attempts": 2.0},
        {"attempts": True},
        {"initial": -1},
        {"initial": math.nan},
        {"initial": "1"},
        {"factor": 0.5},
        {"factor": math.inf},
        {"maximum": -1},
        {"maximum": math.inf},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"jitter": None},
    ],
)
def test_invalid_policy_numbers_are_refused(options):
    [name] = options
    with pytest.raises(ConfigurationError, match=name):
        RetryPolicy(**options)


def test_a_policy_is_frozen_and_compares_by_value():
    assert RetryPolicy(attempts=5) == RetryPolicy(attempts=5)
    with pytest.raises(AttributeError):
        STEADY.attempts = 3


def test_number_is_the_count_of_attempts():
    assert policy_of(4) == RetryPolicy(attempts=4)
    assert policy_of(STEADY) is STEADY
    assert policy_of(None) is None
    with pytest.raises(ConfigurationError):
        policy_of(0)
    for wrong in (True, 2.5, "3"):
        with pytest.raises(TypeError):
            policy_of(wrong)
