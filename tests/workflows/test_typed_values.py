"""Typed and encrypted values of steps, inputs and outputs, in the first run and in a replay."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime as dt
import enum
import json
import logging
import uuid
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pgqrs import (
    Admin,
    CodecMismatchError,
    ConfigurationError,
    Encoded,
    PyWorkflow,
    SerializationError,
    StepFailedError,
    StepMismatchError,
    TransientError,
    Unreadable,
    Worker,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD, NEW = base64.urlsafe_b64encode(b"o" * 32), base64.urlsafe_b64encode(b"n" * 32)
MOMENT = dt.datetime(2026, 5, 4, 3, 2, 1, 999, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "red"


class Line(BaseModel):
    sku: uuid.UUID
    price: Decimal = Field(alias="unitPrice")


class Order(BaseModel):
    id: int
    at: dt.datetime
    lines: list[Line] = []
    colour: Colour | None = None


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


@dataclasses.dataclass(frozen=True)
class Receipt:
    order: Order
    paid: Decimal
    by: Card | Cash
    on: dt.date | None = None


ORDER = Order(id=1, at=MOMENT, lines=[Line(sku=uuid.UUID(int=5), unitPrice=Decimal("19.90"))], colour=Colour.RED)
RECEIPT = Receipt(ORDER, Decimal("19.90"), Cash(), dt.date(2026, 5, 4))


@step
async def charge(ctx: PyWorkflow, order: Order, by: Card | Cash) -> Receipt:
    return Receipt(order, sum((line.price for line in order.lines), Decimal(0)), by, order.at.date())


@workflow
async def checkout(ctx: PyWorkflow, order: Order, *, by: Card | Cash, note: str = "") -> list[Receipt]:
    assert isinstance(order, Order)
    return [await charge(ctx, order, by)]


@pytest_asyncio.fixture
async def open_admin(dsn, schema, admin):
    """Open further `Admin`s on the test's schema, each as another process would have it."""
    opened = []

    def open_(codec=None):
        opened.append(Admin(dsn, schema, codec=codec))
        return opened[-1]

    yield open_
    for each in opened:
        await each.close()


@pytest_asyncio.fixture
async def typed(open_admin):
    return open_admin(PydanticCodec())


@pytest_asyncio.fixture
async def secret(open_admin):
    return open_admin(FernetCodec([OLD], PydanticCodec()))


async def everything(sql):
    """Return all that is in the tables, as text."""
    found = [
        await sql.fetch(f"SELECT t::text FROM {table} t") for table in ("pgqrs_workflows", "pgqrs_workflow_steps")
    ]
    return "\n".join(row[0] for rows in found for row in rows)


# --- results of steps and workflows ---


async def test_annotated_step_returns_its_type_on_first_run_and_replay(typed, open_admin, sql):
    seen, executed = [], []

    @step
    async def load(ctx: PyWorkflow) -> Receipt:
        executed.append(1)
        return RECEIPT

    @workflow
    async def wf(ctx: PyWorkflow) -> Receipt:
        seen.append(await load(ctx))
        if len(seen) == 1:
            raise TransientError
        return seen[-1]

    ctx = await typed.create_workflow("wf")
    with pytest.raises(TransientError):
        await wf(ctx)
    other = await open_admin(PydanticCodec()).get_workflow(ctx.id())
    assert await wf(other) == RECEIPT
    assert await wf(await typed.get_workflow(ctx.id())) == RECEIPT
    assert seen == [RECEIPT, RECEIPT]
    assert [type(each.order.at) for each in seen] == [dt.datetime] * 2
    assert executed == [1]
    stored = json.loads(await sql.fetchval("SELECT output FROM pgqrs_workflow_steps WHERE step_id = 'load'"))
    assert (stored["paid"], stored["order"]["lines"][0]["price"], stored["by"]) == (
        "19.90",
        "19.90",
        {"kind": "cash"},
    )
    [record] = await typed.list_steps(ctx.id())
    assert record.output == stored


