"""The strict JSON codec: stored values, refused values, and the path in its errors."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import sys
import threading
import uuid
from collections import Counter, OrderedDict, defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgqrs.codecs import json as serialization
from pgqrs.codecs.base import Encoded
from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import SerializationError

CODEC = JsonCodec()


@pytest.fixture(autouse=True, scope="module", params=["orjson", "json"])
def encoder(request):
    """Encode with orjson, and without it."""
    round_trip = serialization._round_trip
    assert round_trip is not None
    if request.param == "json":
        serialization._round_trip = None
    yield
    serialization._round_trip = round_trip


def same(one, other) -> bool:
    """Equality that tells 1, 1.0 and True apart, -0.0 from 0.0, and one order of keys from another."""
    return repr(one) == repr(other) and types_of(one) == types_of(other)


def types_of(value):
    if isinstance(value, dict):
        return (type(value), [(type(key), types_of(child)) for key, child in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value), [types_of(child) for child in value])
    return type(value)


def refused(value, codec=CODEC) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    return caught.value


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=30)
tupled = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(text, inner).map(OrderedDict),
    max_leaves=30,
)
anything = st.recursive(
    scalars | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner),
    max_leaves=20,
)


class TestRoundTrip:
    @given(json_values)
    @example({"a\\u0000": "\\u0000"})
    def test_json_values_are_decoded_unchanged(self, value):
        encoded = CODEC.encode(value)
        assert same(encoded.value, value)
        assert same(CODEC.decode(encoded.text), value)

    @given(tupled)
    def test_first_run_and_replay_values_are_equal(self, value):
        encoded = CODEC.encode(value)
        assert same(encoded.value, CODEC.decode(encoded.text))
        assert same(encoded.value, json.loads(json.dumps(value)))

    @given(anything)
    def test_any_value_is_stored_without_loss_or_refused(self, value):
        try:
            encoded = CODEC.encode(value)
        except SerializationError as error:
            str(error).encode()
        else:
            assert same(encoded.value, value)
            assert "\0" not in encoded.text
            encoded.text.encode()

    @pytest.mark.parametrize("value", [None, False, 0, 0.0, -0.0, "", [], {}])
    def test_falsy_values_are_kept(self, value):
        assert same(CODEC.encode(value).value, value)

    @pytest.mark.parametrize("value", [1e300, -1e-300, 5e-324, 2**63, 10**400, 0.1 + 0.2, 1.0])
    def test_numbers_keep_every_digit(self, value):
        assert same(CODEC.decode(CODEC.encode({"n": value}).text), {"n": value})

    def test_the_order_of_keys_is_kept(self):
        assert CODEC.encode({"b": 1, "a": 2}).text == '{"b":1,"a":2}'

    def test_text_is_compact_and_readable(self):
        assert CODEC.encode({"name": "Zoë", "n": [1, 2]}) == Encoded(
            '{"name":"Zoë","n":[1,2]}', {"name": "Zoë", "n": [1, 2]}
        )

    def test_encoded_value_is_a_copy(self):
        inner = [1]
        assert CODEC.encode(inner).value is not inner

    def test_orjson_encodes_plain_values(self, monkeypatch):
        monkeypatch.setattr(serialization, "_round_trip", serialization._make_round_trip())
        monkeypatch.setattr(serialization, "_chunks", None)
        assert CODEC.encode({"a": [1, "ü", None]}) == Encoded('{"a":[1,"ü",null]}', {"a": [1, "ü", None]})

    def test_orjson_is_optional(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "orjson", None)
        assert serialization._make_round_trip() is None

    def test_works_without_the_c_encoder(self, monkeypatch):
        monkeypatch.setattr("json.encoder.c_make_encoder", None)
        assert "".join(serialization._make_chunks()({"a": [1, "ü"]}, 0)) == '{"a":[1,"ü"]}'


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Celsius(float):
    def __repr__(self):
        return "warm"


class Name(str):
    __slots__ = ()

    def __str__(self):
        return "somebody else"


Point = namedtuple("Point", "x y")  # noqa: PYI024


class TestPlainForms:
    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            ((1, (2, [3])), [1, [2, [3]]]),
            (Point(1, 2), [1, 2]),
            ({"p": Point(1, {"q": ()})}, {"p": [1, {"q": []}]}),
            (OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
            (defaultdict(list, a=[1]), {"a": [1]}),
            (Counter("aab"), {"a": 2, "b": 1}),
            (Colour.RED, "red"),
            ({Colour.RED: Level.HIGH}, {"red": 3}),
            ([Level.HIGH, True], [3, True]),
            ((Celsius(1.5), Level.HIGH, Colour.RED), [1.5, 3, "red"]),
            ([Celsius(1.5)], [1.5]),
            ((Name("me"),), ["me"]),
            ({"a": (Name("me"), {Name("key"): 1})}, {"a": ["me", {"key": 1}]}),
        ],
    )
    def test_subclasses_become_plain(self, value, plain):
        encoded = CODEC.encode(value)
        assert same(encoded.value, plain)
        assert same(json.loads(encoded.text), plain)

    def test_repeated_list_is_not_a_cycle(self):
        shared = [1]
        assert CODEC.encode((shared, shared, {"a": shared})).value == [[1], [1], {"a": [1]}]

    def test_rows_of_tuples_become_lists(self):
        rows = [(number, "name", None) for number in range(1000)]
        assert CODEC.encode(rows).value == [list(row) for row in rows]


@dataclasses.dataclass
class Order:
    number: int


class Model:
    def model_dump(self):
        raise NotImplementedError


class Array:
    def tolist(self):
        raise NotImplementedError


async def coroutine():
    """Forgotten by whoever called it."""


class TestRefusals:
    @pytest.mark.parametrize(
        ("value", "remedy"),
        [
            (dt.datetime(2025, 1, 1, tzinfo=dt.UTC), "isoformat()"),
            (dt.date(2025, 1, 1), "isoformat()"),
            (dt.timedelta(1), "total_seconds()"),
            (decimal.Decimal(1), "str(value)"),
            (uuid.UUID(int=1), "str(value)"),
            (Path("/x"), "str(value)"),
            (b"x", "base64"),
            (bytearray(b"x"), "base64"),
            ({1}, "sorted(value)"),
            (frozenset(), "sorted(value)"),
            (1j, "value.real"),
            (Order(1), "dataclasses.asdict(value)"),
            (enum.Enum("Kind", "A").A, "value.value"),
            (MappingProxyType({}), "dict(value)"),
            (iter([]), "list(value)"),
            (Model(), "model_dump"),
            (Array(), "tolist()"),
            (object(), "return a dict"),
            (Order, "return a dict"),
        ],
    )
    def test_other_types_are_refused_with_a_remedy(self, value, remedy):
        error = refused({"orders": [1, {"at": value}]})
        assert error.path == "$.orders[1].at"
        assert type(value).__name__ in error.reason
        assert remedy in error.reason

    def test_unawaited_coroutine_is_refused(self):
        forgotten = coroutine()
        assert "await it" in refused(forgotten).reason
        forgotten.close()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Celsius("nan")])
    def test_nan_and_infinity_are_refused(self, value):
        assert refused([0.0, value]).path == "$[1]"

    @pytest.mark.parametrize("key", [1, 1.5, True, None, Level.HIGH, (1,), b"k"])
    def test_non_string_keys_are_refused(self, key):
        error = refused({"a": [{key: 1}]})
        assert error.path == "$.a[0]"
        assert repr(key) in error.reason

    def test_deep_non_string_keys_are_refused_with_their_path(self):
        assert refused([{"n": [number]} for number in range(500)] + [{"n": {7: 1}}]).path == "$[500].n"

    def test_two_keys_with_equal_text_are_refused(self):
        class Other(str):
            __slots__ = ()
            __hash__ = str.__hash__

            def __eq__(self, other):
                return self is other

        assert refused({"a": 1, Other("a"): 2}).path == "$.a"

    @pytest.mark.parametrize("string", ["\0", "a\0b", "\ud800", "x\udcffy"])
    def test_unstorable_strings_are_refused(self, string):
        assert refused(string).path == "$"
        assert refused({"a": ["ok", string]}).path == "$.a[1]"
        error = refused({string: 1})
        assert error.path == f"$[{string!r}]"
        str(error).encode()

    def test_path_quotes_odd_keys_and_truncates_long_keys(self):
        assert refused({"odd key": {"é": {"0": b""}}}).path == "$['odd key']['é']['0']"
        assert len(refused({"k" * 1000: b""}).path) < 100

    def test_an_escaped_backslash_is_not_a_nul(self):
        assert CODEC.encode("\\u0000").value == "\\u0000"
        assert CODEC.encode(["\\\\u0000", ("\\u0000",)]).value == ["\\\\u0000", ["\\u0000"]]

    def test_cycle_is_refused(self):
        circle: list = [1]
        circle.append({"again": circle})
        error = refused(circle)
        assert error.path == "$[1].again"
        assert "contains itself" in error.reason

    def test_wide_cycle_is_found_before_memory_is_full(self):
        circle: list = ["x" * 100_000]
        circle.append(circle)
        assert "contains itself" in refused(circle).reason

    @pytest.mark.skipif(not sys.get_int_max_str_digits(), reason="no limit is set")
    def test_int_too_long_for_text_is_refused(self):
        assert refused({"n": 10**5000}).path == "$.n"
        assert refused((10**5000,)).path == "$[0]"


class TestSize:
    def test_the_limit_is_in_bytes(self):
        codec = JsonCodec(max_bytes=10)
        assert codec.encode("x" * 8).value == "x" * 8
        assert codec.encode("é" * 4).value == "é" * 4
        for value in ("x" * 9, "é" * 5, ("x" * 9,), ["\\u0000"]):
            error = refused(value, codec)
            assert error.path == "$"
            assert "10 are allowed" in error.reason

    def test_refusal_by_size_does_not_affect_later_calls(self):
        codec = JsonCodec(max_bytes=10)
        value = ["x" * 20]
        refused(value, codec)
        assert CODEC.encode(value).value == value


def nested(depth, leaf=None):
    value = leaf
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


class TestDepth:
    @pytest.mark.parametrize("leaf", [None, "[" * 500, "\\u0000", Level.HIGH])
    def test_two_hundred_levels_are_accepted(self, leaf):
        assert CODEC.encode(nested(200, leaf)).value == nested(200, leaf)

    @pytest.mark.parametrize("depth", [201, 999, 100_000])
    @pytest.mark.parametrize("leaf", [None, ()])
    def test_deeper_values_are_refused(self, depth, leaf):
        error = refused(nested(depth, leaf))
        assert "200 levels" in error.reason

    def test_wide_value_of_few_levels_is_accepted(self):
        wide = [{"n": [number]} for number in range(300)]
        assert CODEC.encode(wide).value == wide
        assert CODEC.encode("[" * 1000).value == "[" * 1000

    def test_encoding_works_near_the_end_of_the_stack(self):
        value = nested(199, (1,))

        def sink(frames):
            return CODEC.encode(value) if not frames else sink(frames - 1)

        assert sink(sys.getrecursionlimit() - 500).value == nested(199, [1])

    def test_too_deep_text_is_refused(self):
        with pytest.raises(SerializationError):
            CODEC.decode("[" * 100_000 + "]" * 100_000)


class TestDecode:
    @pytest.mark.parametrize("stored", ["", "{", "NaN", "[Infinity]", "nonsense", "1 2", "[" + "1" * 5000 + "]"])
    def test_invalid_json_raises_serialization_error(self, stored):
        with pytest.raises(SerializationError):
            CODEC.decode(stored)

    def test_handwritten_json_is_decoded(self):
        assert CODEC.decode(' { "a" : [ 1 , 2.0 ] }\n') == {"a": [1, 2.0]}


class LyingDict(dict):
    def __eq__(self, other):
        return True

    __hash__ = None


class LyingInt(int):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash("1")

    def __repr__(self):
        return "NaN"


class TestLiars:
    """Subclasses that are not what they seem: what is stored is strict JSON, or they are refused."""

    @pytest.mark.parametrize(
        "value",
        [
            LyingDict({1: "a"}),
            [LyingDict({None: "a"})],
            {LyingInt(1): "a"},
            LyingDict({"at": dt.date(2025, 1, 1)}),
            LyingDict({"n": math.nan}),
            LyingDict({"s": "\0"}),
            [LyingDict({"s": "\ud800"})],
            LyingInt(7),
            [LyingInt(7), (LyingInt(8),)],
        ],
    )
    def test_inconsistent_values_store_only_json(self, value):
        try:
            encoded = CODEC.encode(value)
        except SerializationError:
            return
        assert same(json.loads(encoded.text), encoded.value)
        assert "NaN" not in encoded.text
        assert CODEC.encode(encoded.value) == encoded

    def test_inconsistent_values_cannot_hide_a_type(self):
        assert refused(LyingDict({"at": dt.date(2025, 1, 1)})).path == "$.at"
        assert refused(LyingDict({"n": math.nan})).path == "$.n"
        assert refused(mock.MagicMock(spec=dict)).path == "$"

    def test_dict_is_stored_by_its_items(self):
        class Last(dict):
            def items(self):
                return [(key, values[-1]) for key, values in super().items()]

        assert CODEC.encode(Last(a=[1, 2])).value == {"a": 2}

    def test_failing_items_are_refused(self):
        class Broken(dict):
            def items(self):
                raise RuntimeError("no items today")

        error = refused({"b": Broken(a=1)})
        assert error.path == "$.b"
        assert "no items today" in error.reason

    def test_items_other_than_pairs_are_refused(self):
        class Odd(dict):
            def items(self):
                return [1]

        assert refused([Odd(a=1)]).path == "$[0]"

    def test_list_is_stored_by_its_elements(self):
        class Odd(list):
            def __iter__(self):
                return iter([b"never"])

        assert CODEC.encode([Odd([1])]).value == [[1]]
        assert CODEC.encode((Odd([1]),)).value == [[1]]

    def test_failing_equality_is_not_called(self):
        class Touchy(dict):
            def __eq__(self, other):
                raise RuntimeError

            __hash__ = None

        assert same(CODEC.encode(Touchy(a=1)).value, {"a": 1})

    def test_failing_repr_is_not_needed(self):
        class Shy:
            def __repr__(self):
                raise RuntimeError

            def __hash__(self):
                return 1

        assert "Shy" in refused({Shy(): 1}).reason


class TestSharing:
    def test_failure_does_not_affect_later_calls(self):
        inner = {"when": object()}
        value = [inner]
        for _ in range(3):
            assert refused(value).path == "$[0].when"
        inner["when"] = 1
        assert CODEC.encode(value).value == [{"when": 1}]
        assert not serialization._open_in_c

    def test_concurrent_threads_can_encode_one_value(self):
        inside = threading.Barrier(2)
        met = threading.local()

        class Slow(dict):
            def items(self):
                if not hasattr(met, "once"):
                    met.once = inside.wait(20)
                return super().items()

        value = [Slow(a=1)]
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(CODEC.encode, [value, value])) == [('[{"a":1}]', [{"a": 1}])] * 2
