"""The typed and the encrypting codec, without a database: replayed types, refused losses, encryption."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import importlib
import ipaddress
import json
import math
import pathlib
import subprocess
import sys
import typing
import uuid
import zlib
from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, Never, NoReturn, TypeVar
from zoneinfo import ZoneInfo

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    computed_field,
    field_validator,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict, Unpack

from pgqrs import ConfigurationError, Encoded, SerializationError, WorkflowTimeoutError
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from pgqrs.codecs.annotations import ReturnType, annotation_of, input_codec
from pgqrs.codecs.base import codec_at, codec_for, is_typed, open_error, seal_error, stored_name, validate_codec
from pgqrs.codecs.failures import dump_error, load_error
from pgqrs.engine.replay.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from nowhere import Missing

UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Status(enum.StrEnum):
    NEW = "new"


class Address(BaseModel):
    street: str
    zip_code: str = Field(alias="zipCode")


class Line(BaseModel):
    sku: uuid.UUID
    price: decimal.Decimal
    count: int = 1


class Order(BaseModel):
    id: int
    at: dt.datetime
    lines: list[Line] = []
    to: Address | None = None
    tags: set[str] = set()
    colour: Colour = Colour.RED

    @computed_field
    @property
    def total(self) -> decimal.Decimal:
        return sum((line.price * line.count for line in self.lines), decimal.Decimal(0))


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Puppy(Dog):
    age: int


class Bird(BaseModel):
    kind: Literal["bird"] = "bird"
    name: str


class Fish(BaseModel):
    kind: Literal["fish"] = "fish"
    name: str


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    at: dt.datetime
    amount: decimal.Decimal
    colour: Colour


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Hidden(BaseModel):
    shown: int
    hidden: str = Field("", exclude=True)


class WithPrivate(BaseModel):
    shown: int
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


class Entity(BaseModel):
    id: int

    def __eq__(self, other):
        return isinstance(other, Entity) and self.id == other.id

    def __hash__(self):
        return hash(self.id)


class User(Entity):
    name: str = ""


class HiddenEntity(Entity):
    note: str = Field("", exclude=True)


@dataclasses.dataclass
class Uncompared:
    a: int = 0
    b: Annotated[int, Field(exclude=True)] = dataclasses.field(default=0, compare=False)


class Patch(BaseModel):
    id: int = 0
    name: str | None = None
    note: str | None = None
    tax: float = 10.5
    parts: list[Patch] = []


class Short(BaseModel):
    id: int


class Long(BaseModel):
    id: int
    note: str | None = None


class Whole(BaseModel):
    name: str | None = None
    note: str | None = None

    @model_serializer(mode="wrap")
    def _needs_all_fields(self, handler):
        made = handler(self)
        return {"name": made["name"], "note": made["note"]}


class Values(BaseModel):
    model_config = ConfigDict(use_enum_values=True)
    status: Status = Status.NEW


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Login(BaseModel):
    password: SecretStr


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("is odd")
        return number


class Broken(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _fails(cls, number: int) -> int:
        raise RuntimeError("the validator failed")


@dataclasses.dataclass
class Point:
    x: float
    at: dt.date | None = None
    inner: list[Point] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Slotted:
    x: decimal.Decimal


@pydantic_dataclass
class Checked:
    x: int


class Pair(NamedTuple):
    a: int
    b: dt.date


class Options(TypedDict, total=False):
    dry: bool
    until: dt.date


MOMENT = dt.datetime(2026, 5, 4, 3, 2, 1, 999, tzinfo=UTC)
LINE = Line(sku=uuid.UUID(int=7), price=decimal.Decimal("19.90"), count=2)
ORDER = Order(
    id=1, at=MOMENT, lines=[LINE], to=Address(street="x", zipCode="1"), tags={"a", "b"}, colour=Colour.BLUE
)

TYPED = {
    "model": (Order, ORDER),
    "list of models": (list[Order], [ORDER, ORDER]),
    "optional": (Order | None, None),
    "recursive model": (Node, Node(value=1, children=[Node(value=2)])),
    "strict model": (Strict, Strict(at=MOMENT, amount=decimal.Decimal("1.0"), colour=Colour.RED)),
    "open model": (Open, Open(id=1, other="x", more=[1])),
    "private": (WithPrivate, WithPrivate(shown=1)),
    "dataclass": (Point, Point(1.5, dt.date(2026, 1, 1), [Point(2)])),
    "slotted dataclass": (Slotted, Slotted(decimal.Decimal(1))),
    "pydantic dataclass": (Checked, Checked(1)),
    "named tuple": (Pair, Pair(1, dt.date(2026, 1, 1))),
    "typed dict": (Options, {"dry": True, "until": dt.date(2026, 1, 1)}),
    "datetime": (dt.datetime, MOMENT),
    "naive datetime": (dt.datetime, dt.datetime(2026, 1, 1, 5)),  # noqa: DTZ001
    "datetime in a time zone": (dt.datetime, dt.datetime(2026, 1, 1, 5, tzinfo=BERLIN)),
    "datetime in a repeated hour": (
        dt.datetime,
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    ),
    "latest datetime in a time zone": (dt.datetime, dt.datetime.max.replace(tzinfo=ZoneInfo("Etc/GMT+5"))),
    "earliest datetime in a time zone": (dt.datetime, dt.datetime.min.replace(tzinfo=ZoneInfo("Etc/GMT-9"))),
    "date": (dt.date, dt.date(2026, 1, 1)),
    "time": (dt.time, dt.time(1, 2, 3, 4)),
    "timedelta": (dt.timedelta, dt.timedelta(days=-400, microseconds=1)),
    "Decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "UUID": (uuid.UUID, uuid.UUID(int=1)),
    "enum": (Colour, Colour.RED),
    "int enum": (Level, Level.LOW),
    "str enum": (Status, Status.NEW),
    "str in a union with an enum": (Status | str, "new"),
    "member beside a model": (Status | Entity, Status.NEW),
    "set of entities": (set[User], {User(id=1, name="x")}),
    "dict of entities": (dict[Status, User], {Status.NEW: User(id=1, name="x")}),
    "generic model": (Page[Entity], Page[Entity](items=[Entity(id=1)])),
    "path": (pathlib.Path, pathlib.Path("/a/b")),
    "address": (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    "bytes": (bytes, b"abc"),
    "set": (set[int], {1, 2}),
    "frozenset": (frozenset[str], frozenset({"a"})),
    "tuple": (tuple[int, dt.date], (1, dt.date(2026, 1, 1))),
    "open tuple": (tuple[int, ...], (1, 2, 3)),
    "deque": (deque[int], deque([1, 2])),
    "dict of int keys": (dict[int, str], {1: "a"}),
    "dict of dates": (dict[dt.date, decimal.Decimal], {dt.date(2026, 1, 1): decimal.Decimal(1)}),
    "union": (int | str, "5"),
    "union of models": (Cat | Puppy, Puppy(name="x", age=1)),
    "tagged union": (list[Annotated[Bird | Fish, Field(discriminator="kind")]], [Fish(name="x"), Bird(name="y")]),
    "literal": (Literal["a", 1], 1),
    "constrained": (Annotated[int, Field(gt=0)], 1),
    "None": (type(None), None),
    "float": (float, -0.0),
    "int as float": (float, 3),
    "long int": (int, 10**400),
    "nested": (dict[str, list[Order | None]], {"a": [ORDER, None]}),
}


@pytest.mark.parametrize(("annotation", "value"), TYPED.values(), ids=TYPED.keys())
def test_values_are_replayed_with_their_type(annotation, value):
    codec = PydanticCodec().of(annotation)
    encoded = codec.encode(value)
    replayed = codec.decode(encoded.text)
    for back in (encoded.value, replayed):
        assert type(back) is type(value) or annotation is float
        assert back == value or isinstance(value, Slotted) or not value - back
    assert PydanticCodec().decode(encoded.text) == json.loads(encoded.text)


def test_stored_model_is_json_with_field_names():
    text = PydanticCodec().of(Order).encode(ORDER.model_copy(update={"tags": {"a"}})).text
    assert json.loads(text) == {
        "id": 1,
        "at": "2026-05-04T03:02:01.000999Z",
        "lines": [{"sku": "00000000-0000-0000-0000-000000000007", "price": "19.90", "count": 2}],
        "to": {"street": "x", "zip_code": "1"},
        "tags": ["a"],
        "colour": "blue",
    }


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def circular():
    value = [1]
    value.append(value)
    return value


REFUSED = {
    "another type": (int, "5", "$"),
    "a dict for a model": (Order, {"id": 1}, "$"),
    "a dict in a list of models": (list[Cat], [Cat(name="x"), {"name": "y"}], "$[1]"),
    "an unvalidated model": (Order, Order.model_construct(id="x", at=MOMENT), "$.id"),
    "an unvalidated model in a list": (list[Order], [ORDER, Order.model_construct(id="x", at=MOMENT)], "$[1].id"),
    "None": (int, None, "$"),
    "a value for None": (type(None), 1, "$"),
    "a constraint": (Annotated[int, Field(gt=0)], -1, "$"),
    "a literal": (Literal["a"], "b", "$"),
    "a wrong field of a dataclass": (Point, Point("x"), "$"),
    "an ambiguous union member": (Cat | Dog, Dog(name="x"), "$"),
    "a nested ambiguous union member": (
        dict[str, list[Cat | Dog]],
        {"pets": [Cat(name="x"), Dog(name="x")]},
        "$.pets[1]",
    ),
    "a datetime in a union with str": (str | dt.datetime, MOMENT, "$"),
    "a subclass": (Dog, Puppy(name="x", age=1), "$"),
    "a subclass compared by its id": (Entity, User(id=1, name="x"), "$"),
    "a nested subclass compared by its id": (dict[str, list[Entity]], {"a": [Entity(id=1), User(id=1)]}, "$.a[1]"),
    "a subclass compared by its id in a set": (set[Entity], {User(id=1)}, "$"),
    "a subclass compared by its id in a union": (list[Entity | dict[str, Any]], [User(id=1)], "$[0]"),
    "a hidden field of a model compared by its id": (HiddenEntity, HiddenEntity(id=1, note="x"), "$.note"),
    "a hidden field excluded from comparison": (Uncompared, Uncompared(1, 2), "$.b"),
    "an enum in a union with str": (Status | str, Status.NEW, "$"),
    "an enum in a union with str in a dict": (dict[str, list[Status | str]], {"a": ["new", Status.NEW]}, "$.a[1]"),
    "an enum in a union with str in a deque": (deque[Status | str], deque([Status.NEW]), "$[0]"),
    "an enum key in a union with str": (dict[Status | str, int], {Status.NEW: 1}, "$"),
    "an enum in a union with int": (int | Level, Level.LOW, "$"),
    "text in a union with a literal": (str | Literal[Status.NEW], "new", "$"),
    "a field excluded from the dump": (Hidden, Hidden(shown=1, hidden="x"), "$.hidden"),
    "a secret": (Login, Login(password=SecretStr("tiger")), "$.password"),
    "a datetime in an extra field": (Open, Open(id=1, at=MOMENT), "$.at"),
    "NaN": (Point, Point(math.nan), "$.x"),
    "NaN typed as Any": (Any, {"a": [math.nan]}, "$.a[0]"),
    "an infinity in a dict of Any": (dict[str, Any], {"a": {"b": math.inf}}, "$.a.b"),
    "a decimal NaN": (decimal.Decimal, decimal.Decimal("NaN"), "$"),
    "NUL": (Cat, Cat(name="a\0b"), "$.name"),
    "a lone surrogate": (list[str], ["a", "\ud800"], "$[1]"),
    "bytes other than UTF-8": (bytes, b"\xff", "$"),
    "an object": (Any, object(), "$"),
    "an exception": (Any, {"a": ValueError("x")}, "$"),
    "keys with equal text": (Any, {1: "a", "1": "b"}, "$"),
    "too deep": (Any, deep(300), "$"),
    "too deep, typed": (list, deep(300), "$"),
    "circular": (list, circular(), "$"),
    "a validator that fails": (Broken, Broken.model_construct(number=1), "$"),
    "a validator that refuses": (Even, Even.model_construct(number=1), "$.number"),
    "an offset of seconds": (dt.datetime, dt.datetime(1912, 1, 1, tzinfo=ZoneInfo("Africa/Abidjan")), "$"),
    "a huge int": (int, 10**5000, "$"),
}


@pytest.mark.parametrize(("annotation", "value", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_value_that_cannot_be_replayed_is_refused(annotation, value, path):
    with pytest.raises(SerializationError) as caught:
        PydanticCodec().of(annotation).encode(value)
    assert caught.value.path.startswith(path)
    assert not caught.value.reading
    assert "tiger" not in str(caught.value)


def test_enum_member_is_stored_as_its_value():
    assert PydanticCodec().of(list[str]).encode([Status.NEW]).value == ["new"]
    assert PydanticCodec().of(dict[str, Any] | Colour).encode({"a": Status.NEW}).value == {"a": "new"}
    for value in (Values(), Values(status=Status.NEW)):
        assert PydanticCodec().of(Values).encode(value).value == value


def test_generic_model_matches_any_parametrization():
    for annotation, value in ((Page[int], Page(items=[1])), (Page, Page[int](items=[1]))):
        assert PydanticCodec().of(annotation).encode(value).value == value


def test_private_attributes_are_not_stored():
    given = WithPrivate(shown=1)
    given._cache["a"] = 1
    assert PydanticCodec().of(WithPrivate).encode(given).value._cache == {}


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Patch, Patch(name="Ada", tax=1, id=1, parts=[]), '{"id":1,"name":"Ada","tax":1.0,"parts":[]}'),
        (Patch, Patch(name=None, tax=1, id=1, parts=[]), '{"id":1,"name":null,"tax":1.0,"parts":[]}'),
        (
            dict[str, tuple[Patch, int | None]],
            {"a": (Patch(id=1, tax=2, parts=[Patch(id=2, tax=2, parts=[], note=None)]), None)},
            '{"a":[{"id":1,"tax":2.0,"parts":[{"id":2,"note":null,"tax":2.0,"parts":[]}]},null]}',
        ),
    ],
)
def test_unset_none_field_stays_unset(annotation, value, text):
    encoded = PydanticCodec().of(annotation).encode(value)
    assert encoded.text == text
    assert encoded.value == value
    assert set_fields(encoded.value) == set_fields(value)


def set_fields(value):
    """Return the dump of a value without the fields that were not set, and their order."""
    return TypeAdapter(Any).dump_python(value, exclude_unset=True)


def test_other_defaults_are_recorded():
    encoded = PydanticCodec().of(Patch).encode(Patch(name="Ada"))
    assert encoded.text == '{"id":0,"name":"Ada","tax":10.5,"parts":[]}'
    assert encoded.value.model_fields_set == {"id", "name", "tax", "parts"}


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(Short | Long, Long(id=1)), (Whole, Whole(name="x")), (list[Whole], [Whole(), Whole(note="x")])],
)
def test_all_fields_are_recorded_where_needed_for_equality(annotation, value):
    encoded = PydanticCodec().of(annotation).encode(value)
    assert encoded.value == value
    assert "null" in encoded.text


@pytest.mark.parametrize("annotation", [Iterable[int], dict[str, Generator[int, None, None]], Collection[int]])
def test_one_shot_iterables_are_refused_by_annotation(annotation):
    with pytest.raises(ConfigurationError, match=r"only once.*a list|no schema"):
        PydanticCodec().of(annotation)


def test_value_over_the_size_limit_is_refused():
    with pytest.raises(SerializationError, match="100 are allowed"):
        PydanticCodec(max_bytes=100).of(str).encode("x" * 200)


PLAIN = {
    "nothing": (None, None),
    "model": (ORDER.to, {"street": "x", "zip_code": "1"}),
    "datetime": (MOMENT, "2026-05-04T03:02:01.000999Z"),
    "tuple": ((1, 2), [1, 2]),
    "set": ({1}, [1]),
    "nested": (
        {"a": [Point(1.0)], 2: decimal.Decimal("1.5")},
        {"a": [{"x": 1.0, "at": None, "inner": []}], "2": "1.5"},
    ),
    "a lossy model": (Puppy(name="x", age=1), {"name": "x", "age": 1}),
}


@pytest.mark.parametrize(("value", "plain"), PLAIN.values(), ids=PLAIN.keys())
def test_untyped_values_are_replayed_as_json(value, plain):
    codec = PydanticCodec()
    encoded = codec.encode(value)
    assert encoded.value == codec.decode(encoded.text) == plain
    assert codec.of(Any).encode(value) == encoded


@pytest.mark.parametrize(
    ("annotation", "value", "back"),
    [
        (dict[str, Any], {"at": MOMENT.date(), "n": 1}, {"at": "2026-05-04", "n": 1}),
        (Sequence[int], (1, 2), [1, 2]),
        (Mapping[str, Sequence[Cat]], {"a": (Cat(name="x"),)}, {"a": [Cat(name="x")]}),
        (list[Any], [Cat(name="x")], [{"name": "x"}]),
    ],
)
def test_any_and_sequences_replay_as_json_and_lists(annotation, value, back):
    codec = PydanticCodec().of(annotation)
    encoded = codec.encode(value)
    assert encoded.value == codec.decode(encoded.text) == back


def test_outdated_history_error_names_the_missing_field():
    with pytest.raises(
        SerializationError, match=r"cannot be read back: at \$\[0\]\.at: .*Field required"
    ) as caught:
        PydanticCodec().of(list[Order]).decode('[{"id": 1}]')
    assert caught.value.reading
    assert "of step 'charge' of workflow 5 cannot be read" in str(caught.value.of(workflow_id=5, step_id="charge"))


@pytest.mark.parametrize("text", ["", "nonsense", "[1", '{"number": 1}'])
def test_text_of_another_type_is_refused(text):
    for annotation in (Even, Broken):
        with pytest.raises(SerializationError):
            PydanticCodec().of(annotation).decode(text)


def test_unknown_type_is_named():
    class Unknown:
        pass

    with pytest.raises(ConfigurationError, match=r"no schema for .*Unknown"):
        PydanticCodec().of(Unknown)


def test_codec_of_a_type_is_cached():
    codec, annotation = PydanticCodec(), list[Order]
    assert codec.of(annotation) is codec.of(annotation)
    assert codec.of(int).of(annotation) is codec.of(annotation)
    assert codec.of(annotation).name == codec.name == "pydantic"


def test_union_order_is_part_of_the_codec_cache():
    codec = PydanticCodec()
    assert codec.of(Cat | Dog).decode('{"name": "x"}') == Cat(name="x")
    assert codec.of(Dog | Cat).decode('{"name": "x"}') == Dog(name="x")


# --- properties ---

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(
    min_value=dt.datetime(1980, 1, 1),  # noqa: DTZ001
    timezones=st.none()
    | st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kathmandu"), ZoneInfo("Australia/Lord_Howe")]),
)
lines = st.builds(Line, sku=st.uuids(), price=decimals, count=st.integers())
orders = st.builds(
    Order,
    id=st.integers(),
    at=moments,
    lines=st.lists(lines, max_size=3),
    to=st.none() | st.builds(lambda street, code: Address(street=street, zipCode=code), texts, texts),
    tags=st.sets(texts, max_size=3),
    colour=st.sampled_from(Colour),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
points = st.recursive(
    st.builds(Point, x=floats, at=st.none() | st.dates()),
    lambda inner: st.builds(Point, x=floats, at=st.none(), inner=st.lists(inner, max_size=3)),
    max_leaves=5,
)
Anything = Order | Point | dict[str, list[decimal.Decimal]] | tuple[int, dt.date | None] | None
anything = st.one_of(
    orders,
    points,
    st.dictionaries(texts, st.lists(decimals, max_size=3), max_size=3),
    st.tuples(st.integers(), st.none() | st.dates()),
    st.none(),
)


@settings(deadline=None)
@given(anything)
def test_first_run_and_replays_return_equal_values(value):
    codec = PydanticCodec().of(Anything)
    first = codec.encode(value)
    replayed = codec.decode(first.text)
    again = codec.encode(replayed)
    assert first.value == replayed == again.value
    assert type(first.value) is type(replayed) is type(value)


@settings(deadline=None)
@given(orders)
def test_models_are_replayed_equal(order):
    back = PydanticCodec().of(Order).encode(order).value
    assert back.model_copy(update={"at": 0}) == order.model_copy(update={"at": 0})
    if order.at.tzinfo is None:
        assert back.at == order.at
    else:
        assert back.at.astimezone(UTC) == order.at.astimezone(UTC)


@settings(deadline=None)
@given(points)
def test_dataclasses_are_replayed_equal(point):
    assert PydanticCodec().of(Point).encode(point).value == point


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | floats | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=20,
    )
)
def test_json_values_are_stored_as_by_the_json_codec(value):
    assert PydanticCodec().encode(value) == JsonCodec().encode(value)


@settings(deadline=None)
@given(anything, st.booleans())
def test_encryption_preserves_values(value, typed):
    plain = PydanticCodec().of(Anything if typed else Any)
    secret = FernetCodec([Fernet.generate_key()], PydanticCodec()).of(Anything if typed else Any)
    encoded = secret.encode(value)
    assert secret.decode(encoded.text) == encoded.value == plain.encode(value).value


@settings(deadline=None)
@given(anything)
def test_replayed_values_have_equal_fingerprints(value):
    back = PydanticCodec().of(Anything).encode(value).value
    assert fingerprint_of((back,), {}, by_content=True) == fingerprint_of((value,), {}, by_content=True)


class Lying(dict):
    __hash__ = None

    def __eq__(self, other):
        return True

    def items(self):
        return [("missing", 1)]


def test_inconsistent_dict_is_refused():
    with pytest.raises(
        SerializationError, match="cannot be compared with the value that would come back: KeyError"
    ):
        PydanticCodec().of(dict[str, list[dt.date]]).encode(Lying(key=[dt.date(2026, 1, 1)]))


# --- encryption ---

OLD, NEW = base64.urlsafe_b64encode(b"o" * 32), base64.urlsafe_b64encode(b"n" * 32).decode()


def test_encrypted_text_hides_the_value():
    encoded = FernetCodec([NEW]).encode({"card": "4111"})
    assert encoded.value == {"card": "4111"}
    assert "card" not in encoded.text
    assert json.loads(encoded.text).startswith("gAAAA")
    assert FernetCodec([NEW]).decode(encoded.text) == {"card": "4111"}


def test_keys_are_rotated():
    written = FernetCodec([OLD]).encode("x").text
    assert FernetCodec([NEW, OLD]).decode(written) == "x"
    assert FernetCodec([OLD, NEW]).decode(FernetCodec([NEW, OLD]).encode("y").text) == "y"
    with pytest.raises(SerializationError, match=r"cannot be read back: .*none of the keys") as caught:
        FernetCodec([NEW]).decode(written)
    assert NEW not in str(caught.value)


def test_a_changed_token_is_refused():
    text = FernetCodec([NEW]).encode("x").text
    changed = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    with pytest.raises(SerializationError):
        FernetCodec([NEW]).decode(changed)


@pytest.mark.parametrize("text", ["{}", "[]", "1", "null", "nonsense", "", '"plain"', '"\\u00e9"'])
def test_text_that_is_not_encrypted_is_refused(text):
    with pytest.raises(SerializationError) as caught:
        FernetCodec([NEW]).decode(text)
    assert caught.value.reading


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 100_000])
def test_malformed_json_text_is_refused_as_unencrypted(text):
    with pytest.raises(SerializationError, match="the stored text is not encrypted"):
        FernetCodec([NEW]).decode(text)


@pytest.mark.parametrize("codec", [FernetCodec([NEW]), FernetCodec([NEW], PydanticCodec())])
def test_token_is_bound_to_its_place(codec):
    places = [
        ("input", "pay"), ("output", 1), ("error", 1), ("output", 2),
        ("output", 1, "approve:alice"), ("error", 1, "approve:alice"), ("output", 1, "approve\nalice"),
    ]  # fmt: skip
    for here in places:
        text = codec_at(codec, *here).encode("paid\n").text
        assert codec_at(codec.of(Any), *here).decode(text) == "paid\n"
        for elsewhere in (codec_at(codec, *each) for each in places if each != here):
            with pytest.raises(SerializationError, match="another place") as caught:
                elsewhere.decode(text)
            assert caught.value.reading
        with pytest.raises(SerializationError, match="another place"):
            codec.decode(text)


def test_only_a_timeout_error_may_be_unencrypted():
    codec = FernetCodec([NEW])
    genuine = dump_error(WorkflowTimeoutError(7, 2.5), terminal=True)
    assert json.loads(genuine) == json.loads(genuine) | json.loads(open_error(codec, genuine, 7))
    forged = json.loads(genuine) | {
        "message": "paid",
        "mro": ["builtins:PermissionError"],
        "args": ["x"],
        "notes": ["y"],
    }
    assert open_error(codec, json.dumps(forged), 7) == open_error(codec, genuine, 7)
    for timeout in (math.inf, -1, "x", True, 1e300, None):
        forged["attributes"] = {"timeout": timeout}
        replayed = load_error(open_error(codec, json.dumps(forged), 7), workflow_id=7, step_id="")
        assert isinstance(replayed, WorkflowTimeoutError)
    with pytest.raises(SerializationError):
        open_error(codec, genuine, 7, "step")
    with pytest.raises(SerializationError):
        open_error(codec, dump_error(PermissionError("no"), terminal=True), 7)


def test_encryption_stacks_on_any_codec():
    codec = FernetCodec([NEW], PydanticCodec())
    assert (codec.name, FernetCodec([NEW]).name) == ("fernet+pydantic", "fernet+json")
    typed = codec.of(Order)
    assert typed.name == codec.name
    assert typed.decode(typed.encode(ORDER).text) == ORDER
    assert codec.decode(typed.encode(ORDER).text)["id"] == 1
    assert FernetCodec([OLD], codec).name == "fernet+fernet+pydantic"
    json_codec = FernetCodec([NEW])
    assert json_codec.of(Order) is json_codec


def test_encryption_is_typed_if_its_inner_codec_is():
    assert not is_typed(FernetCodec([NEW], FernetCodec([OLD], Named())))
    twice = FernetCodec([NEW], FernetCodec([OLD], PydanticCodec()))
    assert is_typed(twice)
    assert is_typed(twice.of(Order))
    assert twice.of(Order).encode(ORDER).value == ORDER
    untyped = FernetCodec([NEW])
    assert ReturnType(missing).codec(untyped) is input_codec(untyped, missing, 2, ()) is untyped


def test_value_refused_by_the_inner_codec_is_refused():
    with pytest.raises(SerializationError) as caught:
        FernetCodec([NEW]).encode({"at": MOMENT})
    assert caught.value.path == "$.at"


def test_errors_are_encrypted():
    codec = FernetCodec([NEW, OLD])
    error = '{"type": "ValueError", "message": "4111"}'
    hidden = seal_error(codec, error)
    assert "4111" not in hidden
    assert isinstance(json.loads(hidden), str)
    assert open_error(codec, hidden) == error
    with pytest.raises(SerializationError, match="the stored text is not encrypted"):
        open_error(codec, error)
    assert seal_error(JsonCodec(), error) == open_error(PydanticCodec(), error) == error


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "bad key"], [b"\xff" * 44], ["é" * 44]])
def test_bad_keys_are_refused_without_showing_them(keys):
    with pytest.raises(ConfigurationError) as caught:
        FernetCodec(keys)
    assert all(str(key) not in str(caught.value) for key in keys)
    assert NEW not in str(caught.value)


@pytest.mark.parametrize("keys", [NEW, OLD, None, 5, [5], [None]])
def test_keys_of_another_type_are_refused(keys):
    with pytest.raises(TypeError) as caught:
        FernetCodec(keys)
    assert NEW not in str(caught.value)


def test_repr_of_a_codec_shows_no_key():
    assert NEW not in repr(FernetCodec([NEW]))


# --- custom codecs ---


class Old:
    def encode(self, value):
        return Encoded(json.dumps(value), value)

    def decode(self, text):
        return json.loads(text)


class Named(Old):
    name = "mine"


@pytest.mark.parametrize("codec", [None, 5, object(), JsonCodec, Encoded("1", 1)])
def test_invalid_codec_is_refused(codec):
    with pytest.raises(TypeError):
        validate_codec(codec)


@pytest.mark.parametrize("name", [None, "", "a\0b", "a\nb", 5, "x" * 101])
def test_a_codec_needs_a_name(name):
    codec = Old()
    codec.name = name
    for each in (Old(), codec):
        with pytest.raises(TypeError, match="`name`"):
            validate_codec(each)
    with pytest.raises(TypeError):
        FernetCodec([NEW], codec)


def test_custom_codec_needs_only_a_name():
    codec = Named()
    assert validate_codec(codec) is codec
    assert codec_for(codec, Order) is codec
    assert ReturnType(test_repr_of_a_codec_shows_no_key).codec(codec) is codec
    assert FernetCodec([NEW], codec).name == "fernet+mine"
    assert (stored_name(codec), stored_name(JsonCodec())) == ("mine", None)


def test_documented_codec_works():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "values.md").read_text()
    source = page[page.index("class ZlibCodec") :].partition("```")[0]
    names = {"Any": Any, "Encoded": Encoded, "JsonCodec": JsonCodec, "base64": base64, "json": json, "zlib": zlib}
    exec(source, names)
    for codec in (names["ZlibCodec"](), FernetCodec([NEW], names["ZlibCodec"]())):
        encoded = validate_codec(codec).encode({"a": (1, "x" * 1000)})
        assert codec.decode(encoded.text) == encoded.value == {"a": [1, "x" * 1000]}
        assert "xxx" not in encoded.text


class Data(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


def test_bytes_follow_the_model_configuration():
    value = Data(data=b"\xff\0")
    assert PydanticCodec().of(Data).encode(value).value == value


# --- annotations ---


async def annotated(
    ctx, order: Order, /, at: dt.datetime, *rest: Cat, key: uuid.UUID, plain=1, **options: Dog
) -> Order:
    return order


async def unannotated(ctx, a, *rest, b=1, **options):
    pass


async def unpacked(ctx, *numbers: *tuple[int, ...], **options: Unpack[Options]) -> None:
    pass


async def missing(ctx: Missing, order: Order, other: Missing) -> list[Missing]:
    return []


def never() -> NoReturn: ...


def never_either() -> Never: ...


def many(
    a: Iterable[dt.date], b: typing.Collection[str] | None, c: Iterable, *rest: Iterable[int]
) -> Iterable[Cat]: ...


async def only_the_context_is_missing(ctx: Missing) -> Later:
    return Later(name="x")


class Later(BaseModel):
    name: str


def annotations(function, count, *names):
    asked = []

    class Asks(Named):
        def of(self, annotation):
            asked.append(annotation)
            return self

    input_codec(Asks(), function, count, names)
    hints = asked[0].__annotations__
    return hints["args"].__args__, hints["kwargs"].__annotations__


def test_workflow_arguments_have_the_types_of_the_parameters():
    assert annotations(annotated, 4, "key", "plain", "other") == (
        (Order, dt.datetime, Cat, Cat),
        {"key": uuid.UUID, "plain": Any, "other": Dog},
    )
    assert annotations(annotated, 1, "at", "key") == ((Order,), {"at": dt.datetime, "key": uuid.UUID})
    assert annotations(unannotated, 3, "b", "c") == ((Any, Any, Any), {"b": Any, "c": Any})
    assert annotations(unpacked, 2, "until", "dry") == ((Any, Any), {"until": dt.date, "dry": bool})
    assert annotations(unannotated, 0) == ((), {})


def test_input_codec_is_cached():
    codec = PydanticCodec()
    assert input_codec(codec, annotated, 2, ("key",)) is input_codec(codec, annotated, 2, ("key",))


def test_input_is_replayed_with_its_types():
    typed = input_codec(PydanticCodec(), annotated, 3, ("key", "plain", "a b"))
    given = {
        "args": (ORDER, MOMENT, Cat(name="x")),
        "kwargs": {"key": uuid.UUID(int=1), "plain": 5, "a b": Dog(name="x")},
    }
    encoded = typed.encode(given)
    assert encoded.value == typed.decode(encoded.text) == given
    assert json.loads(encoded.text)["kwargs"]["plain"] == 5


def test_annotations_are_resolved_lazily_and_separately():
    assert annotation_of(only_the_context_is_missing, "return") is Later
    assert annotation_of(missing, "order") is Order
    for name in ("return", "other"):
        with pytest.raises(ConfigurationError, match=r"missing cannot be looked up: .*Missing.*TYPE_CHECKING"):
            annotation_of(missing, name)


def test_noreturn_annotation_means_any():
    for function in (never, never_either):
        assert annotation_of(function, "return") is Any


def test_iterable_annotation_means_sequence():
    found = [annotation_of(many, name) for name in ("a", "b", "c", "rest", "return")]
    assert found == [Sequence[dt.date], Sequence[str] | None, Sequence, Sequence[int], Sequence[Cat]]
    assert ReturnType(many).codec(PydanticCodec()).encode((Cat(name="x"),)).value == [Cat(name="x")]


def test_other_unions_are_unchanged():
    def union() -> list[Cat | Dog] | None: ...

    given = typing.Optional[list[Dog | Cat]]  # noqa: UP045  the equal one that `typing` may have in its cache
    union.__annotations__["return"] = given
    assert annotation_of(union, "return") is given


def test_local_class_used_by_the_function_is_resolved():
    class Local(BaseModel):
        name: str

    def mentions() -> Local:
        return Local(name="x")

    def does_not() -> Local: ...

    assert annotation_of(mentions, "return") is Local
    with pytest.raises(ConfigurationError, match="Local"):
        annotation_of(does_not, "return")


class Callable:
    def __call__(self, at: dt.date) -> Cat: ...


@functools.wraps(annotated)
def wrapper(*args, **kwargs):
    pass


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (annotated, Order),
        (wrapper, Order),
        (functools.partial(annotated, 1), Order),
        (Callable(), Cat),
        (unannotated, Any),
        (lambda: 1, Any),
        (math.sqrt, Any),
        (unpacked, type(None)),
    ],
)
def test_every_kind_of_function_has_a_return_annotation(function, found):
    assert annotation_of(function, "return") == found


def test_result_type_is_cached_for_a_codec():
    returns, codec = ReturnType(annotated), PydanticCodec()
    assert returns.codec(codec) is returns.codec(codec)
    other = PydanticCodec()
    assert returns.codec(other) is not returns.codec(codec)
    assert returns.codec(other).decode(returns.codec(other).encode(ORDER).text) == ORDER
    json_codec = JsonCodec()
    assert returns.codec(json_codec) is json_codec


def test_unsupported_result_error_names_the_function():
    class Unknown:
        pass

    def step() -> Unknown:
        return Unknown()

    with pytest.raises(ConfigurationError, match=r"result of .*step cannot be recorded: .*Unknown"):
        ReturnType(step).codec(PydanticCodec())


# --- fingerprints of values beyond JSON ---


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Cat(name="x"), Cat(name="y")),
        (Cat(name="x"), Dog(name="x")),
        (Point(1), Point(2)),
        (MOMENT, MOMENT + dt.timedelta(microseconds=1)),
        (dt.date(2026, 1, 1), dt.date(2026, 1, 2)),
        (decimal.Decimal(1), decimal.Decimal(2)),
        (uuid.UUID(int=1), uuid.UUID(int=2)),
        (Colour.RED, Colour.BLUE),
        (b"a", b"b"),
        ({1, 2}, {1, 3}),
        ([Cat(name="x")], [Cat(name="y")]),
    ],
)
def test_fingerprints_by_content_differ(first, second):
    def print_of(value):
        return fingerprint_of((value,), {}, by_content=True)

    assert print_of(first) != print_of(second)
    assert fingerprint_of((object(),), {}, by_content=True) == fingerprint_of((object(),), {}, by_content=True)


def test_equal_values_have_equal_fingerprints():
    def print_of(value):
        return fingerprint_of((value,), {}, by_content=True)

    assert print_of(MOMENT) == print_of(MOMENT.astimezone(BERLIN))
    assert print_of(decimal.Decimal("1.0")) == print_of(decimal.Decimal(1))
    assert print_of({"a", "b", "c"}) == print_of({"c", "b", "a"})
    assert print_of(circular()) == print_of(circular())


# --- the package ---


def test_importing_the_codecs_imports_no_optional_library():
    source = (
        "import sys, pgqrs.codecs\n"
        "assert not {'pydantic', 'cryptography'} & set(sys.modules)\n"
        "from pgqrs.codecs import JsonCodec\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


@pytest.mark.parametrize(("name", "extra"), [("PydanticCodec", "pydantic"), ("FernetCodec", "cryptography")])
def test_a_missing_extra_is_named(name, extra):
    source = (
        f"import sys\nsys.modules[{extra!r}] = None\n"
        f"try:\n    from pgqrs.codecs import {name}\n"
        "except ImportError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert f"pip install 'pgqrs[{extra}]'" in found.stdout


def test_public_codec_names_are_sorted_and_documented():
    codecs = importlib.import_module("pgqrs.codecs")
    assert list(codecs.__all__) == sorted(codecs.__all__)
    assert all(getattr(codecs, name).__doc__ for name in codecs.__all__)
    with pytest.raises(AttributeError):
        _ = codecs.Nothing
