"""An application with the dashboard at /workflows, and a function that says who may do something there.

``PGQRS_DSN=... uvicorn --factory examples.dashboard:create_app`` serves it; open
http://127.0.0.1:8000/workflows?user=ada.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from pgqrs.dashboard import Access, Granted, dashboard


@step
async def charge(_ctx: PyWorkflow, customer: str) -> str:
    return f"charged {customer}"


@workflow
async def checkout(ctx: PyWorkflow, customer: str) -> str:
    await ctx.receive("approval", timeout=3600)
    return await charge(ctx, customer)


async def access(request: Request) -> Granted:
    """Return the access of a user; an application takes the user from its own session."""
    user = request.cookies.get("user") or request.query_params.get("user")
    if user == "ada":
        return Access.ALL
    if user == "grace":
        return {"cancel", "resume"}
    return Access.READ if user else None


def create_app(admin: Admin | None = None) -> Starlette:
    """Return the application, with a worker of its own."""
    own = Admin(os.environ["PGQRS_DSN"]) if admin is None else admin

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with own:
            await own.install()
            async with Worker(own, [checkout]):
                yield

    return Starlette(routes=[Mount("/workflows", dashboard(own, access))], lifespan=lifespan)
