"""The health of a worker as an ASGI application, for the probes of an orchestrator."""

from __future__ import annotations

import json

from pgqrs.telemetry.asgi import Application, Response, application
from pgqrs.worker.worker import Worker


def health(worker: Worker) -> Application:
    """Return the ASGI application with the health of a worker, ``/livez`` and ``/readyz``.

    ``/livez`` answers 200 while the event loop works and none of the services of the worker has ended by itself;
    a process that fails it should be restarted. ``/readyz`` answers 200 while the worker claims workflows: it has
    started, does not drain, and reaches the database. Other statuses are 503, and the body, JSON, says why.

    Args:
        worker: The worker, in this event loop.

    Returns:
        The application; it can be mounted at a path, or run alone.
    """

    async def answer(path: str, _accept: str) -> Response:
        found = worker.health()
        match path.rstrip("/"):
            case "/livez":
                is_well = found.is_alive
            case "/readyz":
                is_well = found.is_ready
            case _:
                return Response(404, b'{"error": "the paths are /livez and /readyz"}')
        body = {
            "alive": found.is_alive,
            "ready": found.is_ready,
            "state": found.state,
            "running": found.running,
            "failing": list(found.failing),
        }
        return Response(200 if is_well else 503, json.dumps(body).encode())

    return application(answer)
