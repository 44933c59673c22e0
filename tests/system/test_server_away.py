"""PostgreSQL servers of these tests: a server with a password, a restarted server, an absent server."""

from __future__ import annotations

import asyncio
import signal
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil
import pytest

from pgqrs import (
    Admin,
    DatabaseUnavailableError,
    Every,
    PyWorkflow,
    RunStopped,
    Worker,
    embedded,
    step,
    workflow,
)
from tests.support.database import connected
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang, until


class Server:
    def __init__(self, folder: Path):
        self.embedded_dsn = f"embedded://{quote(str(folder))}"
        self.folder = embedded.data_folder(self.embedded_dsn)
        self.dsn = ""

    def start(self):
        self.dsn = embedded.start(self.embedded_dsn)

    def pid(self):
        return int(self.folder.joinpath("data", "postmaster.pid").read_text().split("\n", 1)[0])

    async def go_away(self, number=signal.SIGINT):
        """Stop the server; SIGINT is a fast shutdown, SIGQUIT one that leaves the recovery to the next start."""
        postmaster = psutil.Process(self.pid())
        postmaster.send_signal(number)

        async def gone():
            return not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE

        with suppress(psutil.NoSuchProcess):
            await until(gone)

    async def come_back(self):
        await asyncio.to_thread(self.start)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "pg")
    server.start()
    yield server
    embedded.stop(server.embedded_dsn)


@pytest.fixture
async def away_admin(server, schema_name):
    await server.come_back()
    async with Admin(server.dsn, schema_name) as admin:
        await admin.install()
        yield admin


@pytest.fixture
def schema_name(request):
    return request.node.name[:60]


@pytest.fixture
async def away_sql(server, away_admin, schema_name):
    """Ask the server that is there now."""

    class Sql:
        async def _connected(self, method, *arguments):
            async with connected(server.dsn, schema_name) as connection:
                return await getattr(connection, method)(*arguments)

        async def fetch(self, *arguments):
            return await self._connected("fetch", *arguments)

        async def fetchval(self, *arguments):
            return await self._connected("fetchval", *arguments)

        async def execute(self, *arguments):
            return await self._connected("execute", *arguments)

    return Sql()


# --- passwords ---


@pytest.mark.parametrize("password", ["s3cret", "s3cr#t9", "s3cr/t9", "s3cr@t9", "s3cr?t9", "s3cr%t9", "s3cr:t9"])
async def test_wrong_password_error_does_not_show_the_password(server, away_sql, password):
    if not await away_sql.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'guarded'"):
        await away_sql.execute("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'the right one'")
    hba = server.folder / "data" / "pg_hba.conf"
    if "guarded" not in hba.read_text():
        hba.write_text("local all guarded scram-sha-256\n" + hba.read_text())
    await away_sql.execute("SELECT pg_reload_conf()")
    right = server.dsn.replace("postgres@", f"guarded:{quote('the right one')}@")
    wrong = server.dsn.replace("postgres@", f"guarded:{quote(password, safe='')}@")

    async def is_guarded():
        try:
            connection = await asyncpg.connect(wrong)
        except asyncpg.InvalidPasswordError:
            return True
        await connection.close()
        return False

    await until(is_guarded)
    async with Admin(right, "wrong_password") as admin:
        await admin.install()
    async with Admin(wrong, "wrong_password") as admin:
        for call in (admin.install, admin.verify, lambda: admin.create_workflow("wf")):
            async with no_hang():
                with pytest.raises(DatabaseUnavailableError) as caught:
                    await call()
            text = "\n".join([repr(caught.value), *traceback.format_exception(caught.value)])
            assert "guarded" in str(caught.value)
            for part in ("s3cr", "t9", quote(password, safe="")):
                assert part not in text


# --- restarts ---


async def holds(condition):
    return condition()


@step(key=lambda n, *_: n)
async def part(ctx: PyWorkflow, n: int, executed: list) -> int:
    executed.append(n)
    return n * 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_server_restart_between_steps_keeps_the_run(server, away_admin, away_sql, number):
    executed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await part(ctx, 1, executed)]
        await server.go_away(number)
        await server.come_back()
        return [*found, await part(ctx, 2, executed)]

    ctx = await away_admin.create_workflow("wf")
    async with asyncio.timeout(40):
        assert await wf(ctx) == [10, 20]
    assert executed == [1, 2]
    assert await status(away_sql, ctx) == "SUCCESS"
    assert await steps(away_sql, ctx) == {"part:1": "SUCCESS", "part:2": "SUCCESS"}
    assert await away_sql.fetchval("SELECT epoch FROM pgqrs_workflows") == 1


