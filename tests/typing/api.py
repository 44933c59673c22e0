"""The API as type checkers see it. Checked by mypy and pyright, both strict; never executed.

An `ignore` here is an assertion: the line is an error, and the checkers complain where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, assert_type

from sqlalchemy import URL, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest

from pgqrs import (
    Admin,
    Batch,
    BulkReport,
    Codec,
    Cron,
    Encoded,
    Every,
    Finding,
    JsonCodec,
    LeftWorkflows,
    PyWorkflow,
    QueueRecord,
    Rate,
    ReasonKind,
    Receive,
    Request,
    RetentionRecord,
    RetryPolicy,
    RewindRecord,
    ScheduleHandle,
    ScheduleRecord,
    SerializationError,
    StateSnapshot,
    StepAction,
    StepRecord,
    StepResult,
    StepStatus,
    Topic,
    Update,
    Why,
    Worker,
    WorkerHealth,
    WorkflowCount,
    WorkflowFilter,
    WorkflowHandle,
    WorkflowPage,
    WorkflowStatus,
    current,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec, SealingCodec, TypedCodec
from pgqrs.dashboard import Access, Granted, dashboard, local
from pgqrs.models import Workflow
from pgqrs.observer import Observer
from pgqrs.telemetry import otel, prometheus
from pgqrs.telemetry.health import health
from pgqrs.testing import SentRecord, assert_not_sent, assert_sent, crash_everywhere, run_enqueued


class User(TypedDict):
    id: int
    name: str


@workflow  # noqa: RET503  # ruff does not know `NoReturn`
async def monthly(ctx: PyWorkflow, month: int, *, total: int = 0) -> int:
    assert_type(await ctx.patched("tax-2026"), bool)
    if month == 0:
        await ctx.continue_as_new(monthly)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    elif month == 1:
        await ctx.continue_as_new(monthly, "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    elif month < 12:
        await ctx.continue_as_new(monthly, month + 1, total=total)
    else:
        return total


async def schedules(admin: Admin) -> None:
    nightly = await admin.schedule("nightly", Cron("0 3 * * *", "Europe/Berlin"), monthly, 3, overlap="cancel")
    assert_type(nightly, ScheduleHandle[int])
    assert_type(await (await nightly.trigger()).result(), int)
    assert_type(await nightly.next(2), list[datetime])
    await admin.options(queue="q", at=datetime.now(UTC)).schedule("beat", Every(timedelta(minutes=5)), beat)
    await admin.schedule("beat", Every(60), beat, within=timedelta(hours=1), jitter=3, catchup="none")
    await admin.options(queue="q", partition_key="acme").schedule("of acme", Every(60), beat)
    await admin.schedule("beat", Every(60), beat, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.schedule("beat", "@daily", beat)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.schedule("beat", Every(60), beat, overlap="wait")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await admin.find_schedule("nightly"), ScheduleHandle[Any])
    assert_type(await admin.list_schedules(), list[ScheduleRecord])


@workflow
async def beat(ctx: PyWorkflow) -> None:
    assert_type(ctx.scheduled_for, datetime | None)


@step
async def fetch(ctx: PyWorkflow, user_id: int, *, retries: int = 3) -> User:
    return {"id": user_id, "name": "ann"}


@step()
async def called_bare(ctx: PyWorkflow) -> None: ...


def page_key(page: int) -> str:
    return f"page {page}"


@step(id="load", key=page_key, terminal=(LookupError,), transient=(ValueError, OSError))
async def load(ctx: PyWorkflow, page: int) -> list[User]:
    return []


@workflow
async def pipeline(ctx: PyWorkflow, user_id: int, name: str = "ann", *, dry: bool = False) -> list[User]:
    return [await fetch(ctx, user_id)]


@workflow(name="other")
async def named(ctx: PyWorkflow) -> str:
    return "x"


@workflow()
async def called_bare_workflow(ctx: PyWorkflow, /, *pages: int, **options: str) -> int:
    return len(pages)


async def refund(ctx: PyWorkflow, receipt: str | None, order: str, cents: int) -> None: ...


@step(undo=refund, undo_when="began", retry=3)
async def charge(ctx: PyWorkflow, order: str, cents: int = 5) -> str:
    return order


@step(undo=charge, key=lambda order: order)
async def charge_by_key(ctx: PyWorkflow, order: str) -> str:
    return order


async def a_saga(ctx: PyWorkflow) -> str:
    async with ctx.saga(undo_timeout=timedelta(hours=1), id="payment"):
        assert_type(await charge(ctx, "17", cents=5), str)
        await charge(ctx, 17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    try:
        return await charge_by_key(ctx, "17")
    finally:
        async with ctx.cleanup(timeout=5):
            await charge(ctx, "18")


def wrong_undos() -> None:
    step(undo=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(undo=refund, undo_when="never")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(undo=lambda ctx, value: None)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]


@step(retry=3, timeout=1.5)
async def retried(ctx: PyWorkflow, page: int) -> str:
    return ""


@step(thread=True, key=page_key, retry=RetryPolicy(attempts=5, initial=0.1), timeout=timedelta(minutes=1))
def blocking(ctx: PyWorkflow, page: int, *, dry: bool = False) -> list[str]:
    return []


@step(executor=ThreadPoolExecutor(2))
def elsewhere(page: int, *, dry: bool = False) -> list[str]:
    return []


def pool() -> Executor:
    return ProcessPoolExecutor()


@step(executor=pool, id="heavy")
def heavy() -> User:
    return {"id": 1, "name": "ann"}


@workflow(name="careful", retry=RetryPolicy(), timeout=timedelta(days=1), max_attempts=5, strict=True)
async def careful(ctx: PyWorkflow, page: int) -> str:
    return await retried(ctx, page)


# --- decorated functions keep their parameters and their results ---


async def steps(ctx: PyWorkflow) -> None:
    assert_type(await fetch(ctx, 1), User)
    assert_type(await fetch(ctx, user_id=1, retries=2), User)
    unawaited: Coroutine[Any, Any, User] = fetch(ctx, 1)
    await unawaited
    assert_type(await load(ctx, 1), list[User])
    assert_type(await load(ctx, page=1), list[User])
    nothing: Callable[[PyWorkflow], Coroutine[Any, Any, None]] = called_bare
    await nothing(ctx)

    await fetch(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch(ctx)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch(ctx, 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch(ctx, 1, retries="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch(ctx, 1, tries=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch("ctx", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await load(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def steps_with_options(ctx: PyWorkflow) -> None:
    assert_type(await retried(ctx, 1), str)
    assert_type(await blocking(ctx, 1, dry=True), list[str])
    assert_type(await elsewhere(ctx, 1, dry=True), list[str])
    assert_type(await heavy(ctx), User)
    assert_type(await careful(ctx, 1), str)
    unawaited: Coroutine[Any, Any, list[str]] = blocking(ctx, 1)
    await unawaited

    await retried(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await blocking(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await elsewhere(1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await elsewhere(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await heavy(ctx, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@step(numbered=True)
async def polled(ctx: PyWorkflow, order: int) -> str:
    return ""


@step(numbered=True, key=lambda order: order)
async def polled_by_order(ctx: PyWorkflow, order: int) -> str:
    return ""


class Shop:
    def __init__(self, price: int) -> None:
        self.price = price

    @staticmethod
    @step
    async def tax(ctx: PyWorkflow, price: int) -> int:
        return price

    async def charge(self) -> int:
        return self.price


async def user() -> User:
    return {"id": 1, "name": "ann"}


async def body_steps(ctx: PyWorkflow, shop: Shop) -> None:
    assert_type(await ctx.step("user", user), User)
    assert_type(await ctx.step("fetch", lambda: fetch(ctx, 1), key=("a", 1), retry=RetryPolicy()), User)
    assert_type(await ctx.step("charge", shop.charge, numbered=True, timeout=timedelta(seconds=1)), int)
    assert_type(await ctx.step("typed", lambda: fetch(ctx, 1), returns=Shop), Shop)
    assert_type(await ctx.step("pages", user, returns=list[int], terminal=(OSError,)), list[int])
    assert_type(await ctx.step("union", user, returns=int | None), Any)
    calls = [ctx.step("charge", shop.charge, numbered=True) for _ in range(3)]
    assert_type(calls, list[Coroutine[Any, Any, int]])
    assert_type(await polled(ctx, 1), str)
    assert_type(await polled_by_order(ctx, 1), str)
    assert_type(await Shop.tax(ctx, 1), int)
    assert_type(current(), PyWorkflow | None)
    assert_type(ctx.attempt, int)

    ctx.step("unawaited", user)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await ctx.step("no function", user())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step("plain", lambda: 1)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step("arguments", fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step(1, user)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await polled(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def time(ctx: PyWorkflow) -> None:
    assert_type(await ctx.sleep(1.5), None)
    assert_type(await ctx.sleep(timedelta(hours=1), id="nap"), None)
    assert_type(await ctx.sleep_until(datetime.fromisoformat("2030-01-01T00:00Z"), id="new year"), None)
    assert_type(await ctx.now(), datetime)

    await ctx.sleep("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.sleep_until(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def workflows(ctx: PyWorkflow) -> None:
    assert_type(await pipeline(ctx, 1), list[User])
    assert_type(await pipeline(ctx, 1, "bob", dry=True), list[User])
    assert_type(await named(ctx), str)
    assert_type(await called_bare_workflow(ctx, 1, 2, colour="red"), int)

    await pipeline(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await pipeline(ctx, 1, dry="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await pipeline(ctx, 1, wet=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await named(ctx, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await called_bare_workflow(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_decorations() -> None:
    @step  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def not_async(ctx: PyWorkflow) -> int:  # pyright: ignore[reportUnusedFunction]
        return 1

    @workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def no_context(number: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return 1

    @step(thread=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    def no_context_in_a_thread(number: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return 1

    class Decorated:  # pyright: ignore[reportUnusedClass]
        @step  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
        async def method(self, ctx: PyWorkflow) -> int:  # type: ignore[misc]
            return 1

        @workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
        async def of_a_class(self, ctx: PyWorkflow) -> int:  # type: ignore[misc]
            return 1

    step(retry="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(thread=True, executor=ThreadPoolExecutor())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    workflow(timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(id=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step(terminal=(KeyboardInterrupt,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    step("an id")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    workflow("a name")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


# --- Admin ---


async def running(admin: Admin) -> None:
    assert_type(await admin.run(pipeline, 1), list[User])
    assert_type(await admin.run(pipeline, 1, "bob", dry=True), list[User])
    assert_type(await admin.run(pipeline, user_id=1), list[User])
    assert_type(await admin.run(named), str)
    assert_type(await admin.run(called_bare_workflow, 1, 2, colour="red"), int)

    await admin.run(pipeline, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.run(pipeline)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await admin.run(pipeline, 1, dry="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.run(named, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def connecting(url: URL, engine: AsyncEngine) -> None:
    Admin("postgresql://localhost/db")
    Admin("postgresql://localhost/db", None)
    Admin("postgresql://localhost/db", "custom_schema")
    Admin(url, schema="x")
    Admin(engine, codec=JsonCodec(max_bytes=10), timeout=1, outage_timeout=0.5)
    async with Admin("embedded://") as admin:
        assert_type(admin, Admin)
        assert_type(await admin.install(), None)
        assert_type(await admin.verify(), None)
        assert_type(await admin.close(), None)

    Admin(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Admin(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Admin("postgresql://", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def handles(admin: Admin) -> None:
    assert_type(await (await admin.enqueue(pipeline, 1)).result(), list[User])
    assert_type(await admin.handle(1, pipeline).result(), list[User])
    assert_type(await admin.handle(1, workflow=named).result(timeout=1), str)
    assert_type(await admin.handle(1).result(), Any)
    assert_type(await (await admin.find(pipeline, key="k")).result(), list[User])
    assert_type(await (await admin.options(key="k", until="end").find(named, key="k")).result(), str)
    admin.options(key="k", until="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    admin.handle("1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    admin.handle(1, "pipeline")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def administering(admin: Admin) -> None:
    assert_type(await admin.create_workflow("wf"), PyWorkflow)
    assert_type(await admin.create_workflow(name="wf", input_arg={"a": [1]}), PyWorkflow)
    assert_type(await admin.get_workflow(1), PyWorkflow)
    assert_type(await admin.resume_workflow(1), PyWorkflow)
    records = await admin.list_workflows(status=WorkflowStatus.ERROR, name="wf", limit=5, after=9)
    assert_type(records, WorkflowPage)
    assert_type(records.next, int | None)
    assert_type(
        await admin.list_workflows(WorkflowFilter(status=["ERROR"], attributes={"customer": 7})), WorkflowPage
    )
    assert_type(await admin.count_workflows(where=Workflow.priority > 1), list[WorkflowCount])
    assert_type(records[0].status, WorkflowStatus)
    assert_type(records[0].created_at, datetime)
    assert_type(records[0].completed_at, datetime | None)
    recorded = await admin.list_steps(1)
    assert_type(recorded, list[StepRecord])
    assert_type(recorded[0].status, StepStatus)

    await admin.get_workflow("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.create_workflow(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    chosen = select(Workflow.id).where(Workflow.priority > 1)
    assert_type(await admin.cancel_workflows(chosen, dry_run=True, progress=print), BulkReport)
    assert_type(await admin.resume_workflows([each.id for each in records]), BulkReport)
    assert_type((await admin.send_many({1, 2}, Topic("n", int), 5, key="k")).left, tuple[LeftWorkflows, ...])
    assert_type(await admin.options(attributes={"customer": 7}, tags="eu").run(named), str)
    await admin.send_many([1], Topic("n", int), "x", key="k")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await admin.cancel_workflows(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.list_workflows(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await admin.list_workflows(parent="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    records[0].status = WorkflowStatus.SUCCESS  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# --- the context, by hand ---


async def by_hand(ctx: PyWorkflow) -> str:
    assert_type(ctx.id(), int)
    assert_type(ctx.name, str)
    assert_type(await ctx.start(), None)
    assert_type(await ctx.success({"a": 1}), None)
    assert_type(await ctx.fail("text"), None)
    assert_type(await ctx.fail(ValueError("x")), None)
    result = await ctx.acquire_step("manual")
    assert_type(result, StepResult)
    assert_type(result.status, StepAction)
    if result.status == "SKIPPED":
        value: str = result.value
        return value
    guard = result.guard
    await guard.success("x")
    await guard.fail("text", transient=True)
    return "x"


class Upper:
    name = "upper"

    def encode(self, value: Any) -> Encoded:
        return Encoded("1", 1)

    def decode(self, text: str) -> Any:
        return 1


class Wrong:
    name = "wrong"

    def encode(self, value: Any) -> str:
        return "1"


class Nameless:
    def encode(self, value: Any) -> Encoded:
        return Encoded("1", 1)

    def decode(self, text: str) -> Any:
        return 1


@dataclass(frozen=True)
class OfTypes(Upper):
    name: str = "of types"

    def of(self, annotation: Any) -> Codec:
        return self


def codecs(error: SerializationError) -> None:
    codec: Codec = Upper()
    Admin("embedded://", codec=codec)
    typed: TypedCodec = OfTypes()
    typed = PydanticCodec(max_bytes=10)
    sealing: SealingCodec = FernetCodec(["key", b"key"], typed)
    Admin("embedded://", codec=FernetCodec([b"key"], FernetCodec(("key",))))
    Admin("embedded://", codec=sealing)
    Admin("embedded://", codec=Nameless())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Admin("embedded://", codec=PydanticCodec)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Admin("embedded://", codec=Wrong())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(error.path, str)
    assert_type(error.step_id, str | None)


@step(key=lambda page: page)
async def keyed_by_one(ctx: PyWorkflow, page: int) -> str:
    return ""


@step(key=lambda day, page: f"{day}:{page}", retry=3)
async def keyed_by_two(ctx: PyWorkflow, day: str, page: int) -> str:
    return ""


@step(thread=True, key=lambda page: page)
def keyed_in_a_thread(ctx: PyWorkflow, page: int) -> str:
    return ""


async def keys(ctx: PyWorkflow) -> None:
    assert_type(await keyed_by_one(ctx, 1), str)
    assert_type(await keyed_by_two(ctx, "monday", 2), str)
    assert_type(await keyed_in_a_thread(ctx, 1), str)
    await keyed_by_one(ctx, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


ALL = [pipeline, named]
"""To mypy a `list[function]`: their signatures differ."""


async def lists_of_workflows(admin: Admin) -> None:
    Worker(admin, ALL)
    Worker(admin, [pipeline, named])
    Worker(admin, (pipeline,))
    await run_enqueued(admin, ALL)
    Worker(admin, ["pipeline"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


# --- updates ---

APPROVE = Update("approve", User, int)
ANYTHING = Update("anything")
OPTIONAL: Update[str | None, list[int] | None] = Update("optional", str | None, list[int] | None)


async def requests(ctx: PyWorkflow) -> None:
    request = await ctx.receive(APPROVE)
    assert_type(request, Request[User, int])
    assert_type(request.value, User)
    assert_type(request.key, str | None)
    assert_type(await request.reply(5), None)
    assert_type(await request.refuse("too much"), None)
    assert_type(await ctx.receive(APPROVE, timeout=timedelta(days=1), default=None), Request[User, int] | None)
    assert_type((await ctx.receive(ANYTHING)).value, Any)
    seen: list[object] = [await ctx.receive(APPROVE), await ctx.receive(Topic("paid", int))]  # a wider type
    assert seen
    assert_type((await ctx.receive(OPTIONAL)).value, str | None)
    assert_type(Receive(APPROVE), Receive[Request[User, int]])
    await ctx.select(ask=Receive(APPROVE), other=Receive("topic"))

    await request.reply("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await request.refuse(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def updates(admin: Admin) -> None:
    handle = admin.handle(1)
    user: User = {"id": 1, "name": "ann"}
    assert_type(await handle.update(APPROVE, user, timeout=10, key="click 9"), int)
    assert_type(await admin.update(1, APPROVE, user, timeout=timedelta(minutes=1)), int)
    assert_type(await admin.options(priority=1).update(1, APPROVE, user), int)
    assert_type(await handle.update(ANYTHING, 5), Any)
    reply: object = await handle.update(APPROVE, user)  # a wider type
    assert reply
    assert_type(await handle.update(OPTIONAL, None), list[int] | None)
    start = admin.options(key="order 17").with_start(pipeline, 1, dry=True)
    assert_type(await start.update(APPROVE, user, timeout=10, key="click 9"), int)

    await handle.update(APPROVE, "ann")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await start.update(APPROVE, "ann")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    admin.options(key="k").with_start(pipeline, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    admin.options(key="k").with_start(pipeline)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await handle.send(APPROVE, user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await handle.update("approve", user)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def crashes(admin: Admin) -> None:
    async def arrange() -> tuple[int, str]:
        return 1, "ann"

    async def wrong() -> tuple[str]:
        return ("ann",)

    @workflow
    async def greet(ctx: PyWorkflow, user_id: int, name: str) -> str:
        return name

    assert_type(await crash_everywhere(greet, 1, "ann", admin=admin), str)
    assert_type(await crash_everywhere(greet, arrange=arrange), str)
    assert_type(await crash_everywhere(greet, 1, "ann", workflows=ALL), str)
    await crash_everywhere(greet, arrange=wrong)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


async def sent(admin: Admin) -> None:
    paid, handle = Topic("paid", int), admin.handle(1, pipeline)
    assert_type(await assert_sent(admin, handle, paid, 5, key="k", count=1), SentRecord)
    await assert_sent(admin)
    await assert_sent(admin, 1, "paid", {"any": "value"})
    await assert_not_sent(admin, 1, paid)
    await assert_sent(admin, 1, paid, "five")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


@workflow
async def mailed(ctx: PyWorkflow, name: str) -> str:
    return name


async def unique_values(admin: Admin) -> None:
    handle = await admin.options(unique="v", debounce=timedelta(seconds=5)).enqueue(mailed, "ada")
    assert_type(handle, WorkflowHandle[str])
    many = await admin.options(until="start", taken="replace").enqueue_many(
        mailed, [("ada",)], unique=lambda name: name
    )
    assert_type(many, list[WorkflowHandle[str]])
    await admin.enqueue_many(mailed, [("ada",)], unique=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    admin.options(unique="v", taken="keep")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type((await admin.list_workflows())[0].unique, str | None)


async def queues(admin: Admin) -> None:
    await admin.set_queue("mail", concurrency=5, partition_concurrency=2, weights={"gold": 4})
    assert_type(await admin.list_queues(), list[QueueRecord])
    handle = await admin.options(queue="mail", partition_key="ada").enqueue(pipeline, 1)
    assert_type(await handle.result(), list[User])
    Worker(admin, ALL, {"mail": 20, "default": 80})
    Worker(admin, ALL, ["mail"])
    await admin.set_queue("mail", rate=Rate(100, per=60, burst=20), partition_rate=Rate(1))
    await admin.set_queue("mail", concurrency=1, holds="until_end")
    await admin.set_queue("mail", ordered=True, fair=False)
    await admin.set_queue("mail", holds="long")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.set_queue("mail", rate=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.set_queue("mail", concurrency="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.set_queue("mail", 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- batches ---


@workflow(batch=Batch(100, within=2.0))
async def embed(ctx: PyWorkflow, texts: list[str]) -> list[User]:
    return []


@workflow(name="marks", timeout=3, retry=2, batch=Batch(10, within=timedelta(seconds=1)))
async def marks(ctx: PyWorkflow, numbers: list[int]) -> None: ...


@workflow
async def calls_batches(ctx: PyWorkflow) -> None:
    assert_type(await ctx.call(embed, "a text"), User)
    assert_type(await (await ctx.start(marks, 1)), None)
    await ctx.call(embed, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.call(embed, ["a text"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def batches(admin: Admin) -> None:
    handle = await admin.options(key="k", priority=3).enqueue(embed, "a text")
    assert_type(await handle.result(), User)
    assert_type(await (await admin.enqueue(marks, 1)).result(), None)
    assert_type([await each.result() for each in await admin.enqueue_many(embed, [("a",), ("b",)])], list[User])
    await admin.enqueue(embed, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.enqueue(embed, ["a text"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await admin.enqueue(embed)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await admin.enqueue(embed, "a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Worker(admin, [embed, marks, beat])
    await run_enqueued(admin, [embed])
    assert_type(await crash_everywhere(embed, "a text"), User)
    assert_type((await admin.list_workflows())[0].batch_id, int | None)
    assert_type((await admin.list_workflows())[0].parent_id, int | None)


def wrong_batches() -> None:
    Batch(100)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workflow(batch=100)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    workflow(batch=Batch(2, within=1))(beat)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    workflow(batch=Batch(2, within=1))(named)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def operating(admin: Admin) -> None:
    why = await admin.why(1)
    assert_type(why, Why)
    assert_type(why.reasons[0].kind, ReasonKind)
    assert_type(why.reasons[0].until, datetime | None)
    assert_type((await admin.list_workers())[0].queues, Mapping[str, int | None])
    assert_type((await admin.rewind(1, before="charge")).steps, tuple[StepRecord, ...])
    assert_type(await admin.list_rewinds(1), list[RewindRecord])
    await admin.rewind(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await admin.why("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def states(admin: Admin, ctx: PyWorkflow) -> None:
    assert_type(await ctx.state.get("balance", 0, type=int), int)
    assert_type(await ctx.state.get("balance", type=int), int | None)
    assert_type(await ctx.state.get("balance", "none", type=int, id="first"), int | str)
    assert_type(await ctx.state.get("balance", 0), Any)
    await ctx.state.set("balance", 5)
    await ctx.state.delete("balance", id="last")
    await ctx.state.get(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    state = await admin.state(pipeline, "ada")
    assert_type(state, StateSnapshot)
    assert_type(state.get("balance", 0, type=int), int)
    assert_type(state.get("balance", type=int), int | None)
    assert_type(state["balance"], Any)
    assert_type(dict(state), dict[str, Any])
    assert_type(await admin.delete_state("pipeline", "ada"), int)
    await admin.state(pipeline)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await admin.state(5, "ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def retention(admin: Admin) -> None:
    await admin.set_retention(30, failed=timedelta(days=90), per={"beat": 0.5, "ledger": None}, archive=True)
    await admin.set_retention(days=None, failed=None, archive=timedelta(days=3650))
    await admin.set_retention("30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await admin.retention(), RetentionRecord)
    assert_type(await admin.purge([1, 2], dry_run=True), BulkReport)
    await admin.purge(WorkflowFilter(name="a"), progress=lambda report: report.changed)
    await admin.purge(select(Workflow.id).where(Workflow.priority > 1))
    document = await admin.export_workflow(1)
    assert_type(document, dict[str, Any])
    assert_type(await admin.import_workflow(document, ids="keep"), WorkflowHandle[Any])
    await admin.import_workflow(document, ids="old")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await admin.doctor(), list[Finding])


async def described_page(admin: Admin) -> None:
    assert_type(await admin.list_workflows(payloads=False, name="a"), WorkflowPage)

    async def access(request: HttpRequest) -> Granted:
        return {"cancel"} if request.client else Access.READ

    app = dashboard(admin, authorize=access, show_sealed=True)
    assert_type(app, Starlette)
    dashboard(admin, lambda _request: None)
    dashboard(admin, local(Access.ALL))
    dashboard(admin, lambda _request: 5)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]


def observed(admin: Admin, worker: Worker) -> None:
    assert_type(otel.instrument(admin, workflow_spans="rooted"), None)
    metrics = prometheus.instrument(admin, cached=5)
    assert_type(metrics, prometheus.PrometheusMetrics)
    assert_type(worker.health(), WorkerHealth)
    apps: list[Callable[[dict[str, Any], Any, Any], Any]] = [metrics.app, health(worker)]
    admin.observe(Observer())
    Admin("postgresql://h/d", observer=Observer())
    otel.instrument(admin, workflow_spans="flat")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    admin.observe(apps)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
