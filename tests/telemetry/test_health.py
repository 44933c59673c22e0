"""The probes of a worker: alive while its services work, and ready while it claims workflows."""

import asyncio

import httpx

from examples.observed import Shop
from pgqrs import PyWorkflow, Worker, workflow
from pgqrs.telemetry.health import health
from tests.support.waiting import until


async def probe(worker, path):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(health(worker), root_path="/health"), base_url="http://pod/health"
    ) as client:
        answer = await client.get(path)
        return answer.status_code, answer.json()


async def test_a_worker_is_ready_between_its_start_and_its_drain(admin):
    begun, gate = asyncio.Event(), asyncio.Event()

    @workflow
    async def held(ctx: PyWorkflow) -> None:
        async def hold() -> None:
            begun.set()
            await gate.wait()

        await ctx.step("hold", hold)

    worker = Worker(admin, [held])
    assert await probe(worker, "/readyz") == (
        503,
        {"alive": True, "ready": False, "state": "new", "running": 0, "failing": []},
    )
    async with worker:
        handle = await admin.enqueue(held)
        await begun.wait()
        assert await probe(worker, "/readyz") == (
            200,
            {"alive": True, "ready": True, "state": "working", "running": 1, "failing": []},
        )
        draining = asyncio.create_task(worker.drain(30))
        await until(lambda: worker.health().state == "draining")
        assert (await probe(worker, "/readyz"))[0] == 503
        assert (await probe(worker, "/livez"))[0] == 200
        gate.set()
        await draining
    assert worker.health().state == "stopped"
    assert (await probe(worker, "/"))[0] == 404
    assert await handle.status() in {"SUCCESS", "PENDING"}


async def test_a_service_that_fails_or_ends_is_told(admin):
    @workflow
    async def idle(ctx: PyWorkflow) -> None:
        """Do nothing."""

    worker = Worker(admin, [idle])
    async with worker:
        services = worker._services
        connection, services._claim_connection = services._claim_connection, None
        services._claimer.wake()  # it claims without a connection, and fails
        await until(lambda: worker.health().failing)
        assert (await probe(worker, "/readyz"))[0] == 503
        services._claim_connection = connection
        await until(lambda: worker.health().is_ready)
        services._maintenance._task.cancel()
        await until(lambda: not worker.health().is_alive)
        assert (await probe(worker, "/livez"))[0] == 503


async def test_the_example_program_is_traced_counted_and_well(admin):
    twin = admin.twin()
    shop = Shop(twin)
    async with (
        twin,
        shop.worker,
        httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url="http://pod") as client,
    ):
        assert await shop.sell("a lamp") == "a lamp is on its way"
        names = [each.name for each in shop.spans.get_finished_spans()]
        assert set(names) == {
            *("enqueue order", "POST /orders", "run order", "workflow order"),
            *("step reserve", "step set_event/status", "step receive/approved", "step ship"),
        }
        page = await client.get("/metrics")
        assert 'pgqrs_workflows_succeeded_total{name="order",queue="default"} 1.0' in page.text
        assert (await client.get("/readyz")).status_code == 200


def test_pgqrs_imports_neither_opentelemetry_nor_prometheus(run_program):
    ended = run_program(
        "import sys\n"
        "sys.modules['opentelemetry'] = sys.modules['prometheus_client'] = None\n"
        "import pgqrs, pgqrs.cli, pgqrs.testing\n"
        "print([name for name in sys.modules if name.startswith('pgqrs.telemetry')])\n"
    )
    assert (ended.code, ended.out.strip()) == (0, "[]")