async def test_unannotated_step_returns_json_on_first_run_and_replay(typed):
    seen = []

    @step
    async def load(ctx: PyWorkflow):
        return {"order": ORDER, "pair": (1, MOMENT)}

    @workflow
    async def wf(ctx: PyWorkflow):
        seen.append(await load(ctx))
        if len(seen) == 1:
            raise TransientError
        return (1, MOMENT)

    ctx = await typed.create_workflow("wf")
    with pytest.raises(TransientError):
        await wf(ctx)
    assert await wf(ctx) == await wf(ctx) == [1, "2026-05-04T03:02:01.000999Z"]
    assert seen[0] == seen[1]
    assert seen[0]["pair"] == [1, "2026-05-04T03:02:01.000999Z"]
    assert seen[0]["order"]["id"] == 1


@step(thread=True)
def in_thread(ctx: PyWorkflow, order: Order) -> list[Order]:
    return [order]


@step(executor=ThreadPoolExecutor(1))
def elsewhere(at: dt.datetime) -> dt.datetime:
    return at


@step(key=lambda number: number, retry=3)
async def keyed(ctx: PyWorkflow, number: int) -> Decimal:
    return Decimal(number) / 4


async def test_typed_values_work_in_every_kind_of_step(open_admin):
    seen = []

    @workflow
    async def wf(ctx: PyWorkflow, order: Order) -> Decimal:
        now = await ctx.now()
        await ctx.sleep(0.01)
        found = await asyncio.gather(*(keyed(ctx, number) for number in range(3)))
        seen.append([now, await in_thread(ctx, order), await elsewhere(ctx, order.at), found])
        if len(seen) % 2:
            raise TransientError
        return sum(found, Decimal(0))

    for codec in (PydanticCodec(), FernetCodec([OLD], PydanticCodec())):
        admin = open_admin(codec)
        with pytest.raises(TransientError):
            await admin.run(wf, ORDER)
        [record] = await admin.list_workflows(limit=1)
        assert await wf(await admin.get_workflow(record.id), ORDER) == Decimal("0.75")
        first, later = seen[-2:]
        assert first == later
        assert first[1:] == [[ORDER], MOMENT, [Decimal(0), Decimal("0.25"), Decimal("0.5")]]


@pytest.mark.parametrize(
    "codec", [PydanticCodec(), FernetCodec([OLD], PydanticCodec())], ids=lambda codec: codec.name
)
async def test_transactional_step_returns_typed_values(codec, open_admin, sql):
    @step(transactional=True)
    async def load(ctx: PyWorkflow) -> Receipt:
        return RECEIPT

    @step(transactional=True)
    async def misfit(ctx: PyWorkflow) -> Receipt:
        return ORDER  # what a type checker would refuse

    @workflow
    async def wf(ctx: PyWorkflow) -> Receipt:
        found = [await load(ctx), await load(ctx)]
        assert found == [RECEIPT, RECEIPT]
        with pytest.raises(SerializationError) as caught:
            await misfit(ctx)
        assert caught.value.step_id == "misfit"
        return found[0]

    admin = open_admin(codec)
    async with no_hang():
        assert await admin.run(wf) == RECEIPT
    assert [each.status for each in await admin.list_steps(1)] == ["SUCCESS", "ERROR"]


async def test_manual_step_returns_json(typed):
    ctx = await typed.create_workflow("by hand", {"at": MOMENT})
    await ctx.start()
    guard = (await ctx.acquire_step("load")).guard
    assert (await guard.success(ORDER))["id"] == 1
    assert (await ctx.acquire_step("load")).value["at"] == "2026-05-04T03:02:01.000999Z"
    await ctx.success({"at": MOMENT.date()})
    [record] = await typed.list_workflows()
    assert record.input == {"args": [{"at": "2026-05-04T03:02:01.000999Z"}], "kwargs": {}}
    assert (record.output, record.codec) == ({"at": "2026-05-04"}, "pydantic")


