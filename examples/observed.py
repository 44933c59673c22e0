"""A workflow that is traced and counted, in the process of its web server.

``python -m examples.observed`` runs it, and prints the spans and a part of the page of metrics; with ``serve`` it
goes on to serve ``/metrics``, ``/livez`` and ``/readyz`` on http://127.0.0.1:8000.
"""

import asyncio
import sys
from typing import Any

import uvicorn
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from pgqrs import Admin, PyWorkflow, Topic, Worker, step, workflow
from pgqrs.telemetry import otel, prometheus
from pgqrs.telemetry.health import health

APPROVED = Topic("approved", bool)


@step
async def reserve(_ctx: PyWorkflow, item: str) -> str:
    return f"{item} is reserved"


@step
async def ship(_ctx: PyWorkflow, item: str) -> str:
    return f"{item} is on its way"


@workflow
async def order(ctx: PyWorkflow, item: str) -> str:
    """Wait for an approval between two steps: no span is open meanwhile."""
    await reserve(ctx, item)
    await ctx.set_event("status", "waits for an approval")
    await ctx.receive(APPROVED)
    return await ship(ctx, item)


class Shop:
    """An `Admin` with telemetry: instrument it before you use it."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.worker = Worker(admin, [order])
        self.spans = InMemorySpanExporter()  # yours sends them to a collector
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.tracer = tracers.get_tracer("shop")
        self.registry = CollectorRegistry()
        otel.instrument(admin, tracers)
        self.metrics = prometheus.instrument(admin, registry=self.registry)
        self.health = health(self.worker)

    async def sell(self, item: str) -> str:
        """Enqueue an order within the span of a request, and approve it."""
        with self.tracer.start_as_current_span("POST /orders"):
            handle = await self.admin.enqueue(order, item)
        await handle.event("status")
        await handle.send(APPROVED, value=True)
        return await handle.result()

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve the metrics and the health without a framework; with one, mount the two applications."""
        of_health = scope["type"] == "http" and scope["path"] != "/metrics"
        await (self.health if of_health else self.metrics.app)(scope, receive, send)


async def main(mode: str = "") -> None:
    admin = Admin("embedded://")
    shop = Shop(admin)
    async with admin:
        await admin.install()
        async with shop.worker:
            print(await shop.sell("a lamp"))
            for span in shop.spans.get_finished_spans():
                print(f"{span.context.trace_id:032x} {span.name}")
            await shop.metrics.refresh()
            print(generate_latest(shop.registry).decode()[:500])
            if mode == "serve":
                await uvicorn.Server(uvicorn.Config(shop.app, port=8000)).serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
