"""The access to the dashboard: everything, reads, or reads and some actions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from enum import Enum
from ipaddress import ip_address
from typing import Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from starlette.requests import Request

Action: TypeAlias = Literal["cancel", "resume", "rewind", "send", "trigger", "pause"]
"""An action of the dashboard; ``"pause"`` is to pause and to resume queues and schedules."""

ACTIONS: frozenset[str] = frozenset(get_args(Action))


class Access(Enum):
    """The access of a request to the dashboard."""

    ALL = "all"
    """It sees everything and may do each action."""
    READ = "read"
    """It sees everything and changes nothing."""


Granted: TypeAlias = Access | Collection[str] | None
"""The access that `authorize` returns: an `Access`, the actions that are allowed, or None for none."""

Authorize: TypeAlias = Callable[[Request], Granted | Awaitable[Granted]]
"""Returns the access of a request; it may be async."""

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a proxy, whose clients are not those of this machine."""


def local(access: Granted = Access.READ) -> Authorize:
    """Return an `authorize` that gives an access to the requests of this machine, and none to others.

    The address of the client must be a loopback address, and the request must name the host by one, as in
    ``http://127.0.0.1:8080`` or ``http://localhost:8080``. A request through a proxy is not of this machine.

    Args:
        access: The access of the requests of this machine; `Access.READ` by default.

    Returns:
        The function for `dashboard`.
    """

    def authorize(request: Request) -> Granted:
        return access if _is_local(request) else None

    return authorize


async def allowed_actions(authorize: Authorize, request: Request) -> frozenset[str] | None:
    """Return the actions that a request may do, None for a request that may not even read.

    Raises `TypeError` for an answer of another type, and `ValueError` for an unknown action.
    """
    given = authorize(request)
    answer: object = cast(object, await given if inspect.isawaitable(given) else given)
    if answer is None:
        return None
    if answer is Access.ALL:
        return ACTIONS
    if answer is Access.READ:
        return frozenset()
    if isinstance(answer, str) or not isinstance(answer, Collection):
        raise TypeError(f"`authorize` must return an Access, a set of actions or None, got {answer!r}.")
    actions = frozenset(cast("Collection[str]", answer))
    if unknown := actions - ACTIONS:
        known = ", ".join(sorted(ACTIONS))
        raise ValueError(f"`authorize` returned the unknown actions {sorted(unknown)!r}; the actions are {known}.")
    return actions


def _is_local(request: Request) -> bool:
    if request.client is None or any(each in request.headers for each in _FORWARDED):
        return False
    # A page of another site can name this machine in the domain of that site.
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return _is_loopback(request.client.host) and (host == "localhost" or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