# --- inputs ---


async def test_arguments_have_the_types_of_their_parameters(typed, sql):
    assert await typed.run(checkout, ORDER, by=Card(number="1")) == [
        Receipt(ORDER, Decimal("19.90"), Card(number="1"), dt.date(2026, 5, 4))
    ]
    [record] = await typed.list_workflows()
    assert record.input["kwargs"] == {"by": {"kind": "card", "number": "1"}}
    assert record.input["args"][0]["lines"][0]["price"] == "19.90"


@pytest.mark.parametrize(
    "codec", [PydanticCodec(), FernetCodec([OLD], PydanticCodec())], ids=lambda codec: codec.name
)
async def test_workers_and_handles_return_typed_values(codec, open_admin):
    admin = open_admin(codec)
    async with no_hang(), Worker(admin, [checkout, several]):
        handle = await admin.enqueue(checkout, ORDER, by=Cash(), note="x")
        assert await handle.result() == [RECEIPT]
        many = await admin.enqueue_many(several, [(ORDER, 1), (ORDER, 2)], key=lambda order, n: f"{order.id}:{n}")
        assert [await each.result() for each in many] == [(ORDER, 1), (ORDER, 2)]
        assert await admin.handle(handle.id, checkout).result() == [RECEIPT]
        plain = await admin.handle(handle.id).result()
        assert plain[0]["paid"] == "19.90"
        again = await admin.options(key="1:1").run(several, ORDER, 1)
        assert again == (ORDER, 1)
    assert [each.status for each in await admin.list_workflows()] == ["SUCCESS"] * 3


@workflow
async def several(ctx: PyWorkflow, order: Order, number: int) -> tuple[Order, int]:
    return order, number


async def test_existing_key_runs_with_the_recorded_arguments(typed):
    submitter = typed.options(key="one", on_conflict="ignore")
    await submitter.enqueue(several, ORDER, 1)
    assert await submitter.run(several, ORDER.model_copy(update={"id": 9}), 2) == (ORDER, 1)


async def test_misfitting_argument_is_refused_at_submission(typed, sql):
    for submit in (typed.run, typed.enqueue, typed.options(key="x").run):
        with pytest.raises(SerializationError) as caught:
            await submit(several, ORDER, "one")
        assert caught.value.path == "$.args[1]"
    with pytest.raises(SerializationError):
        await typed.enqueue_many(several, [(ORDER, 1), ({"id": 1}, 1)])
    assert await typed.list_workflows() == []


async def test_unreadable_input_fails_until_the_function_is_fixed(typed, open_admin):
    @workflow(name="changed")
    async def before(ctx: PyWorkflow, order: dict[str, int]) -> int: ...

    @workflow(name="changed", max_attempts=1)
    async def after(ctx: PyWorkflow, order: Order) -> int: ...

    @workflow(name="changed")
    async def mended(ctx: PyWorkflow, order: dict[str, int]) -> int:
        return order["id"]

    handle = await typed.enqueue(before, {"id": 7})
    async with no_hang():
        async with Worker(typed, [after]):
            with pytest.raises(StepFailedError, match=r"\$\.args\[0\]\.at") as caught:
                await handle.result()
        assert isinstance(caught.value, SerializationError)
        await typed.resume_workflow(handle.id)
        async with Worker(typed, [mended]):
            assert await handle.result() == 7


class Patch(BaseModel):
    name: str | None = None
    note: str | None = None


