"""The metrics of workflows: what is counted, the page of a scrape, and the rules that are made of them."""

import asyncio
import json
import re
from importlib import resources
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pgqrs import Admin, Batch, PyWorkflow, RetryPolicy, Topic, Worker, step, workflow
from pgqrs.telemetry.metrics import EVENTS, step_name
from pgqrs.telemetry.prometheus import GAUGES, instrument
from tests.support.telemetry import telemetry
from tests.support.waiting import until

GO = Topic("go", str)


@step(key=lambda n: n)
async def tick(ctx: PyWorkflow, n: int) -> int:
    return n


@step(retry=RetryPolicy(2, initial=0.01, jitter=0))
async def flaky(ctx: PyWorkflow) -> None:
    if ctx.attempt == 1:
        raise OSError("once")


@workflow
async def even(ctx: PyWorkflow, n: int) -> int:
    """Fail for odd numbers, and wait for a message for each tenth."""
    await tick(ctx, n)
    if n % 10 == 0:
        await ctx.receive(GO)
    if n % 2:
        raise ValueError(n)
    await flaky(ctx)
    return n


@workflow
async def family(ctx: PyWorkflow) -> None:
    """End while its child waits, so that the child is cancelled."""
    await ctx.start_many(even, [(0,), (10,)])


@workflow(batch=Batch(4, within=0.05))
async def bulk(ctx: PyWorkflow, items: list[int]) -> list[int]:
    return items


@workflow(timeout=0.3)
async def late(ctx: PyWorkflow) -> None:
    await ctx.receive(GO)


ENDS = {"SUCCESS": "succeeded", "ERROR": "failed", "CANCELLED": "cancelled"}


async def counted(sql):
    """Return the numbers of the tables for each counter."""
    found = {
        f"pgqrs_workflows_{ENDS[row['status']]}_total": row["count"]
        for row in await sql.fetch(
            "SELECT status, count(*) FROM pgqrs_workflows WHERE completed_at IS NOT NULL GROUP BY 1"
        )
    }
    one = "SELECT count(*) FROM pgqrs_workflows WHERE "
    # A submission of a batch does not start, and a batch was not submitted.
    found["pgqrs_workflows_started_total"] = await sql.fetchval(one + "started_at IS NOT NULL AND epoch > 0")
    found["pgqrs_workflows_enqueued_total"] = await sql.fetchval(one + "batch_id IS DISTINCT FROM id")
    steps = "SELECT count(*) FROM pgqrs_workflow_steps WHERE step_id LIKE 'tick%' AND status = 'SUCCESS'"
    found["pgqrs_steps_total"] = await sql.fetchval(steps)
    return found


@pytest.mark.without_replay("a body that begins anew makes no other count")
async def test_counters_equal_the_tables(admin, sql):
    async with telemetry(admin) as found:
        async with Worker(found.admin, [even, family, late, bulk]):
            handles = await found.admin.enqueue_many(even, [(n,) for n in range(40)])
            await found.admin.options(key="k").enqueue(even, 2)
            await found.admin.options(key="k").enqueue(even, 2)
            await found.admin.options(unique="v").enqueue(late)
            await (await found.admin.enqueue(family)).result()
            for each in await found.admin.enqueue_many(bulk, [(n,) for n in range(4)]):
                await each.result()
            parked = [each for n, each in enumerate(handles) if n % 10 == 0]
            for n, each in enumerate(parked):
                if n % 2:
                    await found.admin.cancel_workflow(each.id)
                else:
                    await each.send(GO, "now")
            await until(lambda: sql.fetchval("SELECT bool_and(completed_at IS NOT NULL) FROM pgqrs_workflows"))
        counts = await counted(sql)
        told = {each: found.total(each, **({"step": "tick"} if "steps" in each else {})) for each in counts}
        assert told == counts
        assert found.total("pgqrs_step_retries_total", step="flaky") > 0
        assert found.total("pgqrs_messages_total") == 2
        assert found.total("pgqrs_queue_wait_seconds_count", queue="default") >= 44
        otel = json.loads(found.reader.get_metrics_data().to_json())
    names = {each["name"] for each in otel["resource_metrics"][0]["scope_metrics"][0]["metrics"]}
    assert {"pgqrs.workflows_enqueued", "pgqrs.step_duration"} <= names


