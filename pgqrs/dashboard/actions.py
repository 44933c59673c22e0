"""The actions of the dashboard: each one call of the `Admin`, after which the browser shows the page again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.datastructures import ImmutableMultiDict

from pgqrs.dashboard.filters import list_filter
from pgqrs.dashboard.pages import Asked, filter_values
from pgqrs.dashboard.rendering import View
from pgqrs.dashboard.security import FIELD
from pgqrs.dashboard.values import cut
from pgqrs.types import BulkReport

Form: TypeAlias = ImmutableMultiDict[str, str]
"""The fields of a form."""

Done: TypeAlias = View | str
"""The result of an action: a page, or the URL of one, relative to the overview."""

BULK_TIME = 20.0
"""Seconds after which a bulk operation stops; it is safe to repeat."""

NOTICES = {
    "cancel": "The cancellation is requested.",
    "resume": "The workflow is ready to run again.",
    "rewind": "The workflow is rewound.",
    "send": "The message is sent.",
    "trigger": "The workflow is started.",
    "pause": "Paused.",
    "unpause": "Resumed.",
}
"""The sentences that a page shows after an action, by the word in its URL."""

_UNLOGGED = frozenset({FIELD, "value"})

_logger = logging.getLogger("pgqrs.dashboard")


async def cancel(asked: Asked, _form: Form) -> Done:
    """Request the cancellation of a workflow."""
    await asked.admin.cancel_workflow(_id(asked))
    return _back_to(_id(asked), "cancel")


async def resume(asked: Asked, _form: Form) -> Done:
    """Make a workflow ready to run again."""
    await asked.admin.resume_workflow(_id(asked))
    return _back_to(_id(asked), "resume")


async def rewind(asked: Asked, form: Form) -> Done:
    """Rewind a workflow to the time before a step."""
    await asked.admin.rewind(_id(asked), before=form.get("before", ""))
    return _back_to(_id(asked), "rewind")


async def send(asked: Asked, form: Form) -> Done:
    """Send a message, whose value is JSON, to a workflow."""
    value = _value(form)
    await asked.admin.send(
        _id(asked), form.get("topic", "").strip(), value, key=form.get("key", "").strip() or None
    )
    return _back_to(_id(asked), "send")


async def pause_queue(asked: Asked, form: Form) -> Done:
    """Pause a queue, or end its pause."""
    is_pause = _is_pause(form)
    change = asked.admin.pause_queue if is_pause else asked.admin.resume_queue
    await change(form.get("name", ""))
    return f"queues?notice={'pause' if is_pause else 'unpause'}"


async def pause_schedule(asked: Asked, form: Form) -> Done:
    """Pause a schedule, or end its pause."""
    is_pause = _is_pause(form)
    handle = await asked.admin.find_schedule(form.get("name", ""))
    await (handle.pause() if is_pause else handle.resume())
    return f"schedules?notice={'pause' if is_pause else 'unpause'}"


async def trigger(asked: Asked, form: Form) -> Done:
    """Start a workflow of a schedule now."""
    handle = await asked.admin.find_schedule(form.get("name", ""))
    return _back_to((await handle.trigger()).id, "trigger")


async def bulk(asked: Asked, form: Form) -> Done:
    """Show the effect of an action on all workflows of a filter, or do it after it was confirmed."""
    chosen, action = list_filter(form), form.get("action", "")
    is_dry = form.get("confirmed") != "yes"
    call = _bulk_call(asked, action, form)
    told: list[BulkReport] = []
    is_whole = True
    try:
        async with asyncio.timeout(BULK_TIME):
            report = await call(chosen.matching, dry_run=is_dry, progress=told.append)
    except TimeoutError:
        is_whole = False
        report = told[-1] if told else BulkReport(0, 0, dry_run=is_dry)
    values = {
        "view": "list",
        "action": action,
        "report": report,
        "is_whole": is_whole,
        "is_dry": is_dry,
        "before": form.get("before", ""),
        "topic": form.get("topic", ""),
        "value": form.get("value", ""),
        "key": form.get("key_of_message", ""),
        **filter_values(chosen),
    }
    return View("bulk.html", values, {**asked.values.json(report), "is_whole": is_whole})


def _bulk_call(asked: Asked, action: str, form: Form) -> Callable[..., Awaitable[BulkReport]]:
    admin = asked.admin
    if action == "cancel":
        return admin.cancel_workflows
    if action == "resume":
        return admin.resume_workflows
    if action == "rewind":
        return partial(admin.rewind_workflows, before=form.get("before", ""))
    if action == "send":
        topic, key = form.get("topic", "").strip(), form.get("key_of_message", "").strip()
        return partial(_send_many, asked, topic=topic, value=_value(form), key=key)
    raise ValueError("choose an action.")


async def _send_many(asked: Asked, which: Any, *, topic: str, value: Any, key: str, **options: Any) -> BulkReport:
    if not key:
        raise ValueError("a message to many workflows needs a key, so that no workflow gets it twice.")
    return await asked.admin.send_many(which, topic, value, key=key, **options)


def log(asked: Asked, action: str, form: Form) -> None:
    """Log an action with the fields that say of which objects, and with the user if the application has one."""
    user = asked.request.scope.get("user")
    name = str(getattr(user, "display_name", "") or "unknown")
    fields = {field: cut(value, 200) for field, value in form.items() if field not in _UNLOGGED and value}
    path = asked.request.url.path
    more = {"action": action, "user": name}
    _logger.info("pgqrs: dashboard: %s by %r: %s %r", action, name, path, fields, extra=more)


def _id(asked: Asked) -> int:
    return int(asked.request.path_params["workflow_id"])


def _back_to(workflow_id: int, notice: str) -> str:
    return f"workflow/{workflow_id}?notice={notice}"


def _is_pause(form: Form) -> bool:
    return form.get("do") == "pause"


def _value(form: Form) -> Any:
    text = form.get("value", "").strip()
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise ValueError(f"the value is no JSON: {error}.") from error
