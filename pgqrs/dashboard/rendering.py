"""The templates, and the responses that they make: a page, the live part of a page, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from pgqrs.dashboard.security import secured, token_of
from pgqrs.dashboard.values import cut, length, moment

FOLDER = Path(__file__).parent

LIVE = "live"
"""The block of a template that is sent again when it changes."""


@dataclass(frozen=True, slots=True)
class View:
    """The content of a page: its template, the values of the template, and its JSON."""

    template: str
    values: Mapping[str, Any]
    json: Any = field(default=None)
    status: int = 200


class Pages:
    """Renders views."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(cut=cut, moment=moment, duration=length)
        # The block of a template alone sees no macros that the template itself imports.
        shared: dict[str, Any] = {"ui": self._environment.get_template("macros.html").module}
        self._environment.globals.update(shared)

    def page(self, request: Request, view: View, may: frozenset[str]) -> Response:
        """Return a view as a page, or as JSON if the request prefers that."""
        token = token_of(request)
        if prefers(request, "application/json"):
            body = json.dumps(view.json if view.json is not None else {"error": view.values.get("message")})
            return secured(
                Response(body, view.status, media_type="application/json"), request, token=token, nonce=""
            )
        nonce = token_urlsafe(16)
        values = {**self._values(request, view, may), "nonce": nonce}
        body = self._environment.get_template(view.template).render(values)
        return secured(Response(body, view.status, media_type="text/html"), request, token=token, nonce=nonce)

    def live(self, request: Request, view: View, may: frozenset[str]) -> str:
        """Return the live part of a view."""
        template = self._environment.get_template(view.template)
        context = template.new_context(self._values(request, view, may))
        return "".join(template.blocks[LIVE](context))

    def _values(self, request: Request, view: View, may: frozenset[str]) -> dict[str, Any]:
        return {
            "title": self._title,
            "base": base_of(request),
            "path": request.url.path,
            "token": token_of(request),
            "may": may,
            **view.values,
        }


def prefers(request: Request, media_type: str) -> bool:
    """Return whether a request accepts a type and no page."""
    accepted = request.headers.get("accept", "")
    return media_type in accepted and "text/html" not in accepted


def base_of(request: Request) -> str:
    """Return the relative URL of the overview, seen from the page of a request.

    Relative URLs hold under each prefix, also under one that a proxy has removed.
    """
    own = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
    return "../" * (own.count("/") - 1) or "./"
