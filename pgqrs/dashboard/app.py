"""`dashboard`, the ASGI application: its routes, and the way of each request through access, action and page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pgqrs.client.admin import Admin
from pgqrs.codecs.base import is_sealing
from pgqrs.dashboard import actions, pages, stream
from pgqrs.dashboard.access import Authorize, allowed_actions, local
from pgqrs.dashboard.actions import NOTICES, Done, Form
from pgqrs.dashboard.pages import Asked
from pgqrs.dashboard.rendering import FOLDER, Pages, View, base_of, prefers
from pgqrs.dashboard.security import FIELD, refusal, secured, token_of
from pgqrs.dashboard.values import Values, cut
from pgqrs.errors import (
    DatabaseError,
    PgqrsError,
    ScheduleNotFoundError,
    SchemaError,
    WorkflowNotFoundError,
)

READ_TIME = 5.0
"""Maximum seconds in which a page reads; without an answer it says that the database is away."""

ACTION_TIME = 30.0
"""Maximum seconds of an action."""

MAX_FORM = 2_000_000
"""Maximum bytes of a form."""

T = TypeVar("T")

Read: TypeAlias = Callable[[Asked], Awaitable[View]]

Act: TypeAlias = Callable[[Asked, Form], Awaitable[Done]]

_VIEWS: dict[str, Read] = {
    "/": pages.overview,
    "/list": pages.workflows,
    "/workflow/{workflow_id:int}": pages.workflow,
    "/queues": pages.queues,
    "/queue": pages.queue,
    "/schedules": pages.schedules,
    "/workers": pages.workers,
    "/doctor": pages.doctor,
}


class _Posted(NamedTuple):
    """The action of a path: the name that its access has, None for the field ``action``, and its function."""

    action: str | None
    act: Act


_ACTIONS: dict[str, _Posted] = {
    "/workflow/{workflow_id:int}/cancel": _Posted("cancel", actions.cancel),
    "/workflow/{workflow_id:int}/resume": _Posted("resume", actions.resume),
    "/workflow/{workflow_id:int}/rewind": _Posted("rewind", actions.rewind),
    "/workflow/{workflow_id:int}/send": _Posted("send", actions.send),
    "/queues/pause": _Posted("pause", actions.pause_queue),
    "/schedules/pause": _Posted("pause", actions.pause_schedule),
    "/schedules/trigger": _Posted("trigger", actions.trigger),
    "/bulk": _Posted(None, actions.bulk),
}


def dashboard(
    admin: Admin, authorize: Authorize | None = None, *, show_sealed: bool = False, title: str = "pgqrs"
) -> Starlette:
    """Return the dashboard of an `Admin`, an ASGI application to mount or to serve alone.

    Any ASGI application can mount it, under any path: ``app.mount("/workflows", dashboard(admin, authorize))``.
    Each page is JSON for a request that accepts that alone.

    Args:
        admin: The client, of the event loop that serves the application.
        authorize: A function that returns the access of a request, or an awaitable: `Access.ALL`, `Access.READ`,
            the set of the actions that are allowed beside reads, or None for no access. By default, `local()`,
            requests of this machine may read, and others have no access.
        show_sealed: Whether the pages show values that the codec encrypts. False by default.
        title: The title of the pages; ``"pgqrs"`` by default.

    Returns:
        The application.

    Raises:
        TypeError: `admin` is not an `Admin`.
    """
    if not isinstance(cast(object, admin), Admin):
        raise TypeError(f"`admin` must be an Admin, got {type(admin).__name__}.")
    hides = is_sealing(admin.codec) and not show_sealed
    own = _Dashboard(admin, local() if authorize is None else authorize, Values(hides=hides), Pages(title))
    routes: list[BaseRoute] = [Route(path, own.reads(read), methods=["GET"]) for path, read in _VIEWS.items()]
    routes += [Route(path, own.posts(each), methods=["POST"]) for path, each in _ACTIONS.items()]
    routes.append(Mount("/static", StaticFiles(directory=FOLDER / "static")))
    return Starlette(routes=routes)


class _Dashboard:
    """Answers the requests."""

    def __init__(self, admin: Admin, authorize: Authorize, values: Values, rendered: Pages) -> None:
        self._admin = admin
        self._authorize = authorize
        self._values = values
        self._pages = rendered

    def reads(self, read: Read) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a view."""

        async def endpoint(request: Request) -> Response:
            may = await allowed_actions(self._authorize, request)
            if may is None:
                return self._forbidden(request)
            if prefers(request, "text/event-stream"):
                return self._stream(request, read, may)
            view = await _attempted(request, lambda: self._read(request, read))
            return self._pages.page(request, view, may)

        return endpoint

    def posts(self, posted: _Posted) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of an action."""

        async def endpoint(request: Request) -> Response:
            may = await allowed_actions(self._authorize, request)
            if may is None:
                return self._forbidden(request)
            form = await _form(request)
            reason = "The form is too large." if form is None else refusal(request, form.get(FIELD, ""))
            if form is None or reason is not None:
                return self._pages.page(request, _problem("Refused", reason or "", 403), may)
            action = posted.action or form.get("action", "")
            if action not in may:
                return self._pages.page(request, _problem("Refused", f"You may not {cut(action, 20)}.", 403), may)
            return await self._act(request, posted.act, form, action, may)

        return endpoint

    async def _act(self, request: Request, act: Act, form: Form, action: str, may: frozenset[str]) -> Response:
        asked = self._asked(request)
        actions.log(asked, action, form)

        async def acted() -> Done:
            async with asyncio.timeout(ACTION_TIME):
                return await act(asked, form)

        done = await _attempted(request, acted)
        if isinstance(done, View):
            return self._pages.page(request, done, may)
        response = RedirectResponse(base_of(request) + done, 303)
        return secured(response, request, token=token_of(request), nonce="")

    async def _read(self, request: Request, read: Read) -> View:
        async with asyncio.timeout(READ_TIME):
            view = await read(self._asked(request))
        notice = NOTICES.get(request.query_params.get("notice", ""), "")
        return View(view.template, {**view.values, "notice": notice}, view.json, view.status)

    def _stream(self, request: Request, read: Read, may: frozenset[str]) -> Response:
        async def render() -> str:
            return self._pages.live(request, await self._read(request, read), may)

        async def events() -> AsyncIterator[str]:
            async for event in stream.changes(
                render, request.headers.get("last-event-id"), interval=stream.INTERVAL, lifetime=stream.LIFETIME
            ):
                yield event

        # A proxy such as nginx would hold the events back.
        response = StreamingResponse(events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        return secured(response, request, token=token_of(request), nonce="")

    def _forbidden(self, request: Request) -> Response:
        told = (
            "You have no access to this dashboard. Without `authorize` it serves requests of this machine alone."
        )
        return self._pages.page(request, _problem("No access", told, 403), frozenset())

    def _asked(self, request: Request) -> Asked:
        return Asked(request, self._admin, self._values)


async def _attempted(request: Request, make: Callable[[], Awaitable[T]]) -> T | View:
    """Return the result of a function, or the page that tells why it failed."""
    try:
        return await make()
    except (WorkflowNotFoundError, ScheduleNotFoundError) as error:
        return _problem("Not found", str(error), 404)
    except SchemaError as error:
        return _problem("The tables are not ready", str(error), 503)
    except (DatabaseError, TimeoutError) as error:
        told = str(error) or "It has not answered in time."
        hint = "The action may have been carried out." if request.method == "POST" else ""
        return _problem("The database is unavailable", f"{told} {hint}".strip(), 503)
    except ValueError as error:  # a field of a form
        return _problem("That did not work", str(error), 400)
    except PgqrsError as error:
        return _problem("That did not work", str(error), 409)


def _problem(heading: str, message: str, status: int) -> View:
    return View("error.html", {"view": "", "heading": heading, "message": cut(message, 2000)}, None, status)


async def _form(request: Request) -> Form | None:
    """Return the fields of a form, None if it is too large; a body of another type has no fields."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            return None
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return ImmutableMultiDict()
    return ImmutableMultiDict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