@pytest.mark.parametrize(
    "codec", [PydanticCodec(), FernetCodec([OLD], PydanticCodec())], ids=lambda codec: codec.name
)
async def test_unset_fields_stay_unset_in_arguments_and_results(codec, open_admin):
    seen = []

    @step
    async def passed_on(ctx: PyWorkflow, patch: Patch) -> Patch:
        return patch

    @workflow
    async def wf(ctx: PyWorkflow, patch: Patch) -> Patch:
        seen.extend([patch, await passed_on(ctx, patch)])
        if len(seen) == 2:
            raise TransientError
        return patch

    admin = open_admin(codec)
    handle = await admin.enqueue(wf, Patch(name="Ada"))
    async with no_hang(), Worker(admin, [wf]):
        with pytest.raises(TransientError):
            await handle.result()
        await admin.resume_workflow(handle.id)
        seen.append(await handle.result())
    assert [each.model_dump(exclude_unset=True) for each in seen] == [{"name": "Ada"}] * 5


async def test_iterables_are_stored_as_lists(typed):
    @step
    async def load(ctx: PyWorkflow) -> Iterable[Order]:
        return (ORDER,)

    @workflow
    async def wf(ctx: PyWorkflow, orders: Collection[Order]) -> Iterable[Order]:
        assert orders == await load(ctx) == [ORDER]
        return orders

    assert await typed.run(wf, [ORDER]) == [ORDER]


async def test_workflow_annotated_as_noreturn_starts(typed):
    @workflow
    async def wf(ctx: PyWorkflow) -> NoReturn:
        raise LookupError("started")

    with pytest.raises(LookupError, match="started"):
        await typed.run(wf)


# --- misfitting values ---


async def test_misfitting_result_is_a_terminal_step_error(typed, sql):
    @step
    async def load(ctx: PyWorkflow) -> list[Order]:
        return [ORDER, Order.model_construct(id="x", at=MOMENT)]

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await load(ctx)

    ctx = await typed.create_workflow("wf")
    for _ in range(2):
        with pytest.raises(SerializationError) as caught:
            await wf(ctx)
        assert (caught.value.step_id, caught.value.path) == ("load", "$[1].id")
    [record] = await typed.list_steps(ctx.id())
    assert (record.status, record.error["terminal"]) == ("ERROR", True)
    assert await status(sql, ctx) == "ERROR"


class Entity(BaseModel):
    id: int

    def __eq__(self, other):
        return isinstance(other, Entity) and self.id == other.id

    __hash__ = None


class User(Entity):
    name: str


async def test_lossy_subclass_with_custom_equality_is_refused(typed, sql):
    @step
    async def load(ctx: PyWorkflow) -> Entity:
        return User(id=1, name="Ada")

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await load(ctx)

    ctx = await typed.create_workflow("wf")
    with pytest.raises(SerializationError, match="the User would come back as Entity"):
        await wf(ctx)
    assert await steps(sql, ctx) == {"load": "ERROR"}


async def test_latest_datetime_is_recorded_in_any_zone(typed):
    last = dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York"))

    @step
    async def load(ctx: PyWorkflow) -> dt.datetime:
        return last

    @workflow
    async def wf(ctx: PyWorkflow) -> dt.datetime:
        return await load(ctx)

    async with no_hang():
        found = await typed.run(wf)
    assert not last - found


async def test_encryption_alone_needs_no_annotations(open_admin):
    @step
    async def load(ctx: PyWorkflow) -> Mapping[str, int]:
        return {"a": 1}

    @workflow
    async def wf(ctx: PyWorkflow, given: Mapping[str, int]) -> Mapping[str, int]:
        return {**given, **await load(ctx)}

    admin = open_admin(FernetCodec([NEW], FernetCodec([OLD])))
    async with no_hang(), Worker(admin, [wf]):
        handle = await admin.enqueue(wf, {"b": 2})
        assert await handle.result() == await admin.run(wf, {"b": 2}) == {"b": 2, "a": 1}


