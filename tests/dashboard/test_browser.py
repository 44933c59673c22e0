"""The dashboard in Chromium, under a prefix: scripts, policy, forms, filters and live changes."""

import asyncio
import shutil
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from pgqrs import PyWorkflow, Worker, workflow
from pgqrs.dashboard import Access, dashboard
from tests.support.waiting import no_hang, until

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")


@workflow
async def order(ctx: PyWorkflow, amount: int) -> int:
    return amount + await ctx.receive("more", timeout=3600)


@asynccontextmanager
async def served(app):
    """Serve an application in this loop, and return its URL."""
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        serving = asyncio.create_task(server.serve([socket]))
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        server.should_exit = True
        await serving


@asynccontextmanager
async def chromium(seen):
    """Open a page in Chromium, which appends to `seen` what its console says."""
    playwright = pytest.importorskip("playwright.async_api", reason="needs `pip install playwright`")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        yield page
        await browser.close()


async def test_views_and_actions_in_chromium(admin, sql):
    app = Starlette(routes=[Mount("/ops/workflows", dashboard(admin, lambda _request: Access.ALL))])
    large, seen = 2**62 + 3, []
    handle = await admin.options(tags="eu").enqueue(order, 1)
    other = await admin.enqueue(order, 2)
    await sql.execute("UPDATE pgqrs_workflows SET id = $1 WHERE id = $2", large, other.id)
    async with no_hang(), served(app) as url, chromium(seen) as page:
        base = f"{url}/ops/workflows"
        for view in ("Overview", "Queues", "Schedules", "Workers", "Doctor", "Workflows"):
            await page.goto(f"{base}/")
            await page.get_by_role("link", name=view, exact=True).click()
            await page.get_by_role("heading", level=1).wait_for()
        await page.get_by_role("link", name=str(large)).click()
        assert page.url == f"{base}/workflow/{large}"
        await page.goto(f"{base}/list")
        await page.evaluate("window.isSamePage = true")
        await page.get_by_label("Tags").fill("eu")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name=str(large)).wait_for(state="detached")
        assert "tags=eu" in page.url
        await admin.options(tags="eu", key="new one").enqueue(order, 3)
        await page.get_by_role("heading", level=1).click()  # no button has the focus any more
        await page.get_by_role("cell", name="new one").wait_for()  # by the stream
        assert await page.evaluate("window.isSamePage")

        await page.goto(f"{base}/workflow/{handle.id}")
        async with Worker(admin, [order]):
            await page.get_by_text("WAITING").first.wait_for()
            await page.get_by_text("Send a message").click()
            await page.get_by_label("Topic").fill("more")
            await page.get_by_label("Value, as JSON").fill("41")
            await page.get_by_role("button", name="Send").click()
            await page.get_by_text("The message is sent.").wait_for()
            assert await handle.result() == 42
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(f"{base}/workflow/{large}")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_text("The cancellation is requested.").wait_for()
        assert await admin.handle(large).status() == "CANCELLED"
    assert seen == []
