"""An `Admin` whose spans and metrics a test reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from pgqrs import Admin
from pgqrs.telemetry import otel, prometheus


class OpenSpans(SpanProcessor):
    """Knows the spans that have begun and not ended."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.names[span.context.span_id] = span.name

    def on_end(self, span: ReadableSpan) -> None:
        self.names.pop(span.context.span_id, None)


class Telemetry:
    """What an `Admin` has told OpenTelemetry and Prometheus."""

    def __init__(self, admin: Admin, **options: Any) -> None:
        spans = options.pop("workflow_spans", "linked")
        self.admin = admin
        self.exported = InMemorySpanExporter()
        self.open = OpenSpans()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exported))
        self.provider.add_span_processor(self.open)
        self.tracer = self.provider.get_tracer("test")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.registry = CollectorRegistry()
        otel.instrument(admin, self.provider, self.meters, workflow_spans=spans)
        self.prometheus = prometheus.instrument(admin, registry=self.registry)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the exported spans whose names begin with a text, by their ends."""
        return [each for each in self.exported.get_finished_spans() if each.name.startswith(name)]

    def total(self, metric: str, **labels: str) -> float:
        """Return the sum of a metric of Prometheus over the samples with these labels."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def telemetry(base: Admin, **options: Any) -> AsyncIterator[Telemetry]:
    """Give a second `Admin` whose spans and metrics are read."""
    twin = base.twin()
    found = Telemetry(twin, **options)
    async with twin:
        yield found
    found.provider.shutdown()
    found.meters.shutdown()
