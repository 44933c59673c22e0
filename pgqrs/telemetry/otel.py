"""Traces and metrics of an `Admin` for OpenTelemetry, and a filter that gives log records the ids of the trace."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import get_args

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import (
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    get_tracer_provider,
)

from pgqrs.client.admin import Admin
from pgqrs.engine.scope import StepExecution, current_scope
from pgqrs.errors import ConfigurationError
from pgqrs.telemetry.metrics import Add, Metric, MetricsObserver
from pgqrs.telemetry.spans import SpanObserver, WorkflowSpans

SCOPE = "pgqrs"
"""The name of the instrumentation scope of the spans and the metrics."""


def instrument(
    admin: Admin,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    workflow_spans: WorkflowSpans = "linked",
) -> None:
    """Trace the workflows of an `Admin`, and count its events.

    Call it right after you create the `Admin`, in each process that submits or runs its workflows.

    Args:
        admin: The client, which has not been used yet.
        tracer_provider: The provider of the tracer; that of the process by default.
        meter_provider: The provider of the meter; that of the process by default.
        workflow_spans: The parent of the spans of the runs. ``"linked"``: the span of the submission, so that a
            trace is complete at any time. ``"rooted"``: the span of the workflow, which is made at its end, and
            which a viewer misses until then.

    Raises:
        ConfigurationError: The `Admin` has been used already, or `workflow_spans` is unknown.
    """
    if workflow_spans not in get_args(WorkflowSpans):
        raise ConfigurationError(f"`workflow_spans` must be 'linked' or 'rooted', got {workflow_spans!r}.")
    tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
    meters = get_meter_provider() if meter_provider is None else meter_provider
    admin.observe(SpanObserver(tracers.get_tracer(SCOPE), workflow_spans))
    admin.observe(MetricsObserver(_OtelInstruments(meters.get_meter(SCOPE))))


class _OtelInstruments:
    """The metrics of a meter of OpenTelemetry."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def adds_to(self, metric: Metric) -> Add:
        """Make a counter or a histogram, and return the function that adds to it."""
        name = metric.name.replace("_", ".", 1).removesuffix("_seconds")
        return self._histogram(name, metric) if metric.kind == "histogram" else self._counter(name, metric)

    def _histogram(self, name: str, metric: Metric) -> Add:
        unit = "s" if metric.name.endswith("_seconds") else "{record}"
        histogram = self._meter.create_histogram(
            name, unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets
        )
        labels = metric.labels
        known: dict[tuple[str, ...], dict[str, str]] = {}

        def add(amount: float, *values: str) -> None:
            attributes = known.get(values)
            if attributes is None:
                attributes = known[values] = dict(zip(labels, values, strict=True))
            histogram.record(amount, attributes)

        return add

    def _counter(self, name: str, metric: Metric) -> Add:
        """Count in a table, which each export reads: an addition of the library costs as much as a step."""
        labels = metric.labels
        totals: dict[tuple[str, ...], float] = {}

        def read(_options: CallbackOptions) -> Iterable[Observation]:
            found = list(totals.items())
            return [Observation(total, dict(zip(labels, values, strict=True))) for values, total in found]

        self._meter.create_observable_counter(name, [read], "1", metric.help)

        def add(amount: float, *values: str) -> None:
            totals[values] = totals.get(values, 0) + amount

        return add


class TraceFilter(logging.Filter):
    """Gives each log record the ids of the trace, and of the workflow and the step whose code has logged it.

    The attributes are `trace_id`, `span_id`, `workflow_id` and `step_id`; an unknown id is an empty text. An
    attribute that the record has already stays. Add the filter to a handler.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes.

        Args:
            record: The record.

        Returns:
            True: each record is logged.
        """
        span = get_current_span().get_span_context()
        scope = current_scope.get()
        run = None if scope is None else scope.run
        found = {
            "trace_id": format_trace_id(span.trace_id) if span.is_valid else "",
            "span_id": format_span_id(span.span_id) if span.is_valid else "",
            "workflow_id": "" if run is None else run.workflow_id,
            "step_id": scope.step_id if isinstance(scope, StepExecution) else "",
        }
        for name, value in found.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
