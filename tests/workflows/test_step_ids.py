"""Step ids are unambiguous: a key cannot produce the id of another step, and has the same text everywhere."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from itertools import combinations
from pathlib import Path

import pytest

from pgqrs import InvalidNameError, PyWorkflow, step, workflow
from pgqrs.validation import key_text
from tests.support.recorded import steps


@step(key=lambda name: name)
async def ship(ctx: PyWorkflow, name: str) -> str:
    await ctx.now()
    return f"shipped {name}"


@step(id="pay", key=lambda name: name)
async def pay(ctx: PyWorkflow, name: str) -> str:
    return f"paid {name}"


async def test_key_with_separators_does_not_collide_with_a_timer_id(admin):
    @workflow
    async def parcels(ctx: PyWorkflow, names: list[str]) -> list[str]:
        return [await ship(ctx, name) for name in names]

    names = ["x", "x/now:1", "x%2Fnow%3A1"]
    assert await admin.run(parcels, names) == [f"shipped {name}" for name in names]
    [listed] = await admin.list_workflows()
    recorded = {each.step_id for each in await admin.list_steps(listed.id)}
    assert {"ship:x", "ship:x/now:1", "ship:x%2Fnow%3A1", "ship:x%252Fnow%253A1"} < recorded


@pytest.mark.parametrize("name", ["pay:refund", "pay/refund"])
def test_separators_in_a_decorator_id_are_refused(name):
    with pytest.raises(InvalidNameError, match="separate an id from a key"):
        step(id=name)(pay.__wrapped__)


@pytest.mark.parametrize("name", ["now", "sleep"])
def test_keyed_step_cannot_use_a_timer_name(name):
    step(id=name)(pay.__wrapped__)
    with pytest.raises(InvalidNameError, match=f"ctx.{name}\\(\\)"):
        step(id=name, key=str)(pay.__wrapped__)


async def test_timer_id_does_not_collide_with_a_step_id(admin, sql):
    @step
    async def charge(ctx: PyWorkflow) -> str:
        return "charged"

    ctx = await admin.create_workflow("wf")
    await ctx.now(id="charge")
    await ctx.sleep(0, id="charge")
    await ctx.sleep(0, id="1")
    await ctx.sleep(0, id="a/b:%")
    await ctx.sleep(0)
    assert await charge(ctx) == "charged"
    ids = {"charge", "now/charge", "sleep/charge", "sleep/1", "sleep/a%2Fb%3A%25", "sleep:1"}
    assert set(await steps(sql, ctx)) == ids


async def test_length_limit_applies_to_the_recorded_id(admin):
    ctx = await admin.create_workflow("wf")
    assert await pay(ctx, "x" * 508)
    for refuse in (lambda: pay(ctx, ":" * 200), lambda: ctx.now(id=":" * 200), lambda: ctx.sleep(0, id="x" * 507)):
        with pytest.raises(InvalidNameError, match="512"):
            await refuse()


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return f"<{id(self)}>"

    __format__ = __repr__ = __str__


ID = uuid.UUID("8c5d5a7e-0c62-4a5e-9a58-6a1c1a1a1a1a")
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("order-17", "order-17"),
        ("a b", "a b"),
        (17, "17"),
        (True, "True"),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        (ID, str(ID)),
        (date(2026, 5, 4), "2026-05-04"),
        (time(12), "12%3A00%3A00"),
        (NOON, "2026-05-04T12%3A00%3A00+00%3A00"),
        (NOON.astimezone(timezone(timedelta(hours=2))), "2026-05-04T12%3A00%3A00+00%3A00"),
        (Colour.RED, "red"),
        (Word.RED, "red"),
        (Number.ONE, "1"),
        (Text("plain"), "plain"),
        (("order-17", 3), "order-17:3"),
    ],
)
def test_key_text_encodes_a_key(key, text):
    assert key_text(key) == text


def test_different_keys_have_different_texts():
    keys = ["a", "a:b", "a/b", "a%3Ab", "%(a%)", "a%", ("a",), ("a", "b"), ("a:b",), (("a", "b"),), ()]
    keys += [
        ("a", ("b", "c")),
        (("a", "b"), "c"),
        ("a", "b", "c"),
        ("a", "b:c"),
        ("a", "(b", "c)"),
        ((),),
        ((), ()),
    ]
    assert [pair for pair in combinations(keys, 2) if key_text(pair[0]) == key_text(pair[1])] == []


class Carrier:
    pass


@pytest.mark.parametrize(
    "key", [{"red"}, frozenset("ab"), Carrier(), None, ["a"], {"a": 1}, b"a", Path("a"), ("a", {"b"}), Colour]
)
async def test_unsupported_key_is_refused_before_the_step_is_called(admin, key):
    called = []

    @step(key=lambda: key)
    async def publish(ctx: PyWorkflow) -> None:
        called.append(1)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(InvalidNameError, match="the key of a step must be a str"):
        await publish(ctx)
    assert called == []
