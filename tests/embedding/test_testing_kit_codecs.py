"""`pgqrs.testing` with a typed codec and with an encrypting codec."""

from __future__ import annotations

import base64
import dataclasses
import enum
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import BaseModel

from pgqrs import PyWorkflow, RetryPolicy, TransientError, WorkflowTimeoutError, step, workflow
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.testing import assert_enqueued, assert_not_enqueued, crash_everywhere, run_enqueued
from tests.support.recorded import is_replay
from tests.support.waiting import no_hang

pytest_plugins = ("pytest_pgqrs",)

KEY = base64.urlsafe_b64encode(b"k" * 32)

# Their hashes collide in a small set, so it is iterated over in the order in which they came.
IN_ONE_ORDER, IN_THE_OTHER = [0, 8], [8, 0]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Bill(BaseModel):
    id: int
    total: Decimal


@dataclasses.dataclass(eq=False)
class Token:
    """Equals itself alone."""

    text: str


@pytest.fixture(params=[PydanticCodec(), FernetCodec([KEY], PydanticCodec())], ids=lambda codec: codec.name)
def pgqrs_admin_options(request):
    return {"codec": request.param}


@step
async def add(ctx: PyWorkflow, bill: Bill, tax: Decimal) -> Bill:
    return Bill(id=bill.id, total=bill.total + tax)


@workflow
async def bills(ctx: PyWorkflow, total: Decimal, tax: Decimal = Decimal("0.10")) -> Bill:
    return await add(ctx, Bill(id=7, total=total), tax)


@workflow
async def own_bill(ctx: PyWorkflow, total: Decimal) -> Bill:
    return await add(ctx, Bill(id=ctx.id(), total=total), Decimal(0))


@workflow
async def paints(
    ctx: PyWorkflow,
    n: int,
    colour: Colour = Colour.RED,
    pair: tuple[int, int] = (1, 2),
    price: Decimal = Decimal(1),
) -> None: ...


# --- crashes ---


async def test_result_has_the_annotated_type(kit):
    assert await crash_everywhere(bills, Decimal("1.00"), admin=kit) == Bill(id=7, total=Decimal("1.10"))


async def test_compare_receives_the_typed_result(kit):
    with pytest.raises(AssertionError, match=r"it returned Bill\(id=2, .*returned Bill\(id=1, (?s:.*)compare="):
        await crash_everywhere(own_bill, Decimal(1), admin=kit)
    made = await crash_everywhere(own_bill, Decimal(1), admin=kit, compare=lambda bill: bill.total)
    assert (type(made), made.total) == (Bill, Decimal(1))


async def test_errors_compare_equal_with_any_codec(kit):
    @step(retry=RetryPolicy(attempts=2, initial=60))
    async def refuse(ctx: PyWorkflow) -> Bill:
        raise TransientError(f"workflow {ctx.id()} is refused")

    @workflow
    async def refused(ctx: PyWorkflow) -> Bill:
        return await refuse(ctx)

    async with no_hang():
        with pytest.raises(TransientError, match="is refused") as raised:
            await crash_everywhere(refused, admin=kit)
    assert is_replay(raised.value, TransientError)


async def test_timeouts_compare_equal_with_any_codec(kit):
    @workflow(timeout=60)
    async def late(ctx: PyWorkflow) -> Bill:
        bill = await add(ctx, Bill(id=1, total=Decimal(1)), Decimal(1))
        await ctx.sleep(timedelta(days=1))
        return bill

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await crash_everywhere(late, admin=kit)


async def test_results_without_equality_are_compared_by_value(kit):
    @workflow
    async def token(ctx: PyWorkflow, text: str) -> Token:
        return Token(text)

    assert (await crash_everywhere(token, "a", admin=kit)).text == "a"


async def test_results_with_reordered_json_are_equal(kit):
    @workflow
    async def numbers(ctx: PyWorkflow) -> set[int]:
        return set(IN_ONE_ORDER if ctx.id() % 2 else IN_THE_OTHER)

    assert await crash_everywhere(numbers, admin=kit) == {0, 8}


# --- the queues ---


async def test_defaults_equal_explicit_arguments(kit):
    await kit.enqueue(paints, 1)
    await kit.enqueue(paints, 2, Colour.RED, pair=(1, 2))
    for n in (1, 2):
        for given in ((n,), (n, Colour.RED), (n, Colour.RED, (1, 2), Decimal("1.0"))):
            await assert_enqueued(kit, paints, *given)
            with pytest.raises(AssertionError, match="is enqueued"):
                await assert_not_enqueued(kit, paints, *given)
    await assert_not_enqueued(kit, paints, 1, Colour.BLUE)
    await assert_not_enqueued(kit, paints, 1, price=Decimal(2))
    with pytest.raises(
        AssertionError, match=r"^paints\(1, 'blue'\) is not enqueued; there are:\n    2: paints\(2, "
    ):
        await assert_enqueued(kit, paints, 1, Colour.BLUE)


async def test_arguments_are_compared_by_their_types(kit):
    @workflow
    async def typed(ctx: PyWorkflow, bill: Bill, numbers: set[int], token: Token, x: float = 1) -> None: ...

    await kit.enqueue(typed, Bill(id=1, total=Decimal("1.50")), set(IN_ONE_ORDER), Token("t"))
    wanted = {"numbers": set(IN_THE_OTHER), "token": Token("t"), "x": 1}
    await assert_enqueued(kit, typed, Bill(id=1, total=Decimal("1.5")), **wanted)
    await assert_not_enqueued(kit, typed, Bill(id=1, total=Decimal("1.51")), **wanted)
    await assert_not_enqueued(kit, typed, Bill(id=1, total=Decimal("1.5")), **wanted | {"token": Token("u")})


async def test_run_enqueued_keeps_the_types(kit):
    handle = await kit.enqueue(bills, Decimal(1))
    assert await run_enqueued(kit, [bills]) == 1
    assert await handle.result() == Bill(id=7, total=Decimal("1.10"))
