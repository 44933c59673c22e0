"""The shop of examples/orders over HTTP: its server processes are killed, and each order is charged and shipped once."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import pgqrs
from examples.orders.app import create_app
from examples.orders.carrier import Delivery
from examples.orders.models import Item, Order, Payment, Shipment
from examples.orders.tables import CATALOGUE, create_tables
from pgqrs import Admin
from pgqrs.models import Workflow
from tests.support.database import engine_on
from tests.support.waiting import DEADLINE, until

ROOT = Path(__file__).parents[2]
CUSTOMERS = 8

STOCK = {item["sku"]: item["stock"] for item in CATALOGUE}


def a_lamp(**more):
    return {"id": str(uuid4()), "customer": "Ada", "sku": "lamp", **more}


@pytest_asyncio.fixture
async def sessions(own_database):
    """Makes sessions on the shop's database, beside those of the shop."""
    engine = engine_on(own_database)
    yield lambda: AsyncSession(engine)
    await engine.dispose()


@contextlib.asynccontextmanager
async def browsing(dsn, *, workers=1, cancel_within=0.0):
    """Serve the shop in this process, and yield an HTTP client of it."""
    app = create_app(dsn, workers=workers, cancel_within=cancel_within)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
    ):
        yield http


async def state_of(http, order, url=""):
    answer = await http.get(f"{url}/orders/{order['id']}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def done(http, order, url=""):
    """Return an order's state, once its workflow has ended."""
    state = await state_of(http, order, url)
    assert state["workflow"] != "ERROR", state
    return state if state["workflow"] in {"SUCCESS", "CANCELLED"} else None


# --- in this process ---


async def test_repeated_order_is_placed_once_and_shows_its_state(own_database, sessions):
    order = a_lamp(quantity=2)
    async with browsing(own_database) as http:
        answers = await asyncio.gather(*(http.post("/orders", json=order) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
        assert {answer.json()["id"] for answer in answers} == {order["id"]}
        state = await until(done, http, order)
        assert (state["workflow"], state["progress"]) == ("SUCCESS", "shipped 2 of 2")
        assert (state["cents"], state["tracking"], state["is_cancelled"]) == (
            8400,
            ["parcel-1", "parcel-2"],
            False,
        )
        assert (await http.get("/orders")).json() == [state]
        assert (await http.post("/orders", json=order)).status_code == 200
        assert (await http.get(f"/orders/{uuid4()}")).status_code == 404
        assert (await http.post("/orders", json=a_lamp(quantity=0))).status_code == 422
    async with sessions() as session:
        await check_books(session, stock={"lamp": 2})


async def test_a_refused_order_leaves_neither_order_nor_workflow(own_database, sessions):
    refused = a_lamp(sku="chandelier", quantity=2)
    async with browsing(own_database, workers=0) as http:
        answer = await http.post("/orders", json=refused)
        assert (answer.status_code, answer.json()["detail"]) == (409, "not in stock: 2 of chandelier")
        assert (await http.post("/orders", json=a_lamp(sku="nonsense"))).status_code == 409
        assert (await http.get("/orders")).json() == []
        async with sessions() as session:
            assert await session.scalar(select(func.count()).select_from(Order)) == 0
            assert await session.scalar(select(func.count()).select_from(Workflow)) == 0
        assert (await http.post("/orders", json=refused | {"quantity": 1})).status_code == 201
        assert (await state_of(http, refused))["workflow"] == "PENDING"


async def test_order_can_be_cancelled_only_before_shipping(own_database, sessions):
    cancelled, shipped = a_lamp(), a_lamp()
    async with browsing(own_database, workers=0) as http:
        await http.post("/orders", json=cancelled)
        for _ in range(2):
            answer = await http.post(f"/orders/{cancelled['id']}/cancel")
            assert (answer.status_code, answer.json()["workflow"]) == (200, "CANCELLED")
        await http.post("/orders", json=shipped)
        assert (await http.post(f"/orders/{uuid4()}/cancel")).status_code == 404
    async with browsing(own_database) as http:  # with a worker
        await until(done, http, shipped)
        answer = await http.post(f"/orders/{shipped['id']}/cancel")
        assert (answer.status_code, answer.json()["detail"]) == (409, f"order {shipped['id']} is being shipped")
        assert (await state_of(http, cancelled))["progress"] is None
    async with sessions() as session:
        assert await check_books(session, stock={"lamp": 1}) == {UUID(shipped["id"])}


async def test_cancelled_paid_order_is_refunded(own_database, sessions):
    order = a_lamp()
    async with browsing(own_database, cancel_within=3600) as http:
        await http.post("/orders", json=order)
        await until(parked, sessions)
        state = await state_of(http, order)
        assert (state["progress"], state["is_refunded"]) == ("paid", False)
        assert (await http.post(f"/orders/{order['id']}/cancel")).status_code == 200
        state = await until(done, http, order)
        assert (state["workflow"], state["is_refunded"], state["tracking"]) == ("CANCELLED", True, [])
    async with sessions() as session:
        assert await check_books(session) == set()


async def test_expensive_order_waits_for_its_approval(own_database, sessions):
    order = a_lamp(sku="chandelier")
    async with browsing(own_database) as http:
        await http.post("/orders", json=order)
        await until(parked, sessions)
        assert (await state_of(http, order))["progress"] == "waits for an approval"
        for is_approved in (True, False):  # the first decision stays
            answer = await http.post(f"/orders/{order['id']}/decision", json={"is_approved": is_approved})
            assert answer.status_code == 200
        assert (await until(done, http, order))["progress"] == "shipped 1 of 1"
        answer = await http.post(f"/orders/{uuid4()}/decision", json={"is_approved": True})
        assert answer.status_code == 404
    async with sessions() as session:
        assert await check_books(session) == {UUID(order["id"])}


async def test_decision_about_an_order_that_has_ended_is_refused(own_database):
    order = a_lamp()
    async with browsing(own_database) as http:
        await http.post("/orders", json=order)
        await until(done, http, order)
        answer = await http.post(f"/orders/{order['id']}/decision", json={"is_approved": True})
        assert (answer.status_code, answer.json()["detail"]) == (409, f"order {order['id']} has ended")


async def test_refused_order_goes_back_into_the_stock(own_database, sessions):
    order = a_lamp(sku="chandelier")
    async with browsing(own_database) as http:
        await http.post("/orders", json=order)
        await http.post(f"/orders/{order['id']}/decision", json={"is_approved": False})
        state = await until(done, http, order)
        assert (state["workflow"], state["is_cancelled"], state["tracking"]) == ("SUCCESS", True, [])
        answer = await http.post(f"/orders/{order['id']}/decision", json={"is_approved": True})
        assert (answer.status_code, answer.json()["is_cancelled"]) == (200, True)  # the first decision stays
    async with sessions() as session:
        assert await check_books(session) == set()


async def parked(sessions):
    """Return whether the only workflow waits, and holds no place of a worker."""
    async with sessions() as session:
        return await session.scalar(select(Workflow.status)) == "WAITING"


# --- processes that are killed ---


class Server:
    """A process that serves the shop on a port of its own."""

    def __init__(self, dsn, log):
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.orders", "--dsn", dsn, "--port", "0", "--cancel-within", "0"],
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.url = ""

    async def is_up(self):
        log = self._log.read_text()
        assert self.process.poll() is None, log
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", log)
        self.url = found[1] if found else ""
        return self.url

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL, self._log.read_text()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
            assert "Application shutdown complete" in self._log.read_text()
            assert "Traceback" not in self._log.read_text()


@pytest.fixture
def serve(own_database, tmp_path):
    """Start a server process; one that still runs in the end is told to stop, and must do so in order."""
    servers = []

    async def start():
        server = Server(own_database, tmp_path / f"server-{len(servers)}.log")
        servers.append(server)
        await until(server.is_up)
        return server

    yield start
    try:
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()


class Town:
    """The servers of a shop that live, and a client that finds one of them."""

    def __init__(self, serve, http):
        self.alive = []
        self.orders = []
        self.answers = Counter()
        self._serve = serve
        self._http = http
        self._changed = asyncio.Condition()

    async def open_one(self):
        server = await self._serve()
        async with self._changed:
            self.alive.append(server)
            self._changed.notify_all()

    async def kill_one_after(self, answers):
        """Kill some server that lives as soon as so many orders are answered, whatever it is doing."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.alive and self.answers.total() >= answers)
            self.alive.pop(random.randrange(len(self.alive))).kill()

    async def post(self, path, order=None):
        """Ask some server that lives; None where it died over the question."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.alive)
        try:
            return await self._http.post(random.choice(self.alive).url + path, json=order)
        except httpx.TransportError:
            return None

    async def order(self, order, *, insists):
        """Place an order, until there is an answer if the customer `insists`; tell what it was, if any."""
        answer = await self.post("/orders", order)
        while answer is None and insists:
            answer = await self.post("/orders", order)
        said = None if answer is None else answer.status_code
        async with self._changed:
            self.orders.append((order, said))
            self.answers[said] += 1
            self._changed.notify_all()
        return said


async def test_killed_servers_charge_and_ship_each_order_once(own_database, sessions, serve):
    async with asyncio.timeout(1.5 * DEADLINE), httpx.AsyncClient(timeout=20) as http:
        town = Town(serve, http)
        await asyncio.gather(town.open_one(), town.open_one())
        cancelled = set()

        async def customer(number):
            for each in range(6):
                sku = ["lamp", "shade", "stool"][each % 3]
                order = a_lamp(customer=f"customer {number}", sku=sku, quantity=1 + each % 2)
                said = await town.order(order, insists=number % 2)
                if each == 4 and said == 201:
                    answer = await town.post(f"/orders/{order['id']}/cancel")
                    cancelled.update({order["id"]} if answer is not None and answer.is_success else ())

        async def murderer():
            async with asyncio.TaskGroup() as replacement:
                await town.kill_one_after(random.randrange(4, 16))
                replacement.create_task(town.open_one())
                await town.kill_one_after(random.randrange(20, 36))

        async with asyncio.TaskGroup() as everybody:
            everybody.create_task(murderer())
            for number in range(CUSTOMERS):
                everybody.create_task(customer(number))
        (survivor,) = town.alive
        await until(_nothing_is_open, http, survivor.url)

    async with sessions() as session:
        shipped = await check_books(session)
        there = {str(order.id): order for order in await session.scalars(select(Order))}
    assert {order["id"] for order, said in town.orders if said in {200, 201}} <= there.keys()
    assert not {order["id"] for order, said in town.orders if said == 409} & there.keys()
    assert there.keys() <= {order["id"] for order, said in town.orders}
    assert town.answers[201] > CUSTOMERS
    assert all(there[each].is_cancelled and UUID(each) not in shipped for each in cancelled)
    async with Admin(own_database) as admin:
        await admin.verify(deep=True)


async def _nothing_is_open(http, url):
    states = (await http.get(f"{url}/orders")).json()
    assert [state for state in states if state["workflow"] == "ERROR"] == []
    return all(state["workflow"] in {"SUCCESS", "CANCELLED"} for state in states)


async def test_kill_before_a_step_is_recorded_does_not_charge_twice(own_database, sessions, serve):
    order = a_lamp()
    async with asyncio.timeout(1.5 * DEADLINE), httpx.AsyncClient(timeout=20) as http:
        servers = [*await asyncio.gather(serve(), serve())]
        async with sessions() as carrier_lock:
            await lock_writes(carrier_lock, Delivery)
            async with sessions() as payment_lock, sessions() as record_lock:
                await lock_writes(payment_lock, Payment)
                assert (await http.post(f"{servers[0].url}/orders", json=order)).status_code == 201
                await until(_holds_up, payment_lock)  # it charges...
                await lock_workflow(record_lock)
                await payment_lock.commit()
                await until(_holds_up, record_lock)  # ...and is about to commit
                servers.remove(await kill_running_server(sessions, servers))
            servers.append(await serve())
            await until(_holds_up, carrier_lock)  # another has charged, and asks the carrier
            async with sessions() as record_lock:
                await lock_workflow(record_lock)
                await carrier_lock.commit()
                # It has delivered, and the step cannot be recorded.
                await until(_count, sessions, Delivery)
                servers.remove(await kill_running_server(sessions, servers))
        (survivor,) = servers
        state = await until(done, http, order, survivor.url)
    assert (state["workflow"], state["progress"]) == ("SUCCESS", "shipped 1 of 1")
    async with sessions() as session:
        assert await check_books(session) == {UUID(order["id"])}
        assert await session.scalar(select(Delivery.asked)) == 2


async def lock_writes(session, model):
    """Let nobody write into a table until the session's transaction ends."""
    await session.execute(select(func.set_config("lock_timeout", "20s", True)))
    connection = await session.connection()
    await connection.exec_driver_sql(f"LOCK TABLE {model.__table__.fullname} IN EXCLUSIVE MODE")


async def lock_workflow(session):
    """Keep the runs of all workflows from writing a record until the session's transaction ends."""
    await session.execute(select(Workflow.id).with_for_update())


async def _holds_up(session):
    """Tell whether somebody waits for a lock that the session holds."""
    own = await session.scalar(select(func.pg_backend_pid()))
    # Not pg_stat_activity: within a transaction that shows who was connected when it was first looked at.
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid))"
    return (await (await session.connection()).exec_driver_sql(waiting, (own,))).scalar()


async def _count(sessions, model):
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(model))