async def test_misfitting_output_is_the_workflow_error(typed, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> Card | Cash:
        return ORDER  # what a type checker would refuse

    ctx = await typed.create_workflow("wf")
    with pytest.raises(SerializationError) as caught:
        await wf(ctx)
    assert caught.value.workflow_id == ctx.id()
    assert await status(sql, ctx) == "ERROR"


async def test_unsupported_annotations_are_refused_before_execution(typed, sql):
    executed = []

    class Unknown:
        pass

    @step
    async def unknown(ctx: PyWorkflow) -> Unknown:
        executed.append(Unknown)
        return Unknown()

    @workflow
    async def calls_it(ctx: PyWorkflow) -> None:
        await unknown(ctx)

    @workflow
    async def returns_it(ctx: PyWorkflow) -> Nowhere:  # noqa: F821
        executed.append(1)

    @workflow
    async def takes_it(ctx: PyWorkflow, given: Unknown) -> None:
        executed.append(Unknown)

    for wf, said in ((calls_it, "Unknown"), (returns_it, "Nowhere")):
        ctx = await typed.create_workflow("wf")
        with pytest.raises(ConfigurationError, match=said):
            await wf(ctx)
        assert (await status(sql, ctx), await steps(sql, ctx)) == ("ERROR", {})
    with pytest.raises(ConfigurationError, match=r"arguments of .*takes_it.* cannot be recorded: .*Unknown"):
        await typed.enqueue(takes_it, Unknown())
    assert executed == []


async def test_changed_model_fails_the_replay_until_it_is_fixed(typed, sql):
    class Grown(BaseModel):
        id: int
        new: str

    class Mended(BaseModel):
        id: int
        new: str = ""

    kind: Any = Card

    def version(annotation, value=None):
        async def load(ctx: PyWorkflow):
            return value

        load.__annotations__["return"] = annotation
        wrapped = step(load)

        @workflow
        async def wf(ctx: PyWorkflow):
            found = await wrapped(ctx)
            if value is not None:
                raise TransientError
            return type(found).__name__

        return wf

    kind = Order
    ctx = await typed.create_workflow("wf")
    with pytest.raises(TransientError):
        await version(kind, ORDER)(ctx)
    with pytest.raises(
        SerializationError, match=r"of step 'load' .* cannot be read back: at \$\.new: .*required"
    ) as caught:
        await version(Grown)(ctx)
    assert caught.value.reading
    assert await steps(sql, ctx) == {"load": "SUCCESS"}
    assert await version(Mended)(ctx) == "Mended"


async def test_call_with_another_model_is_a_mismatch(typed, secret, caplog):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await charge(ctx, ORDER, Cash())
        await charge(ctx, ORDER.model_copy(update={"id": 2}), Cash())

    @workflow(strict=True)
    async def strict(ctx: PyWorkflow) -> None:
        await charge(ctx, ORDER, Cash())
        await charge(ctx, ORDER, Card(number="1"))

    with caplog.at_level(logging.WARNING, "pgqrs"):
        await typed.run(wf)
    assert "'charge' answers a call with different arguments" in caplog.text
    with pytest.raises(StepMismatchError):
        await typed.run(strict)


orders = st.builds(
    Order,
    id=st.integers(),
    at=st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    lines=st.lists(
        st.builds(
            lambda sku, price: Line(sku=sku, unitPrice=price),
            st.uuids(),
            st.decimals(allow_nan=False, allow_infinity=False),
        ),
        max_size=3,
    ),
    colour=st.none() | st.just(Colour.RED),
)
receipts = st.builds(
    Receipt,
    order=orders,
    paid=st.decimals(allow_nan=False, allow_infinity=False),
    by=st.builds(Cash) | st.builds(Card, number=st.text("0123456789")),
    on=st.none() | st.dates(),
)


@pytest.mark.unfaulted("hypothesis draws other values in each run, so its n-th round trip is another")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(receipts | orders | st.none(), max_size=3))
async def test_first_run_and_replay_return_equal_values(typed, value):
    failed = []

    @step
    async def load(ctx: PyWorkflow) -> list[Receipt | Order | None]:
        return value

    @workflow
    async def wf(ctx: PyWorkflow, given: list[Receipt | Order | None]) -> list[Receipt | Order | None]:
        assert given == await load(ctx) == value
        if not failed:
            failed.append(1)
            raise TransientError
        return given

    with pytest.raises(TransientError):
        await typed.run(wf, value)
    [record] = await typed.list_workflows(limit=1)
    ctx = await typed.get_workflow(record.id)
    assert await wf(ctx, value) == await typed.handle(record.id, wf).result() == value


