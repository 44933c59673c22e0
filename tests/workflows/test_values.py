"""Strict JSON for the values of steps, workflows and inputs, and other text that cannot be stored."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from typing import NamedTuple

import pytest

from pgqrs import (
    Admin,
    InvalidNameError,
    JsonCodec,
    PyWorkflow,
    SerializationError,
    StepFailedError,
    step,
    workflow,
)
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang


class Pair(NamedTuple):
    a: int
    b: tuple


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int = 1


def circular():
    value = [1]
    value.append(value)
    return value


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED = {
    "datetime": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "date": dt.date(2026, 1, 1),
    "timedelta": dt.timedelta(1),
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
    "int key": {1: "a"},
    "None key": {None: "a"},
    "tuple key": {(1, 2): "a"},
    "NUL": "a\0b",
    "NUL in a key": {"a\0b": 1},
    "surrogate": "\ud800",
    "surrogate in a key": {"\udc00": 1},
    "bytes": b"x",
    "set": {1},
    "Decimal": decimal.Decimal(1),
    "UUID": uuid.UUID(int=1),
    "enum": Colour.RED,
    "dataclass": Point(),
    "complex": 1j,
    "object": object(),
    "function": deep,
    "generator": (n for n in range(2)),
    "circular": circular(),
    "too deep": deep(300),
    "exception": ValueError("x"),
}

each_refused = pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())


@each_refused
async def test_refused_value_fails_its_step_with_its_path(admin, sql, value):
    executed = []

    @step
    async def collect(ctx: PyWorkflow) -> object:
        executed.append(1)
        return {"orders": [0, {"at": value}]}

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await collect(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(SerializationError) as caught:
            await wf(ctx)
        assert caught.value.step_id == "collect"
        assert caught.value.workflow_id == ctx.id()
        assert caught.value.path.startswith("$.orders[1].at")
        for told in ("'collect'", caught.value.path):
            assert told in str(caught.value)
        [record] = await admin.list_steps(ctx.id())
        assert (record.status, record.error["terminal"], record.error["type"]) == (
            "ERROR",
            True,
            "SerializationError",
        )
        assert await status(sql, ctx) == "ERROR"
        with pytest.raises(SerializationError) as replayed:
            await wf(ctx)
    assert isinstance(replayed.value, StepFailedError)
    assert (str(replayed.value), replayed.value.path) == (str(caught.value), caught.value.path)
    assert executed == [1]


@pytest.mark.parametrize("value", ["a\0b", math.nan, {1: 2}, dt.date(2026, 1, 1), "\ud800"], ids=repr)
async def test_refused_top_level_value_has_the_root_path(admin, value):
    @step
    async def collect(ctx: PyWorkflow) -> object:
        return value

    with pytest.raises(SerializationError) as caught:
        await collect(await admin.create_workflow("wf"))
    assert caught.value.path == "$"


@each_refused
async def test_a_refused_input_creates_nothing(admin, sql, value):
    @workflow
    async def wf(ctx: PyWorkflow, *args: object, **kwargs: object) -> None: ...

    with pytest.raises(SerializationError):
        await admin.create_workflow("wf", value)
    with pytest.raises(SerializationError, match="kwargs"):
        await admin.run(wf, where={"at": value})
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 0


async def test_refused_value_does_not_affect_other_workflows(admin):
    @step
    async def produce(ctx: PyWorkflow, n: int) -> object:
        await asyncio.sleep(0)
        return list(REFUSED.values())[n // 2 % len(REFUSED)] if n % 2 else n

    @workflow
    async def wf(ctx: PyWorkflow, n: int) -> object:
        return await produce(ctx, n)

    async with no_hang():
        results = await asyncio.gather(*(admin.run(wf, n) for n in range(80)), return_exceptions=True)
    for n, result in enumerate(results):
        assert (result == n) if n % 2 == 0 else isinstance(result, SerializationError), (n, result)
    assert len(await admin.list_workflows(status="SUCCESS")) == 40
    assert len(await admin.list_workflows(status="ERROR")) == 40


async def test_refused_value_can_be_caught(admin, sql):
    @step
    async def bad(ctx: PyWorkflow) -> object:
        return {1}

    @step
    async def good(ctx: PyWorkflow) -> str:
        return "good"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            await bad(ctx)
        except ValueError:
            return await good(ctx)

    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == "good"
    assert await steps(sql, ctx) == {"bad": "ERROR", "good": "SUCCESS"}


KEPT = [
    "ü€😀\U0010ffff",
    "\\u0000",
    "line\nbreak\ttab\x01\x7f\u2028",
    2**53 + 1,
    -(10**30),
    5e-324,
    1.7976931348623157e308,
    0.1,
    -0.0,
    True,
    {"": 1},
    {"z": 1, "a": {"y": 2, "b": 3}},
    [[], {}, None, [None]],
    deep(150),
    {"a" * 10_000: "b" * 100_000},
]


@pytest.mark.parametrize("value", KEPT, ids=lambda value: repr(value)[:20])
async def test_json_values_are_replayed_exactly(admin, value):
    @workflow
    async def wf(ctx: PyWorkflow) -> object:
        return await produce(ctx)

    @step
    async def produce(ctx: PyWorkflow) -> object:
        return value

    ctx = await admin.create_workflow("wf", value)
    first = await wf(ctx)
    again = await wf(await admin.get_workflow(ctx.id()))
    recorded = (await admin.list_steps(ctx.id()))[0].output
    given = (await admin.list_workflows())[0].input["args"][0]
    for each in (first, again, recorded, given):
        assert repr(each) == repr(value)


async def test_first_run_returns_non_json_types_as_json(admin):

    class Text(str):
        __slots__ = ()

    class Number(enum.IntEnum):
        ONE = 1

    @step
    async def produce(ctx: PyWorkflow) -> object:
        return {
            "pair": Pair(1, (2,)),
            "text": Text("x"),
            "number": Number.ONE,
            "dict": collections.OrderedDict(a=1),
        }

    ctx = await admin.create_workflow("wf")
    first = await produce(ctx)
    again = await produce(await admin.get_workflow(ctx.id()))
    assert repr(first) == repr(again) == "{'pair': [1, [2]], 'text': 'x', 'number': 1, 'dict': {'a': 1}}"


async def test_oversized_payload_fails_only_its_step(admin, dsn, schema):
    @step
    async def produce(ctx: PyWorkflow, size: int) -> str:
        return "x" * size

    @workflow
    async def wf(ctx: PyWorkflow, size: int) -> int:
        return len(await produce(ctx, size))

    async with Admin(dsn, schema, codec=JsonCodec(max_bytes=1000)) as small:
        results = await asyncio.gather(small.run(wf, 100), small.run(wf, 2000), return_exceptions=True)
        assert results[0] == 100
        assert isinstance(results[1], SerializationError)
        assert results[1].step_id == "produce"
        with pytest.raises(SerializationError):
            await small.create_workflow("wf", "x" * 2000)
    assert await admin.run(wf, 10_000_000) == 10_000_000


async def test_invalid_json_of_a_codec_fails_only_its_step(admin, dsn, schema):
    """A careless codec of the user's: PostgreSQL refuses the row, and only the step that it belongs to fails."""

    class Careless(JsonCodec):
        def encode(self, value):
            encoded = super().encode(value)
            return encoded._replace(text="{not json") if value == "bad" else encoded

    @step
    async def produce(ctx: PyWorkflow, value: str) -> str:
        return value

    @workflow
    async def wf(ctx: PyWorkflow, value: str) -> str:
        return await produce(ctx, value)

    async with Admin(dsn, schema, codec=Careless()) as careless:
        contexts = [await careless.create_workflow("wf") for _ in range(20)]
        values = ["bad" if n == 7 else f"good {n}" for n in range(20)]
        async with no_hang():
            results = await asyncio.gather(
                *(wf(ctx, value) for ctx, value in zip(contexts, values, strict=True)), return_exceptions=True
            )
        bad = results.pop(7)
        assert results == [value for value in values if value != "bad"]
        assert isinstance(bad, Exception)


