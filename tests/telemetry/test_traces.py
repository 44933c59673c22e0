"""The spans of workflows: one trace from the submission to the end, and none of what is not executed."""

import asyncio
import logging
import os
import signal

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode, TraceFlags, format_trace_id, get_current_span

from pgqrs import ConfigurationError, PyWorkflow, RetryPolicy, Topic, Worker, step, workflow
from pgqrs.telemetry.otel import TraceFilter, instrument
from tests.support.processes import line_of
from tests.support.recorded import row_of
from tests.support.telemetry import telemetry
from tests.support.waiting import until

GO = Topic("go", str)


@step
async def charge(ctx: PyWorkflow) -> int:
    return get_current_span().get_span_context().span_id


@step(thread=True)
def ship(ctx: PyWorkflow) -> int:
    return get_current_span().get_span_context().span_id


@step(key=lambda n: n)
async def tick(ctx: PyWorkflow, n: int) -> int:
    return n


@workflow
async def ordering(ctx: PyWorkflow) -> list[int]:
    """Execute steps, park, and execute a step in a thread."""
    charged = await charge(ctx)
    await ctx.receive(GO)
    return [charged, await ship(ctx), get_current_span().get_span_context().span_id]


@workflow
async def long(ctx: PyWorkflow) -> None:
    for n in range(100):
        await tick(ctx, n)
    await ctx.receive(GO)


@workflow
async def parent(ctx: PyWorkflow) -> list[int]:
    started = await ctx.start(child)
    keyed = await ctx.options(key="k").start(child)
    return [await started, await keyed]


@workflow
async def child(ctx: PyWorkflow) -> int:
    return await charge(ctx)


# A worker whose step never returns, for a kill.
PROCESS = """
import asyncio, os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span
from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from pgqrs.telemetry.otel import instrument

@step
async def first(ctx: PyWorkflow) -> int:
    return 1

@step
async def second(ctx: PyWorkflow) -> int:
    # The span of the body, whose export the kill prevents.
    print("executes", ctx_span, flush=True)
    await asyncio.Event().wait()

@workflow
async def killed(ctx: PyWorkflow) -> int:
    global ctx_span
    ctx_span = get_current_span().get_span_context().span_id
    return await first(ctx) + await second(ctx)

async def main():
    admin = Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"])
    instrument(admin, TracerProvider())
    async with admin:
        await Worker(admin, [killed]).run()

asyncio.run(main())
"""


@step
async def first(ctx: PyWorkflow) -> int:
    return 1


@step
async def second(ctx: PyWorkflow) -> int:
    return 2


@workflow
async def killed(ctx: PyWorkflow) -> int:
    return await first(ctx) + await second(ctx)


async def is_parked(handle):
    return await handle.status() == "WAITING"


async def test_a_trace_goes_from_the_request_over_a_park_to_the_end(admin):
    async with telemetry(admin) as found:
        with found.tracer.start_as_current_span("request") as request:
            handle = await found.admin.enqueue(ordering)
        async with Worker(found.admin, [ordering]):
            await until(is_parked, handle)
            assert found.open.names == {}
            assert [each.name for each in found.spans("run")] == ["run ordering"]
            await handle.send(GO, "now")
            charged, shipped, in_body = await handle.result()
    before, after = found.spans("run ordering")
    by_name = {each.name: each for each in found.spans("step")}
    trace_id = request.get_span_context().trace_id
    assert {each.context.trace_id for each in found.spans()} == {trace_id}
    (enqueued,) = found.spans("enqueue")
    assert {before.parent.span_id, after.parent.span_id} == {enqueued.context.span_id}
    assert [link.context.span_id for link in after.links] == [before.context.span_id]
    # A step sees its own span, in a thread too, and the body that of its run.
    assert charged == by_name["step charge"].context.span_id
    assert shipped == by_name["step ship"].context.span_id
    assert in_body == after.context.span_id
    assert by_name["step ship"].parent.span_id == after.context.span_id
    (whole,) = found.spans("workflow ordering")
    assert whole.start_time <= before.start_time
    assert whole.end_time >= after.end_time
    assert found.open.names == {}


