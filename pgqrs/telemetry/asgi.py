"""The part of ASGI that the applications of this package share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""


class Response(NamedTuple):
    """A response: its status, its body and the type of the body."""

    status: int
    body: bytes
    content_type: str = "application/json"


Answer: TypeAlias = Callable[[str, str], Awaitable[Response]]
"""Returns the response to a GET request, from its path below the mount, and its `Accept` header."""

_ALLOWED = ("GET", "HEAD")


def application(answer: Answer) -> Application:
    """Return the ASGI application that answers GET and HEAD requests; it needs no framework."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            method = scope["method"]
            if method in _ALLOWED:
                path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
                response = await answer(path, _accepted(scope))
            else:
                response = Response(405, b"")
            await _respond(send, response, has_body=method != "HEAD")
        else:
            await send({"type": "websocket.close", "code": 1000})

    return app


def _accepted(scope: Message) -> str:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
    return ",".join(values)


async def _live(receive: Receive, send: Send) -> None:
    """Answer a server that runs the application alone."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _respond(send: Send, response: Response, *, has_body: bool) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if response.status == 405:  # noqa: PLR2004  # the one status that has this header
        headers.append((b"allow", ", ".join(_ALLOWED).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if has_body else b""})
