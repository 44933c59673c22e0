"""A process that runs the workflow, or carries one on: ``python -m examples.airports.run [WORKFLOW_ID]``.

The environment variable PGQRS_DSN names the database. The process tells its parent how far it is, a line of
JSON at a time, and waits for a line in answer before it goes on: so the parent knows where it kills it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import airportsdata
import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from examples.airports.models import sessions
from examples.airports.pipeline import airports
from examples.airports.progress import listen
from pgqrs import Admin


def main(workflow_id: int | None = None) -> None:
    """Run a new workflow, or carry on the one of the given id."""
    listen(lambda step_id, done, total: _tell(step=step_id, done=done, total=total))
    asyncio.run(_run(os.environ["PGQRS_DSN"], workflow_id))


def connect(dsn: str) -> AsyncEngine:
    """Return the application's engine, for a DSN in the form that PostgreSQL's own clients take."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))


async def _run(dsn: str, workflow_id: int | None) -> None:
    engine = connect(dsn)
    sessions.configure(bind=engine)
    async with Admin(engine) as admin:
        await admin.install()
        edition = airportsdata.__version__
        if workflow_id is None:
            ctx = await admin.create_workflow("airports", edition)
        else:
            ctx = await admin.get_workflow(workflow_id)
        _tell(workflow=ctx.id())
        _tell(result=await airports(ctx, edition))
    await engine.dispose()


def _tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the parent process is gone")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
