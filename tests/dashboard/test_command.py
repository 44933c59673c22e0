"""The command `pgqrs dashboard`, and the application of the example."""

import asyncio
import signal

import httpx

from examples.dashboard import checkout, create_app
from tests.support.dashboard import Browser
from tests.support.waiting import no_hang


async def test_command_serves_until_a_signal(children, dsn, installed):
    process = children.start(
        "-m", "pgqrs.cli", "dashboard", "--port", "0", PGQRS_DSN=dsn, PGQRS_SCHEMA=installed, PYTHONUNBUFFERED="1"
    )
    async with no_hang():
        line = await asyncio.to_thread(process.stdout.readline)
        url = line.removeprefix("The dashboard is on ").strip()
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{url}list", headers={"accept": "text/html"})
        assert (answer.status_code, "Read-only" in answer.text) == (200, True)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait) == 0


async def test_example_gives_each_user_an_access(admin):
    app = create_app(admin)
    own = Browser(app, "/workflows")
    async with no_hang(), app.router.lifespan_context(app):
        handle = await admin.enqueue(checkout, "ada")
        assert (await own.get("/")).status_code == 403
        for user, is_allowed in (("joan", False), ("grace", False), ("ada", True)):
            own.client.cookies.set("user", user)
            answer = await own.post(f"/workflow/{handle.id}/send", topic="approval", value="true")
            assert (answer.status_code == 303) == is_allowed
        assert await handle.result() == "charged ada"
