"""The spans of an `Admin`: of each run until it parks or ends, of each executed step, and of each workflow."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from time import time_ns
from typing import Any, Literal, TypeAlias, cast

from opentelemetry.context import Context, attach, create_key, get_current, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgqrs.observer import Observer, RunFacts
from pgqrs.telemetry.metrics import step_name
from pgqrs.types import WorkflowStatus

WorkflowSpans: TypeAlias = Literal["linked", "rooted"]
"""The parent of the runs' spans: the span of the submission, or the span of the workflow."""

_HEADERS = ("traceparent", "tracestate")
_W3C = TraceContextTextMapPropagator()
_NO_PARENT = Context()
_AROUND = create_key("pgqrs-around")
"""The key of the id of a workflow and of the context around its body, within the body's context."""


def trace_text(context: Context | None = None) -> str | None:
    """Return the trace context of the caller as it is stored, a header a line; None without a trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return "\n".join(carrier[name] for name in _HEADERS if name in carrier) or None


def context_of(trace: str | None) -> Context | None:
    """Return the context of a stored trace context; None for none, and for a text that is no trace context."""
    if not trace:
        return None
    carrier = dict(zip(_HEADERS, trace.split("\n"), strict=False))
    context = _W3C.extract(carrier, _NO_PARENT)
    return context if get_current_span(context).get_span_context().is_valid else None


class _PlannedIds:
    """The generator of the ids of spans: ids that a thread has planned, else those of another generator."""

    def __init__(self, other: Any) -> None:
        self._other = other
        self._planned = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)

    @contextmanager
    def planned(self, span_id: int, trace_id: int) -> Generator[None]:
        """Give the span that the block starts these ids; the trace id counts for a span without a parent."""
        self._planned.ids = span_id, trace_id
        try:
            yield
        finally:
            self._planned.ids = None

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        ids = getattr(self._planned, "ids", None)
        return cast("int", self._other.generate_span_id() if ids is None else ids[0])

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        ids = getattr(self._planned, "ids", None)
        return cast("int", self._other.generate_trace_id() if ids is None else ids[1])


def _digest(size: int, *parts: object) -> int:
    text = " ".join(map(str, ("pgqrs", *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest()) or 1


class _Identity:
    """The ids of the spans of a workflow, equal in each process: they link the runs without a further write."""

    def __init__(self, run: RunFacts) -> None:
        origin = run.origin
        # Without an origin, the token of the run is that of the workflow, if the run has created it.
        known = (run.claim if origin is None else origin.token) or getattr(origin, "created_at", None)
        self._of = run.workflow_id, known
        self.trace_id = _digest(16, *self._of)

    @property
    def workflow(self) -> int:
        """The id of the span of the workflow."""
        return _digest(8, *self._of, "workflow")

    def run(self, epoch: int) -> int:
        """Return the id of the span of a run."""
        return _digest(8, *self._of, epoch)


class _OpenStep:
    __slots__ = ("context", "outer", "span")

    def __init__(self, span: Span, outer: Context) -> None:
        self.span = span
        self.outer = outer
        self.context = set_span_in_context(span, outer)


class _OpenRun:
    """A run whose span is open, with the spans of its executing steps."""

    __slots__ = ("enqueued", "facts", "identity", "is_recorded", "span", "started", "steps")

    def __init__(self, facts: RunFacts, identity: _Identity, enqueued: Context) -> None:
        self.facts = facts
        self.identity = identity
        self.enqueued = enqueued
        self.steps: dict[str, _OpenStep] = {}
        created_at = None if facts.origin is None else facts.origin.created_at
        self.started = time_ns() if created_at is None else int(created_at.timestamp() * 1e9)
        self.span: Span = INVALID_SPAN
        self.is_recorded = False


def _of_workflow(run: RunFacts) -> dict[str, str | int]:
    """Return the attributes of a workflow."""
    attributes: dict[str, str | int] = {"pgqrs.workflow.id": run.workflow_id, "pgqrs.workflow.name": run.name}
    if run.queue is not None:
        attributes["pgqrs.workflow.queue"] = run.queue
    if run.origin is not None and run.origin.schedule is not None:
        attributes["pgqrs.schedule"] = run.origin.schedule
    return attributes


def _of_run(run: RunFacts) -> dict[str, str | int]:
    """Return the further attributes of a run."""
    attributes: dict[str, str | int] = {
        "pgqrs.workflow.epoch": run.epoch,
        "pgqrs.workflow.attempt": run.attempt,
        "messaging.system": "pgqrs",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.message.id": str(run.workflow_id),
    }
    if run.queue is not None:
        attributes["messaging.destination.name"] = run.queue
    return attributes


class SpanObserver(Observer):
    """Makes the spans of an `Admin`.

    A span is open while its run or its step executes in this process, and none is while a workflow is parked.

    Args:
        tracer: The tracer of the spans. Give each observer a scope of its own.
        workflow_spans: The parent of the spans of the runs.
    """

    def __init__(self, tracer: Tracer, workflow_spans: WorkflowSpans) -> None:
        self._tracer: Any = tracer
        self._is_rooted = workflow_spans == "rooted"
        self._runs: dict[int, _OpenRun] = {}
        # A tracer of the SDK. Another one, as that of the API alone, makes its ids itself, and knows no links.
        sdk: Any = self._tracer
        if hasattr(sdk, "id_generator") and not isinstance(sdk.id_generator, _PlannedIds):
            sdk.id_generator = _PlannedIds(sdk.id_generator)

    # --- submissions ---

    @contextmanager
    def submitting(self, name: str, queue: str, count: int) -> Generator[str | None]:
        """Make the span of a submission, whose trace context the workflows get."""
        attributes = {
            "messaging.system": "pgqrs",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": count,
            "pgqrs.workflow.name": name,
        }
        span = self._tracer.start_span(f"enqueue {name}", kind=SpanKind.PRODUCER, attributes=attributes)
        try:
            yield trace_text(set_span_in_context(span))
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def trace(self) -> str | None:
        """Return the trace context of the step that starts children."""
        return trace_text()

    # --- runs ---

    def run_began(self, run: RunFacts) -> None:
        """Open the span of a run, unless its body begins anew within the run."""
        known = self._runs.get(run.workflow_id)
        if known is not None:
            if known.facts.claim == run.claim:
                return
            self._close(run.workflow_id, "lost")
        identity, origin = _Identity(run), run.origin
        enqueued = get_current() if origin is None else context_of(origin.trace) or _NO_PARENT
        opened = _OpenRun(run, identity, enqueued)
        parent = self._root(opened) if self._is_rooted else enqueued
        links: list[Link] = []
        if origin is not None and origin.previous is not None:
            before = self._ids_of(parent, identity, identity.run(origin.previous))
            links = [Link(before, {"pgqrs.link": "previous run"})]
        span = self._start(
            f"run {run.name}",
            parent,
            (identity.run(run.epoch), identity.trace_id),
            kind=SpanKind.CONSUMER,
            attributes=_of_workflow(run) | _of_run(run),
            links=links,
        )
        opened.span, opened.is_recorded = span, span.is_recording()
        self._runs[run.workflow_id] = opened

    def body_entered(self, workflow_id: int) -> None:
        """Make the span of the run the current one of the calling task."""
        run = self._runs.get(workflow_id)
        if run is not None:
            around = get_current()
            attach(set_value(_AROUND, (workflow_id, around), set_span_in_context(run.span, around)))

    def body_left(self, workflow_id: int) -> None:
        """Make the span current that was so before the body, whose run has mostly ended by now."""
        entered: Any = get_current().get(_AROUND)
        if entered is not None and entered[0] == workflow_id:
            attach(entered[1])

    def run_released(self, workflow_id: int, status: WorkflowStatus, seconds: float | None) -> None:  # noqa: ARG002
        """Close the span of a run that has parked, was cancelled, or is left to another one."""
        if status is WorkflowStatus.CANCELLED:
            self.run_ended(workflow_id, status)
        else:
            self._close(workflow_id, "parked" if status is WorkflowStatus.WAITING else "released")

    def run_ended(self, workflow_id: int, status: WorkflowStatus) -> None:
        """Close the span of a run, and make the span of its workflow."""
        run = self._close(workflow_id, status.value.lower(), is_error=status is WorkflowStatus.ERROR)
        if run is None or not run.is_recorded:  # its trace is not sampled
            return
        ids = run.identity.workflow, run.identity.trace_id
        attributes = _of_workflow(run.facts) | {"pgqrs.workflow.status": status.value}
        name, started = f"workflow {run.facts.name}", min(run.started, time_ns())
        span = self._start(name, run.enqueued, ids, attributes=attributes, start_time=started)
        if status is WorkflowStatus.ERROR:
            span.set_status(StatusCode.ERROR)
        span.end()

    def run_lost(self, workflow_id: int, error: Exception) -> None:
        """Close the span of a run that can write nothing more."""
        self._close(workflow_id, "lost", error=error, is_error=True)

    def run_abandoned(self, workflow_id: int) -> None:
        """Close the span of a run that is left as after a crash."""
        self._close(workflow_id, "abandoned", is_error=True)

    # --- steps ---

    def step_began(self, workflow_id: int, step_id: str, attempt: int) -> None:
        """Open the span of an execution of a step, and make it the current one of the calling task."""
        run = self._runs.get(workflow_id)
        if run is None or not run.is_recorded:
            return
        outer = get_current()
        current = get_current_span(outer).get_span_context()
        if current.trace_id != run.span.get_span_context().trace_id:  # a call from outside of the body
            outer = set_span_in_context(run.span, outer)
        name = step_name(step_id)
        attributes: dict[str, str | int] = {"pgqrs.step.id": name}
        if attempt > 1:
            attributes["pgqrs.step.attempt"] = attempt
        step = _OpenStep(self._tracer.start_span(f"step {name}", outer, attributes=attributes), outer)
        run.steps[step_id] = step
        attach(step.context)

    def step_left(self, workflow_id: int, step_id: str) -> None:
        """Make the span around the step the current one of the calling task."""
        run = self._runs.get(workflow_id)
        step = None if run is None else run.steps.get(step_id)
        if step is not None:
            _leave(step)

    def step_recorded(self, workflow_id: int, step_id: str, *, failed: bool) -> None:
        """Close the span of a step whose outcome is committed."""
        self._close_step(workflow_id, step_id, "error" if failed else "success")

    def step_abandoned(self, workflow_id: int, step_id: str) -> None:
        """Close the span of a step without an outcome."""
        self._close_step(workflow_id, step_id, "none")

    def attempt_failed(self, workflow_id: int, step_id: str, attempt: int, delay: float) -> None:
        """Add an event to the span of a step."""
        run = self._runs.get(workflow_id)
        step = None if run is None else run.steps.get(step_id)
        if step is not None:
            step.span.add_event("attempt failed", {"pgqrs.step.attempt": attempt, "pgqrs.retry.delay": delay})
            step.span.set_attribute("pgqrs.step.attempt", attempt + 1)

    # ---

    def _close_step(self, workflow_id: int, step_id: str, outcome: str) -> None:
        run = self._runs.get(workflow_id)
        step = None if run is None else run.steps.pop(step_id, None)
        if step is not None:
            _leave(step)
            if outcome != "success":
                step.span.set_attribute("pgqrs.step.outcome", outcome)
                if outcome == "error":
                    step.span.set_status(StatusCode.ERROR)
            step.span.end()

    def _close(
        self, workflow_id: int, outcome: str, *, error: Exception | None = None, is_error: bool = False
    ) -> _OpenRun | None:
        """Close the span of a run and those of its steps; return the run, None if no span is open."""
        run = self._runs.get(workflow_id)
        if run is None:
            return None
        for step_id in list(run.steps):
            self._close_step(workflow_id, step_id, "none")
        del self._runs[workflow_id]
        run.span.set_attribute("pgqrs.run.outcome", outcome)
        if error is not None:
            _fail(run.span, error)
        elif is_error:
            run.span.set_status(StatusCode.ERROR)
        run.span.end()
        return run

    def _root(self, run: _OpenRun) -> Context:
        """Return the context of the span of the workflow, which is made at its end."""
        enqueued = get_current_span(run.enqueued).get_span_context()
        if enqueued.is_valid:
            flags, state = enqueued.trace_flags, enqueued.trace_state
            own = SpanContext(
                enqueued.trace_id, run.identity.workflow, is_remote=True, trace_flags=flags, trace_state=state
            )
        else:
            own = self._ids_of(_NO_PARENT, run.identity, run.identity.workflow)
        return set_span_in_context(NonRecordingSpan(own), run.enqueued)

    def _ids_of(self, parent: Context, identity: _Identity, span_id: int) -> SpanContext:
        """Return the context of a span of another process, with a planned id."""
        own = get_current_span(parent).get_span_context()
        if own.is_valid:
            return SpanContext(own.trace_id, span_id, is_remote=True, trace_flags=own.trace_flags)
        sampler = getattr(self._tracer, "sampler", None)
        is_sampled = (
            sampler is not None and sampler.should_sample(None, identity.trace_id, "run").decision.is_sampled()
        )
        flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
        return SpanContext(identity.trace_id, span_id, is_remote=True, trace_flags=flags)

    def _start(self, name: str, parent: Context, ids: tuple[int, int], **how: Any) -> Span:
        generator = getattr(self._tracer, "id_generator", None)
        with generator.planned(*ids) if isinstance(generator, _PlannedIds) else nullcontext():
            return cast("Span", self._tracer.start_span(name, parent, **how))


def _leave(step: _OpenStep) -> None:
    """Make the span around a step current, unless the calling task is another one."""
    if get_current_span() is step.span:
        attach(step.outer)


def _fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed; its message, which may have a value of the application, is left out."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)