async def test_step_waits_for_an_absent_server_to_be_recorded(server, away_admin, away_sql):
    executed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        await part(ctx, 1, executed)
        await server.go_away()
        waiting = asyncio.create_task(part(ctx, 2, executed))
        await until(holds, lambda: 2 in executed)
        assert not waiting.done()
        await server.come_back()
        return [await waiting, await part(ctx, 1, executed)]

    async with asyncio.timeout(40):
        ctx = await away_admin.create_workflow("wf")
        assert await wf(ctx) == [20, 10]
    assert executed == [1, 2]
    assert await steps(away_sql, ctx) == {"part:1": "SUCCESS", "part:2": "SUCCESS"}


async def test_server_crash_under_load_executes_each_step_once(server, away_admin, away_sql):
    executed = []

    @step(key=lambda n: n)
    async def numbered(ctx: PyWorkflow, n: int) -> int:
        executed.append((ctx.id(), n))
        return n

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return [await numbered(ctx, n) for n in range(30)]

    async with asyncio.timeout(60):
        contexts = [await away_admin.create_workflow("wf") for _ in range(20)]
        running = [asyncio.create_task(wf(ctx)) for ctx in contexts]
        await until(holds, lambda: len(executed) >= 100)
        await server.go_away(signal.SIGQUIT)
        await server.come_back()
        assert await asyncio.gather(*running) == [list(range(30))] * 20
    assert len(executed) == len(set(executed)) == 600
    assert await away_sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps WHERE status = 'SUCCESS'") == 600
    assert await away_sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE status = 'SUCCESS'") == 20


async def test_outage_beyond_its_timeout_ends_the_run(server, away_admin, away_sql, schema_name):
    executed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await part(ctx, 1, executed)]
        if len(executed) == 1:
            await server.go_away()
        for n in (2, 3):
            try:
                found.append(await part(ctx, n, executed))
            except BaseException as error:
                errors.append(error)
        return found

    errors = []
    async with Admin(server.dsn, schema_name, outage_timeout=0.3, timeout=2) as impatient:
        ctx = await impatient.create_workflow("wf")
        async with asyncio.timeout(40):
            with pytest.raises(DatabaseUnavailableError):
                await wf(ctx)
            assert [(type(each), type(each.error)) for each in errors] == [
                (RunStopped, DatabaseUnavailableError)
            ] * 2
            assert executed == [1, 2]
            await server.come_back()
            assert await status(away_sql, ctx) == "RUNNING"
            assert await wf(ctx) == [10, 20, 30]
    assert executed == [1, 2, 2, 3]


async def test_terminated_connections_are_replaced(away_admin, away_sql):
    executed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = []
        for n in range(5):
            found.append(await part(ctx, n, executed))
            await away_sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        return found

    async with no_hang():
        assert await away_admin.run(wf) == [0, 10, 20, 30, 40]
    assert executed == list(range(5))


@workflow
async def tick(ctx: PyWorkflow) -> None:
    pass


OUTAGE = {"all": {}, "last": {}, "all within a second": {"within": 1.0}}


@pytest.mark.slow  # `test_outage_over_three_times` is its short form, with a clock of its own
async def test_outage_over_three_times_of_schedules_is_caught_up(server, away_admin, away_sql):
    rule = Every(1.0)
    for name, more in OUTAGE.items():
        await away_admin.schedule(name, rule, tick, overlap="allow", catchup=name.split()[0], **more)

    async def times():
        rows = await away_sql.fetch("SELECT schedule, scheduled_for FROM pgqrs_workflows ORDER BY scheduled_for")
        return {name: [row["scheduled_for"] for row in rows if row["schedule"] == name] for name in OUTAGE}

    async def is_started(after):
        return all(found and found[-1] > after for found in (await times()).values())

    async with asyncio.timeout(60), Worker(away_admin, [tick]):
        begin = datetime.now(UTC)
        await until(lambda: is_started(begin))
        await server.go_away()
        gone = datetime.now(UTC)
        await until(holds, lambda: datetime.now(UTC) > gone + timedelta(seconds=3.2))
        back = datetime.now(UTC)
        await server.come_back()
        await until(lambda: is_started(back + timedelta(seconds=2)))
        found = await times()
    missed = list(takewhile(lambda time: time < back, rule.times(gone)))
    assert len(missed) >= 3
    assert [time for time in found["all"] if gone < time < back] == missed
    assert [time for time in found["last"] if time in missed] in ([], missed[-1:])
    assert [time for time in found["all within a second"] if time in missed] in ([], missed[-1:])
    for each in found.values():
        assert len(each) == len(set(each))