# --- encryption at rest ---


async def test_encrypted_payloads_are_unreadable_in_the_tables(secret, sql):
    secrets = ["4111-1111", "top secret", "hidden note", "leaked"]

    @step(retry=2)
    async def fails(ctx: PyWorkflow, number: str) -> None:
        raise TransientError(f"leaked {number}")

    @workflow
    async def wf(ctx: PyWorkflow, card: Card, note: str) -> Receipt:
        receipt = await charge(ctx, ORDER, card)
        await ctx.sleep(0.01)
        with pytest.raises(TransientError, match="leaked 4111-1111"):
            await fails(ctx, card.number)
        assert note == "hidden note"
        return receipt

    @workflow
    async def breaks(ctx: PyWorkflow) -> None:
        raise LookupError("top secret", {"card": "4111-1111"})

    receipt = await secret.run(wf, Card(number="4111-1111"), note="hidden note")
    assert receipt == Receipt(ORDER, Decimal("19.90"), Card(number="4111-1111"), dt.date(2026, 5, 4))
    with pytest.raises(LookupError):
        await secret.run(breaks)
    found = await everything(sql)
    assert "gAAAA" in found
    assert [each for each in [*secrets, "19.90", "LookupError"] if each in found] == []
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps WHERE fingerprint IS NOT NULL") == 0


async def test_errors_are_readable_only_with_the_key(secret, open_admin, sql):
    raised = []

    @step
    async def fails(ctx: PyWorkflow) -> None:
        raised.append(1)
        raise LookupError("top secret", 4111)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await fails(ctx)

    ctx = await secret.create_workflow("wf")
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            await wf(ctx)
    assert isinstance(caught.value, StepFailedError)
    assert (caught.value.args, raised) == (("top secret", 4111), [1])
    [record] = await secret.list_steps(ctx.id())
    assert (record.error["type"], record.error["args"]) == ("LookupError", ["top secret", 4111])
    [of_workflow] = await secret.list_workflows()
    assert of_workflow.error["message"] == record.error["message"]
    with pytest.raises(LookupError):
        await secret.handle(ctx.id()).result()

    stranger = open_admin(FernetCodec([NEW], PydanticCodec()))
    for ask in (
        stranger.handle(ctx.id()).result(),
        wf(await stranger.get_workflow(ctx.id())),
    ):
        with pytest.raises(SerializationError, match="none of the keys") as refused:
            await ask
        assert refused.value.workflow_id == ctx.id()
    [record], [of_workflow] = await stranger.list_steps(ctx.id()), await stranger.list_workflows()
    for payload in (record.error, of_workflow.input):
        assert isinstance(payload, Unreadable)
        assert "none of the keys" in payload.error


async def test_keys_can_be_rotated_during_a_workflow(open_admin, sql):
    failed = []

    @workflow
    async def wf(ctx: PyWorkflow, order: Order) -> Receipt:
        receipt = await charge(ctx, order, Cash())
        await keyed(ctx, 2 if failed else 1)
        if not failed:
            failed.append(1)
            raise TransientError("once")
        return receipt

    old = open_admin(FernetCodec([OLD], PydanticCodec()))
    with pytest.raises(TransientError):
        await old.run(wf, ORDER)
    [record] = await old.list_workflows()
    both = open_admin(FernetCodec([NEW, OLD], PydanticCodec()))
    assert await wf(await both.get_workflow(record.id), ORDER) == RECEIPT
    assert [each.output for each in await both.list_steps(record.id)][1:] == ["0.25", "0.5"]
    only_new = open_admin(FernetCodec([NEW], PydanticCodec()))
    assert await only_new.handle(record.id, wf).result() == RECEIPT
    of_old, *of_new = [each.output for each in await only_new.list_steps(record.id)]
    assert isinstance(of_old, Unreadable)
    assert "of step 'charge'" in of_old.error
    assert not any(isinstance(each, Unreadable) for each in of_new[-1:])


