"""A primary and a synchronous standby: two embedded servers, the second a copy that follows the first."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import psutil

from pgqrs import embedded
from pgqrs.embedded import cluster, processes
from pgqrs.embedded.account import Account
from tests.support.database import connected
from tests.support.waiting import until

_PORT = 5432


def dsn_of(folder: Path) -> str:
    """Return the DSN of the embedded server in a folder."""
    return f"embedded://{quote(str(folder))}"


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make a folder that other users can reach, as the account of root's server; no other pytest closes it."""
    with tempfile.TemporaryDirectory(prefix="pgqrs-embedded-", dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


class Server:
    """One embedded server, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dsn = ""

    @property
    def data(self) -> Path:
        """The folder of its cluster."""
        return self.folder / "data"

    @property
    def sockets(self) -> str:
        """The folder of its socket."""
        return parse_qs(urlsplit(self.dsn).query)["host"][0]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self.dsn = await asyncio.to_thread(embedded.start, dsn_of(self.folder))

    async def leave(self) -> None:
        """Stop it, whatever is left of it."""
        await asyncio.to_thread(embedded.stop, dsn_of(self.folder))

    async def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction of its own."""
        async with connected(self.dsn) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def fetchval(self, query: str):
        """Return the one value that a query finds, None while the server is away."""
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with connected(self.dsn) as connection:
                return await connection.fetchval(query)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes at once, as when the machine is switched off, or stands still."""
        for process in self._processes():
            with suppress(psutil.Error):
                process.send_signal(number)

    async def kill(self) -> None:
        """Let all its processes die at once."""
        self.signal(signal.SIGSTOP)  # or those that live a moment longer may answer
        self.signal(signal.SIGKILL)
        await until(lambda: not self._processes())

    async def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        await self.execute("SELECT pg_promote(wait => false)")
        await until(partial(self.fetchval, "SELECT NOT pg_is_in_recovery()"))

    def _processes(self):
        return cluster._Cluster(self.folder)._processes()


async def copy(primary: Server, standby: Server) -> None:
    """Make a standby that follows a primary, which waits for it at each commit from then on."""
    account = Account.needed()
    standby.data.mkdir(parents=True, mode=0o700)
    if account is not None:
        account.own(standby.data)
    # The name by which the primary knows it.
    source = f"host={primary.sockets} port={_PORT} user=postgres application_name=standby"
    binaries = processes.find_binaries()
    program = str((binaries if account is None else account.runnable(binaries)) / "pg_basebackup")
    options = ("-d", source, "-D", str(standby.data), "-R", "-X", "stream", "--checkpoint=fast", "--no-sync")
    done = await asyncio.to_thread(processes.execute, (program, *options), user=account)
    assert done.returncode == 0, done.stdout
    await standby.start()
    await primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
    following = "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = 'standby'"
    await until(partial(primary.fetchval, following))


@asynccontextmanager
async def replicated(template: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Start a primary, a copy of the stopped cluster in `template`, and its synchronous standby."""
    folder = Path(tempfile.mkdtemp(prefix="pgqrs-pair-", dir="/tmp"))
    os.chmod(folder, 0o755)  # noqa: PTH101  # root's server runs as another user
    primary, standby = Server(folder / "a"), Server(folder / "b")
    try:
        await asyncio.to_thread(subprocess.run, ["cp", "-a", template, primary.folder], check=True)
        await primary.start()
        # The processes die here, the machine does not.
        await primary.execute("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        await copy(primary, standby)
        yield primary, standby
    finally:
        for each in (primary, standby):
            each.signal(signal.SIGCONT)
            await each.leave()
        shutil.rmtree(folder, ignore_errors=True)