async def test_a_trace_survives_the_kill_of_a_worker(admin, program):
    process = program(PROCESS)
    async with telemetry(admin) as found:
        with found.tracer.start_as_current_span("request") as request:
            handle = await found.admin.enqueue(killed)
        span_id = (await line_of(process.stdout, "executes")).split()[1]
        os.kill(process.pid, signal.SIGKILL)
        async with Worker(found.admin, [killed]):
            assert await handle.result() == 3
        (run,) = found.spans("run")
        assert [each.name for each in found.spans("step")] == ["step second"]
        assert {each.context.trace_id for each in found.spans()} == {request.get_span_context().trace_id}
        assert [each.context.span_id for each in run.links] == [int(span_id)]
        assert found.total("pgqrs_takeovers_total") == 1


@pytest.mark.without_replay("it counts what a replay does not do")
async def test_a_replay_makes_no_span_and_no_metric(admin):
    async with telemetry(admin) as found, Worker(found.admin, [long]):
        handle = await found.admin.enqueue(long)
        await until(is_parked, handle)
        found.exported.clear()
        await handle.send(GO, "now")
        await handle.result()
        assert [each.name for each in found.spans()] == ["run long", "workflow long"]
        assert found.total("pgqrs_steps_total", step="tick") == 100
        assert found.total("pgqrs_step_duration_seconds_count", step="tick") == 100


async def test_children_belong_to_the_step_that_started_them(admin):
    async with telemetry(admin) as found, Worker(found.admin, [parent, child]):
        await (await found.admin.enqueue(parent)).result()
    starts = {each.context.span_id for each in found.spans("step start/child")}
    assert {each.parent.span_id for each in found.spans("run child")} == starts
    assert len(starts) == 2
    assert len({each.context.trace_id for each in found.spans()}) == 1


async def test_children_of_an_untraced_worker_keep_the_trace(admin, sql):
    async with telemetry(admin) as found, Worker(admin, [parent, child]):
        await (await found.admin.enqueue(parent)).result()
    traces = await sql.fetchrow("SELECT count(*), count(DISTINCT trace), count(trace) FROM pgqrs_workflows")
    assert tuple(traces) == (3, 1, 3)


async def test_a_workflow_without_a_submission_has_one_trace(admin, sql):
    # As one that a schedule, SQL or a process without a tracer has made.
    handle = await admin.enqueue(ordering)
    async with telemetry(admin) as found, Worker(found.admin, [ordering]):
        await until(is_parked, handle)
        await handle.send(GO, "now")
        await handle.result()
    before, after = found.spans("run")
    assert before.parent is None
    assert len({each.context.trace_id for each in found.spans()}) == 1
    assert [link.context.span_id for link in after.links] == [before.context.span_id]
    assert (await row_of(sql, handle.id))["trace"] is None


async def test_rooted_runs_are_children_of_the_workflow(admin):
    async with telemetry(admin, workflow_spans="rooted") as found, Worker(found.admin, [ordering]):
        handle = await found.admin.enqueue(ordering)
        await until(is_parked, handle)
        await handle.send(GO, "now")
        await handle.result()
    (whole,) = found.spans("workflow")
    assert [each.parent.span_id for each in found.spans("run")] == [whole.context.span_id] * 2
    assert len({each.context.trace_id for each in found.spans()}) == 1


