"""The live pages: server-sent events with the live part of a page, each time that it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

from pgqrs.errors import PgqrsError

INTERVAL = 2.0
"""Seconds between two looks at a page."""

LIFETIME = 30.0
"""Seconds after which a stream ends, and the browser asks again, for which its access is checked anew."""

RETRY = 1000
"""Milliseconds after which the browser asks again."""


async def changes(
    render: Callable[[], Awaitable[str]],
    seen: str | None,
    *,
    interval: float = INTERVAL,
    lifetime: float = LIFETIME,
) -> AsyncIterator[str]:
    """Yield an event for each change of a text; `seen` is the id of the last event that the browser has.

    Between two looks nothing is held. If a look fails, the event ``lost`` says so.
    """
    yield f"retry: {RETRY}\n\n"
    loop = asyncio.get_running_loop()
    until = loop.time() + lifetime
    while True:
        try:
            text = await render()
        except (PgqrsError, TimeoutError):
            yield "event: lost\ndata: 1\n\n"
        else:
            digest = sha256(text.encode()).hexdigest()[:16]
            if digest != seen:
                seen = digest
                data = "".join(f"data: {line}\n" for line in text.splitlines())
                yield f"id: {digest}\nevent: live\n{data}\n"
        if loop.time() + interval > until:
            return
        await asyncio.sleep(interval)