class Failing(JsonCodec):
    """A codec that fails with an error of its own."""

    def encode(self, value):
        if value == "refused":
            raise KeyError("no such form")
        return super().encode(value)


@step
async def refused(ctx: PyWorkflow) -> str:
    return "refused"


async def test_unexpected_codec_error_is_recorded(dsn, schema, admin):
    @workflow
    async def twice_at_once(ctx: PyWorkflow) -> list[bool]:
        answers = await asyncio.gather(refused(ctx), refused(ctx), return_exceptions=True)
        return [isinstance(each, SerializationError) for each in answers]

    @workflow
    async def returns_it(ctx: PyWorkflow) -> str:
        return "refused"

    async with Admin(dsn, schema, codec=Failing()) as failing, no_hang():
        assert await failing.run(twice_at_once) == [True, True]
        (recorded,) = await failing.list_steps(1)
        assert recorded.status == "ERROR"
        assert "KeyError: 'no such form'" in str(recorded.error)
        with pytest.raises(SerializationError, match=r"workflow 2 .* the codec failed with KeyError"):
            await failing.run(returns_it)
        assert (await failing.list_workflows(status="ERROR"))[0].id == 2


# --- names ---

NAMES = ["", "a\0b", "\ud800", "x" * 513, "ü" * 257]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_invalid_names_are_refused_everywhere(admin, name):
    ctx = await admin.create_workflow("wf")
    for refuse in (lambda: admin.create_workflow(name), lambda: ctx.acquire_step(name)):
        with pytest.raises(InvalidNameError):
            await refuse()
    with pytest.raises(InvalidNameError):
        step(id=name)(never_awaited_step)
    with pytest.raises(InvalidNameError):
        workflow(name=name)(never_awaited_step)
    keyed = step(id="s", key=lambda: "x" * 600 if name == "" else name * 600)(never_awaited_step)
    with pytest.raises(InvalidNameError):
        await keyed(ctx)


async def never_awaited_step(ctx: PyWorkflow) -> None: ...


@pytest.mark.parametrize("name", [1, None, b"x"])
async def test_non_string_names_are_refused(admin, name):
    with pytest.raises((InvalidNameError, TypeError)):
        await admin.create_workflow(name)
    with pytest.raises((InvalidNameError, TypeError)):
        await (await admin.create_workflow("wf")).acquire_step(name)


async def test_names_of_maximum_length_and_any_text_work(admin):
    for name in ("x" * 512, "ü" * 256, "with 'quotes\" and : $ % \\ \n", "😀"):
        ctx = await admin.create_workflow(name)
        await (await ctx.acquire_step(name)).guard.success(1)
        assert (await (await admin.get_workflow(ctx.id())).acquire_step(name)).value == 1
        assert [each.step_id for each in await admin.list_steps(ctx.id())] == [name]