@pytest.mark.plants_rows
@pytest.mark.parametrize(
    "trace", ["", "garbage", "00-zz-1-01\nx", "\n\n\n", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
async def test_a_malformed_trace_context_stops_no_workflow(admin, sql, trace):
    handle = await admin.enqueue(child)
    await sql.execute("UPDATE pgqrs_workflows SET trace = $1", trace)
    async with telemetry(admin) as found, Worker(found.admin, [child]):
        assert await handle.result()
    assert found.spans("run child")[0].parent is None


async def test_an_unsampled_request_has_no_span_and_its_workflow_runs(admin, sql):
    async with telemetry(admin, sampler=ParentBased(ALWAYS_OFF)) as found, Worker(found.admin, [parent, child]):
        handle = await found.admin.enqueue(parent)
        assert len(await handle.result()) == 2
        assert found.spans() == []
        traces = await sql.fetch("SELECT trace FROM pgqrs_workflows")
    assert not any(int(each["trace"][-2:], 16) & TraceFlags.SAMPLED for each in traces)
    assert len(traces) == 3


@step(key=lambda secret: secret, retry=RetryPolicy(2, initial=0.01))
async def leaking(ctx: PyWorkflow, secret: str) -> str:
    raise OSError(secret)


@workflow
async def confidential(ctx: PyWorkflow, secret: str) -> str:
    await ctx.set_event("progress", secret)
    return await leaking(ctx, secret)


async def test_no_span_and_no_metric_has_a_payload_or_a_key(admin):
    async with telemetry(admin) as found, Worker(found.admin, [confidential]):
        submitter = found.admin.options(key="hidden key", partition_key="hidden partition")
        handle = await submitter.enqueue(confidential, "hidden value")
        with pytest.raises(OSError, match="hidden"):
            await handle.result()
        unique = await found.admin.options(unique="hidden unique").enqueue(child)
        await unique.cancel()
        shown = "\n".join(each.to_json() for each in found.spans())
        metrics = str(found.reader.get_metrics_data().to_json()) + str([*found.registry.collect()])
    assert "hidden" not in shown + metrics
    (failed,) = found.spans("step leaking")
    assert (failed.status.status_code, failed.attributes["pgqrs.step.attempt"]) == (StatusCode.ERROR, 2)
    assert [each.name for each in failed.events] == ["attempt failed"]
    assert found.spans("run confidential")[0].status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("options", [{}, {"debounce": 5}, {"taken": "replace"}], ids=str)
async def test_a_unique_submission_carries_its_trace(admin, sql, options):
    async with telemetry(admin) as found:
        with found.tracer.start_as_current_span("request") as request:
            handle = await found.admin.options(unique="v", **options).enqueue(child)
        trace_id = format_trace_id(request.get_span_context().trace_id)
    assert trace_id in (await row_of(sql, handle.id))["trace"]


async def test_the_caller_keeps_its_span_after_a_run_in_its_task(admin):
    async with telemetry(admin) as found:
        with found.tracer.start_as_current_span("request") as request:
            await found.admin.run(child)
            assert get_current_span() is request
    (run,) = found.spans("run child")
    assert run.parent.span_id == request.get_span_context().span_id


async def test_a_cancelled_body_leaves_no_span_open(admin):
    async with telemetry(admin) as found:
        begun = asyncio.Event()

        @workflow
        async def hanging(ctx: PyWorkflow) -> None:
            async def hang() -> None:
                begun.set()
                await asyncio.Event().wait()

            await ctx.step("hang", hang)

        task = asyncio.create_task(found.admin.run(hanging))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert found.open.names == {}
        assert found.spans("run hanging")[0].attributes["pgqrs.run.outcome"] == "abandoned"


async def test_log_records_have_the_ids_of_the_trace(admin, caplog):
    caplog.handler.addFilter(TraceFilter())
    logger = logging.getLogger("shop")

    @step
    async def logs(ctx: PyWorkflow) -> None:
        logger.warning("charged")

    @workflow
    async def shopping(ctx: PyWorkflow) -> None:
        await logs(ctx)

    async with telemetry(admin) as found:
        await found.admin.run(shopping)
    logger.warning("outside")
    inside, outside = (each for each in caplog.records if each.name == "shop")
    (span,) = found.spans("step logs")
    assert inside.trace_id == format_trace_id(span.context.trace_id)
    assert (inside.step_id, outside.step_id, outside.trace_id) == ("logs", "", "")
    assert inside.workflow_id == 1


async def test_an_admin_in_use_is_not_instrumented(admin):
    await admin.list_workflows()
    with pytest.raises(ConfigurationError, match="right after"):
        instrument(admin)