@pytest.mark.plants_rows
async def test_encrypted_outcome_cannot_be_moved_to_another_step(secret, sql):
    wired = []

    @step(key=lambda name: name)
    async def approve(ctx: PyWorkflow, name: str) -> bool:
        return name == "alice"

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        approved = [name for name in ("alice", "mallory") if await approve(ctx, name)]
        if not wired:
            wired.append(approved)
            raise TransientError
        wired.append(approved)

    with pytest.raises(TransientError):
        await secret.run(wf)
    [record] = await secret.list_workflows()
    await sql.execute(
        "UPDATE pgqrs_workflow_steps SET output = "
        "(SELECT output FROM pgqrs_workflow_steps WHERE step_id = 'approve:alice') WHERE step_id = 'approve:mallory'"
    )
    with pytest.raises(SerializationError, match=r"of step 'approve:mallory' .*encrypted for another place"):
        await wf(await secret.get_workflow(record.id))
    assert wired == [["alice"]]


@pytest.mark.plants_rows
async def test_unencrypted_error_is_refused(secret, sql):
    @step
    async def fails(ctx: PyWorkflow) -> None:
        raise LookupError

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            await fails(ctx)
        except PermissionError:
            return "believed"

    with pytest.raises(LookupError):
        await secret.run(wf)
    [record] = await secret.list_workflows()
    forged = '{"type": "PermissionError", "message": "no", "mro": ["builtins:PermissionError"], "terminal": true}'
    await sql.execute("UPDATE pgqrs_workflow_steps SET error = $1", forged)
    await sql.execute("UPDATE pgqrs_workflows SET error = $1", forged)
    with pytest.raises(SerializationError, match="not encrypted"):
        await secret.handle(record.id, wf).result()
    with pytest.raises(SerializationError, match=r"of step 'fails' .*not encrypted"):
        await wf(await secret.get_workflow(record.id))


@pytest.mark.plants_rows
async def test_encrypted_input_cannot_be_moved_to_another_workflow(secret, sql):
    @workflow(name="refund", max_attempts=1)
    async def refund(ctx: PyWorkflow, amount: int) -> int:
        return amount

    handle = await secret.enqueue(refund, 5)
    await secret.create_workflow("pay", 5_000)
    await sql.execute(
        "UPDATE pgqrs_workflows SET input = (SELECT input FROM pgqrs_workflows WHERE name = 'pay') WHERE id = $1",
        handle.id,
    )
    async with no_hang(), Worker(secret, [refund]):
        with pytest.raises(SerializationError, match="encrypted for another place"):
            await handle.result()


async def test_unreadable_timer_is_reported(secret, open_admin):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await ctx.now()
        raise TransientError

    ctx = await secret.create_workflow("wf")
    with pytest.raises(TransientError):
        await wf(ctx)
    stranger = open_admin(FernetCodec([NEW], PydanticCodec()))
    with pytest.raises(SerializationError, match=r"of step 'now:1' .*none of the keys"):
        await wf(await stranger.get_workflow(ctx.id()))


async def test_timeout_recorded_by_maintenance_is_readable(secret):
    handle = await secret.options(timeout=0.2).enqueue(never_ending)
    async with no_hang(), Worker(secret, [never_ending]):
        with pytest.raises(WorkflowTimeoutError):
            await handle.result()


@workflow
async def never_ending(ctx: PyWorkflow) -> None:
    await ctx.sleep(1000)


# --- a history belongs to its codec ---