async def kill_running_server(sessions, servers):
    """Kill the server whose worker runs the newest of the running workflows, which is a child if there is one."""
    async with sessions() as session:
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT pid FROM pgqrs.pgqrs_executors WHERE id = "
            "(SELECT executor FROM pgqrs.pgqrs_workflows WHERE executor IS NOT NULL ORDER BY id DESC LIMIT 1)"
        )
        pid = found.scalar_one()
    (server,) = [server for server in servers if server.process.pid == pid]
    server.kill()
    return server


async def check_books(session, *, stock=None):
    """Check that what is there fits together, and return the orders that were charged and shipped."""
    orders = {order.id: order for order in await session.scalars(select(Order))}
    payments = list(await session.scalars(select(Payment)))
    shipments = list(await session.scalars(select(Shipment)))
    deliveries = list(await session.scalars(select(Delivery)))
    workflows = {workflow.id: workflow for workflow in await session.scalars(select(Workflow))}

    due = {order.id for order in orders.values() if not order.is_cancelled}
    parcels = {f"{each}/{parcel}" for each in due for parcel in range(1, orders[each].quantity + 1)}
    assert Counter(payment.order_id for payment in payments if not payment.is_refunded) == dict.fromkeys(due, 1)
    assert all(payment.cents == orders[payment.order_id].cents > 0 for payment in payments)
    assert Counter(delivery.parcel for delivery in deliveries) == dict.fromkeys(parcels, 1)
    numbers = {delivery.parcel: f"parcel-{delivery.number}" for delivery in deliveries}
    assert {f"{each.order_id}/{each.parcel}": each.tracking for each in shipments} == numbers
    assert {order.workflow_id: f"order {order.id}" for order in orders.values()} == {
        workflow.id: workflow.key for workflow in workflows.values() if workflow.parent_id is None
    }
    taken = Counter()
    for each in due:
        taken[orders[each].sku] += orders[each].quantity
    left = {item.sku: item.stock for item in await session.scalars(select(Item))}
    assert left == {sku: number - taken[sku] for sku, number in STOCK.items()}
    assert stock is None or taken == stock
    return due


