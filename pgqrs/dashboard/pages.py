"""The views of the dashboard, each out of a few calls of the `Admin`, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from starlette.requests import Request

from pgqrs.client.admin import Admin
from pgqrs.dashboard.filters import ListFilter, list_filter
from pgqrs.dashboard.rendering import View
from pgqrs.dashboard.timeline import timeline
from pgqrs.dashboard.values import Values, length
from pgqrs.errors import ConfigurationError, PgqrsError
from pgqrs.schedules import Cron, ScheduleRecord, Timetable, in_words
from pgqrs.storage.limits.settings import QueueRepository
from pgqrs.storage.selection.activity import PERIOD
from pgqrs.types import QueueRecord, RewindRecord, StepRecord, WorkflowRecord, WorkflowStatus

PAGE = 50
"""Maximum workflows of a page of the list."""

SHOWN_STEPS = 200
"""Maximum steps of a page: the first half and the last half."""

SHOWN_CHILDREN = 50
"""Maximum children of a page."""

FAILURES = 10
"""Maximum failures of the overview."""

NEXT_RUNS = 3
"""Number of the next runs of a schedule."""

ENDED = frozenset({WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED})


class Asked(NamedTuple):
    """A request to the dashboard, with its `Admin` and the way to show values."""

    request: Request
    admin: Admin
    values: Values


async def overview(asked: Asked) -> View:
    """Return the numbers of the live workflows, the rates and the latest failures."""
    admin = asked.admin
    reader = (await admin.store()).reader
    gauges = await reader.gauges()
    activity = await reader.activity()
    failures = await admin.list_workflows(status=WorkflowStatus.ERROR, limit=FAILURES, payloads=False)
    statuses = {each: 0 for each in WorkflowStatus if each not in ENDED}
    names: dict[tuple[str, str], dict[str, int]] = {}
    for each in gauges.workflows:
        statuses[each.status] = statuses.get(each.status, 0) + each.number
        own = names.setdefault((each.queue, each.name), {})
        own[each.status] = own.get(each.status, 0) + each.number
    oldest = min((each.oldest_ready_at for each in gauges.workflows if each.oldest_ready_at), default=None)
    rows = [{"queue": queue, "name": name, **numbers} for (queue, name), numbers in sorted(names.items())]
    values = {
        "view": "overview",
        "statuses": statuses,
        "rows": rows,
        "oldest": oldest,
        "executors": gauges.executors,
        "activity": activity,
        "minutes": PERIOD / 60,
        "failures": [_row(asked, each) for each in failures],
    }
    found = {**activity._asdict(), "seconds": PERIOD, "executors": gauges.executors, "statuses": statuses}
    return View(
        "overview.html",
        values,
        {**found, "live": rows, "oldest_ready_at": asked.values.json(oldest), "failures": _json(asked, failures)},
    )


async def workflows(asked: Asked) -> View:
    """Return a page of the list, and the form of its filter."""
    query = asked.request.query_params
    after = int(query["after"]) if query.get("after") else None
    chosen = list_filter(query)
    page = await asked.admin.list_workflows(chosen.matching, after=after, limit=PAGE, payloads=False)
    values = {
        "view": "list",
        "workflows": [_row(asked, each) for each in page],
        "next": page.next,
        "is_first": after is None,
        **filter_values(chosen),
    }
    following = None if page.next is None else str(page.next)
    return View("list.html", values, {"workflows": _json(asked, page), "next": following})


def filter_values(chosen: ListFilter) -> dict[str, Any]:
    """Return the values of the form of a filter."""
    return {
        "fields": {name: values[0] for name, values in chosen.fields.items() if name != "status"},
        "chosen_statuses": chosen.fields.get("status", []),
        "all_statuses": list(WorkflowStatus),
        "hidden": [(name, value) for name, values in chosen.fields.items() for value in values],
        "query": chosen.query,
        "has_conditions": bool(chosen.fields),
    }


async def workflow(asked: Asked) -> View:
    """Return one workflow: its state, why it does not run, its steps, events, children and rewinds."""
    workflow_id = int(asked.request.path_params["workflow_id"])
    handle, show = asked.admin.handle(workflow_id), asked.values
    reasons = await asked.admin.why(workflow_id)
    record = await handle.record()
    steps = await handle.steps()
    children = await asked.admin.list_workflows(parent=workflow_id, limit=SHOWN_CHILDREN, payloads=False)
    events, events_error = await _events(asked, workflow_id)
    rewinds = await asked.admin.list_rewinds(workflow_id)
    shown, left_out = _shown_steps(steps)
    now = record.completed_at or reasons.at
    drawn = timeline(shown, record.started_at or record.created_at, now)
    values = {
        "view": "workflow",
        "workflow": record,
        "has_ended": record.status in ENDED,
        "reasons": reasons.reasons,
        "times": _times(record),
        "details": _details(record),
        "input": show.payload(record.input),
        "output": show.payload(record.output),
        "error": show.payload(record.error),
        "error_line": show.error(record.error),
        "steps": [_step(asked, each) for each in shown],
        "left_out": left_out,
        "timeline": drawn,
        "children": [_row(asked, each) for each in children],
        "more_children": children.next is not None,
        "events": [(name, show.payload(value)) for name, value in events.items()],
        "events_error": events_error,
        "rewinds": [_rewind(asked, each) for each in rewinds],
    }
    found = {
        "workflow": record,
        "why": reasons.reasons,
        "steps": steps,
        "events": events,
        "children": [{"id": each.id, "name": each.name, "status": each.status} for each in children],
        "rewinds": rewinds,
    }
    return View("workflow.html", values, show.json(found))


async def queues(asked: Asked) -> View:
    """Return the queues with their limits and their use."""
    found = await asked.admin.list_queues()
    values = {"view": "queues", "queues": [_queue(each) for each in found]}
    return View("queues.html", values, {"queues": asked.values.json(found)})


async def queue(asked: Asked) -> View:
    """Return the partition keys of a queue with most workflows, and their use."""
    name = asked.request.query_params.get("name", "")
    found = next((each for each in await asked.admin.list_queues() if each.name == name), None)
    operations = (await asked.admin.store()).operations
    partitions = await operations.run(lambda connection: QueueRepository(connection).partitions(name))
    limit = None if found is None else found.partition_concurrency
    rows = [
        {"partition": each, "used": _share(each.holding, limit), "oldest": length(each.oldest_age)}
        for each in partitions
    ]
    values = {"view": "queues", "name": name, "partitions": rows, "limit": limit}
    own = [each._asdict() for each in partitions]
    return View("queue.html", values, {"name": name, "partition_concurrency": limit, "partitions": own})


async def schedules(asked: Asked) -> View:
    """Return the schedules in words, with their next runs."""
    found = await asked.admin.list_schedules()
    now = await (await asked.admin.store()).reader.now()
    rows = [_schedule(asked, each, now) for each in found]
    own = [
        {
            **asked.values.json(each),
            "rule": row["rule"],
            "words": row["words"],
            "next": asked.values.json(row["next"]),
        }
        for each, row in zip(found, rows, strict=True)
    ]
    return View("schedules.html", {"view": "schedules", "schedules": rows}, {"schedules": own})


async def workers(asked: Asked) -> View:
    """Return the live workers and their health."""
    found = await asked.admin.list_workers()
    return View("workers.html", {"view": "workers", "workers": found}, {"workers": asked.values.json(found)})


async def doctor(asked: Asked) -> View:
    """Return the findings of the doctor."""
    found = await asked.admin.doctor()
    return View("doctor.html", {"view": "doctor", "findings": found}, {"findings": asked.values.json(found)})


def _row(asked: Asked, record: WorkflowRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "queue": record.queue or "",
        "key": record.key or "",
        "created_at": record.created_at,
        "completed_at": record.completed_at,
        "error": asked.values.error(record.error),
        "tags": record.tags,
    }


def _json(asked: Asked, records: Sequence[WorkflowRecord]) -> list[Any]:
    """Return the records of a list for JSON, without the payloads that were not read."""
    rows = [asked.values.json(each) for each in records]
    return [{name: value for name, value in row.items() if name not in {"input", "output"}} for row in rows]


async def _events(asked: Asked, workflow_id: int) -> tuple[dict[str, Any], str]:
    """Return the events of a workflow, or the error of reading them."""
    try:
        return await asked.admin.handle(workflow_id).events(), ""
    except (PgqrsError, ValueError) as error:  # written with another codec
        return {}, f"unreadable: {type(error).__name__}"


def _shown_steps(steps: Sequence[StepRecord]) -> tuple[Sequence[StepRecord], int]:
    """Return the steps of a page, and the number of the steps in the middle that it leaves out."""
    if len(steps) <= SHOWN_STEPS:
        return steps, 0
    half = SHOWN_STEPS // 2
    return [*steps[:half], *steps[-half:]], len(steps) - 2 * half


def _times(record: WorkflowRecord) -> list[tuple[str, datetime]]:
    """Return the times of a workflow that it has, with their labels."""
    names = ("created_at", "started_at", "completed_at", "due_at", "deadline", "scheduled_for")
    return [(name.replace("_", " "), at) for name in names if (at := getattr(record, name)) is not None]


def _details(record: WorkflowRecord) -> list[tuple[str, str]]:
    """Return the fields of a workflow that have a value, as texts, with their labels."""
    names = ("queue", "key", "priority", "partition_key", "unique", "epoch", "attempts", "schedule", "codec")
    own = [(name, getattr(record, name)) for name in (*names, "executor_id")]
    own += [("tags", " ".join(record.tags)), *((f"attribute {name}", v) for name, v in record.attributes.items())]
    return [(name.replace("_", " "), str(value)) for name, value in own if value not in (None, "", 0)]


def _step(asked: Asked, step: StepRecord) -> dict[str, Any]:
    seconds = None if step.completed_at is None else (step.completed_at - step.started_at).total_seconds()
    return {
        "id": step.step_id,
        "status": step.status,
        "epoch": step.epoch,
        "attempts": step.failures + (step.completed_at is not None),
        "failures": step.failures,
        "reopened": step.reopened,
        "started_at": step.started_at,
        "length": length(seconds),
        "output": asked.values.payload(step.output),
        "error": asked.values.payload(step.error),
        "error_line": asked.values.error(step.error),
    }


def _rewind(asked: Asked, rewind: RewindRecord) -> dict[str, Any]:
    return {
        "before": rewind.before,
        "at": rewind.rewound_at,
        "epoch": rewind.epoch,
        "status": rewind.status,
        "steps": [(each.step_id, each.status, asked.values.payload(each.output)) for each in rewind.steps],
    }


def _queue(queue: QueueRecord) -> dict[str, Any]:
    """Return a queue for its row; `used` is the share of its limit that is in use."""
    used = _share(queue.holding, queue.concurrency)
    return {"record": queue, "used": used, "oldest": length(queue.oldest_age)}


def _share(holding: int, limit: int | None) -> float | None:
    """Return the share of a limit that is in use, None without a limit."""
    return min(1.0, holding / limit) if limit else None


def _schedule(asked: Asked, schedule: ScheduleRecord, now: datetime) -> dict[str, Any]:
    table = Timetable(schedule.rule, schedule.start, schedule.end)
    rule = schedule.rule
    words, times, problem = str(rule), list[datetime](), ""
    try:
        words = in_words(rule)
        times = list(islice(table.times(now), NEXT_RUNS))
    except ConfigurationError as error:  # this machine does not know the time zone
        problem = str(error)
    expression = rule.expression if isinstance(rule, Cron) else ""
    return {
        "record": schedule,
        "rule": str(rule),
        "words": words,
        "expression": expression,
        "next": times,
        "problem": problem,
        "input": asked.values.payload(schedule.input),
    }