async def test_a_scrape_has_counters_and_the_live_workflows(admin, sql):
    async with telemetry(admin) as found:
        await found.admin.enqueue(even, 1)
        await found.admin.options(queue="mail", delay=3600).enqueue(even, 1)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(found.prometheus.app), base_url="http://pod")
        async with client:
            first = await client.get("/metrics", headers={"accept": "text/plain"})
            await found.admin.enqueue(even, 1)
            second = await client.get("/metrics")  # the numbers of the tables are kept for a while
            refused = await client.post("/metrics")
    families = {each.name: each for each in text_string_to_metric_families(first.text)}
    live = {
        (each.labels["queue"], each.labels["status"]): each.value for each in families["pgqrs_workflows"].samples
    }
    assert live == {("default", "pending"): 1, ("mail", "pending"): 1}
    assert families["pgqrs_workflows_enqueued"].samples[0].value == 1
    ready = await sql.fetchval("SELECT min(extract(epoch FROM ready_at))::float8 FROM pgqrs_workflows")
    assert families["pgqrs_queue_oldest_ready_timestamp_seconds"].samples[0].value == pytest.approx(
        ready, abs=1e-3
    )
    assert families["pgqrs_database_up"].samples[0].value == 1
    assert 'pgqrs_workflows{name="even",queue="default",status="pending"} 1.0' in second.text
    assert (first.status_code, refused.status_code) == (200, 405)


async def test_a_server_in_a_thread_reads_the_tables(admin):
    async with telemetry(admin) as found:
        await found.prometheus.refresh()
        await found.admin.enqueue(even, 1)
        found.prometheus.cached = 0.0
        text = await asyncio.to_thread(generate_latest, found.registry)
    assert b'pgqrs_workflows{name="even"' in text


async def test_a_scrape_without_the_server_has_the_counters(caplog):
    registry = CollectorRegistry()
    away = Admin("postgresql://127.0.0.1:1/postgres", timeout=0.2, outage_timeout=0)
    metrics = instrument(away, registry=registry, cached=0.0)
    async with away:
        for _ in range(2):
            await metrics.refresh()
    text = generate_latest(registry).decode()
    assert "pgqrs_database_up 0.0" in text
    assert "pgqrs_messages_total 0.0" in text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("step_id", "name"),
    [
        ("charge", "charge"),
        ("charge:7:8", "charge"),
        ("start/child:2", "start/child"),
        ("charge:7/sleep:1", "charge/sleep"),
        ("undo/charge:7", "undo/charge"),
    ],
)
def test_names_of_steps_have_no_keys(step_id, name):
    assert step_name(step_id) == name


KNOWN = {
    each.name + suffix
    for each in (*EVENTS, *GAUGES)
    for suffix in {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[each.kind]
}


def _expressions(tree):
    """Yield the texts of a file of Grafana or Prometheus that are expressions."""
    if isinstance(tree, dict):
        yield from (tree[key] for key in ("expr", "query") if isinstance(tree.get(key), str))
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _expressions(each)


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yaml"])
def test_each_metric_of_the_dashboard_and_the_alerts_exists(name):
    text = (resources.files("pgqrs.telemetry") / "grafana" / name).read_text()
    expressions = list(_expressions(yaml.safe_load(text)))
    named = {metric for each in expressions for metric in re.findall(r"pgqrs_[a-z_]+", each)}
    assert len(named) > 7
    assert named - KNOWN == set()
    for each in expressions:
        assert each.count("(") == each.count(")")
        assert each.count("{") == each.count("}")


def test_the_dashboard_shows_each_metric():
    text = (resources.files("pgqrs.telemetry") / "grafana" / "dashboard.json").read_text()
    named = set(re.findall(r"pgqrs_[a-z_]+", text))
    missing = [each.name for each in (*EVENTS, *GAUGES) if not any(found.startswith(each.name) for found in named)]
    assert missing == ["pgqrs_database_up"]


def test_the_page_of_the_documentation_lists_each_metric():
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    suffix = {"counter": "_total", "gauge": "", "histogram": ""}
    assert [each.name for each in (*EVENTS, *GAUGES) if f"`{each.name}{suffix[each.kind]}`" not in page] == []