# --- the page that describes it ---


async def test_sessions_page_snippets_run_and_match_the_example(own_database, sessions):
    page = (ROOT / "docs" / "sessions.md").read_text()
    excerpts = {"app.py": 0, "shop.py": 0, "workflow.py": 0}
    names = vars(pgqrs) | {"UUID": UUID, "uuid4": uuid4, "Order": Order, "Payment": Payment}
    async with sessions() as session:
        engine = session.bind
        await create_tables(engine)
        names |= {"engine": engine, "async_sessionmaker": async_sessionmaker}
        for snippet in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
            if source := re.match(r"# examples/orders/(\w+\.py)\n", snippet):
                shown = snippet[source.end() :]
                code = (ROOT / "examples" / "orders" / source[1]).read_text()
                assert any(indent_of(shown, by) in code for by in (0, 4, 8, 12, 16)), shown
                excerpts[source[1]] += 1
            else:
                code = compile(snippet, "docs/sessions.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                if (running := eval(code, names)) is not None:
                    await running
        order = await session.get_one(Order, names["order"].id)
        assert order.is_cancelled
        assert await names["handle"].status() == "CANCELLED"
        await names["admin"].close()
    assert all(excerpts.values())


def indent_of(text, by):
    return textwrap.indent(text, " " * by)