async def test_a_history_written_with_one_codec_refuses_another(open_admin, admin, sql):
    written = {
        "pydantic": open_admin(PydanticCodec()),
        "fernet+pydantic": open_admin(FernetCodec([OLD], PydanticCodec())),
        "fernet+json": open_admin(FernetCodec([OLD])),
        "json": admin,
    }

    @workflow
    async def wf(ctx: PyWorkflow, number: int) -> int:
        return number

    for name, writer in written.items():
        handle = await writer.options(key=name).enqueue(wf, 1)
        assert await writer.options(key=name).run(wf, 1) == 1
        for other, reader in written.items():
            if other == name:
                continue
            for ask in (
                reader.handle(handle.id).result(),
                reader.options(key=name).run(wf, 1),
                wf(await reader.get_workflow(handle.id), 1),
            ):
                with pytest.raises(CodecMismatchError) as caught:
                    await ask
            assert caught.value.workflow_id == handle.id
            assert repr(name) in str(caught.value)
            assert repr(other) in str(caught.value)
        await sql.execute("DELETE FROM pgqrs_workflows")


async def test_lists_hide_payloads_of_another_codec(open_admin, admin):
    sealing = open_admin(FernetCodec([OLD], PydanticCodec()))
    foreign = await sealing.create_workflow("several", "a secret")
    with pytest.raises(ValueError, match="2"):
        await admin.run(failing, 2)
    with pytest.raises(ValueError, match="3"):
        await sealing.run(failing, 3)
    sealed, own, first = await admin.list_workflows()
    assert (own.input, own.error["type"]) == ({"args": [2], "kwargs": {}}, "ValueError")
    assert (first.id, first.status, first.output, first.error) == (foreign.id(), "PENDING", None, None)
    told = f"CodecMismatchError: workflow {first.id} is written with the codec 'fernet+pydantic'"
    assert isinstance(first.input, Unreadable)
    assert first.input.error.startswith(told)
    assert isinstance(sealed.error, Unreadable)
    [step_of_sealed] = await admin.list_steps(sealed.id)
    assert (step_of_sealed.step_id, step_of_sealed.status, step_of_sealed.output) == ("fails", "ERROR", None)
    assert isinstance(step_of_sealed.error, Unreadable)
    assert [each.error["type"] for each in await sealing.handle(sealed.id).steps()] == ["ValueError"]
    assert isinstance((await sealing.list_workflows(limit=2))[1].error, Unreadable)


@step
async def fails(ctx: PyWorkflow, number: int) -> int:
    raise ValueError(number)


@workflow
async def failing(ctx: PyWorkflow, number: int) -> int:
    return await fails(ctx, number)


async def test_workers_skip_workflows_of_another_codec(typed, admin):
    mine, other = await typed.enqueue(several, ORDER, 1), await admin.enqueue(plain, 1)
    async with no_hang():
        async with Worker(admin, [several, plain]):
            assert await other.result() == 1
        assert await mine.status() == "PENDING"
        async with Worker(typed, [several, plain]):
            assert await mine.result() == (ORDER, 1)


@workflow
async def plain(ctx: PyWorkflow, number: int) -> int:
    return number


# --- custom codecs ---


class Nameless:
    def encode(self, value):
        text = json.dumps(value)
        return Encoded(text, json.loads(text))

    def decode(self, text):
        return json.loads(text)


class Mine(Nameless):
    name = "mine"


async def test_custom_codec_needs_a_name(dsn, schema, open_admin):
    with pytest.raises(TypeError, match="`name`"):
        Admin(dsn, schema, codec=Nameless())
    with pytest.raises(TypeError, match=r"JsonCodec\(\)"):
        Admin(dsn, schema, codec=JsonCodec)
    mine = open_admin(Mine())
    assert await mine.run(plain, 1) == 1
    [record] = await mine.list_workflows()
    assert (record.codec, record.output) == ("mine", 1)
    both = open_admin(FernetCodec([OLD], Mine()))
    assert await both.run(plain, 2) == 2
