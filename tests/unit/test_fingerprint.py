"""Fingerprints of arguments: equal for equal arguments, different for others, and without exceptions."""

from __future__ import annotations

import subprocess
import sys
import time
import timeit
from datetime import UTC, datetime
from enum import StrEnum
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqrs.engine.replay.fingerprint import fingerprint_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Colour(StrEnum):
    RED = "red"


class Rude:
    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError


class LyingDict(dict):
    def items(self):
        raise RuntimeError


def loop():
    one = []
    one.append({"self": one})
    return one


def deep():
    one = []
    for _ in range(100_000):
        one = [one]
    return one


def test_nested_sets_take_linear_time():
    def nested(innermost, levels=100):
        one = frozenset([innermost])
        for level in range(levels):
            one = frozenset([one, level])
        return one

    began = time.process_time()
    found = fingerprint_of((nested("a"),), {}, by_content=True)
    assert time.process_time() - began < 1
    assert found == fingerprint_of((nested("a"),), {}, by_content=True)
    assert found != fingerprint_of((nested("b"),), {}, by_content=True)


@given(st.lists(VALUES), st.dictionaries(st.text(), VALUES))
def test_equal_arguments_have_one_fingerprint_that_fits_a_bigint(args, kwargs):
    found = fingerprint_of(tuple(args), kwargs)
    assert found == fingerprint_of(tuple(args), dict(reversed(kwargs.items())))
    assert 0 <= found < 2**63


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, "1"),
        (1, True),
        (None, 0),
        ("", None),
        ([], {}),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (1, 1.5),
    ],
)
def test_other_arguments_have_another_fingerprint(one, other):
    assert fingerprint_of((one,), {}) != fingerprint_of((other,), {})
    assert fingerprint_of((), {"n": one}) != fingerprint_of((), {"n": other})


def test_replayed_arguments_have_an_equal_fingerprint():
    """What `Admin.run` is given comes back as JSON: tuples as lists, enums as their text."""
    assert fingerprint_of(((1, 2),), {}) == fingerprint_of(([1, 2],), {})
    assert fingerprint_of((Colour.RED,), {}) == fingerprint_of(("red",), {})


def test_an_argument_may_be_given_by_name_or_by_position():
    names = ("page", "size")
    by_position = fingerprint_of((1, 10), {}, names)
    assert (
        by_position
        == fingerprint_of((1,), {"size": 10}, names)
        == fingerprint_of((), {"size": 10, "page": 1}, names)
    )
    assert by_position != fingerprint_of((10, 1), {}, names)
    assert fingerprint_of((1,), {"other": 2}, names) != fingerprint_of((1, 2), {}, names)
    assert fingerprint_of((), {"size": 10}, names) != fingerprint_of((), {"page": 10}, names)


def test_non_json_value_counts_as_its_type():
    now = datetime.now(UTC)
    assert fingerprint_of((now,), {}) == fingerprint_of((datetime(2020, 1, 1, tzinfo=UTC),), {})
    assert fingerprint_of((now,), {}) != fingerprint_of((object(),), {})


ODD = {
    "rude": Rude,
    "contains itself": loop,
    "deep": deep,
    "lying": lambda: LyingDict(a=1),
    "keys of two types": lambda: {1: 2, "a": 3},
    "odd keys": lambda: {(1, 2): 3, None: 1, object(): 1},
    "rude key": lambda: {Rude(): Rude()},
    "huge": lambda: 10**5000,
    "nan": lambda: float("nan"),
    "surrogate": lambda: "\ud800\0",
    "bytes": lambda: b"bytes",
    "mock": MagicMock,
    "class": lambda: type,
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_fingerprint_never_raises(make):
    value = make()
    found = fingerprint_of((value,), {"more": value})
    assert found == fingerprint_of((value,), {"more": value})
    assert isinstance(fingerprint_of((value,), {}), int)


def test_fingerprint_is_equal_in_another_process():
    source = "from pgqrs.engine.replay.fingerprint import fingerprint_of as f; print(f(({'b': 'ä', 'a': [1.5, None]}, {1}), {'x': 1}))"
    told = {
        int(subprocess.check_output([sys.executable, "-c", source], env={"PYTHONHASHSEED": seed}))
        for seed in ("1", "2")
    }
    assert told == {fingerprint_of(({"b": "ä", "a": [1.5, None]}, {1}), {"x": 1})}


def test_fingerprint_takes_a_few_microseconds():
    args, kwargs = (17, "a text"), {"options": {"a": 1, "b": [1, 2, 3]}}
    times = timeit.repeat(lambda: fingerprint_of(args, kwargs, ("n", "text", "options")), number=1000, repeat=5)
    assert min(times) / 1000 < 20e-6  # 2 µs on an idle machine
