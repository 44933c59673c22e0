"""A PgBouncer in front of the tests' PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from pgqrs.embedded import ownership
from pgqrs.embedded.account import Account
from tests.support.database import connected
from tests.support.waiting import until

FETCHED = Path(__file__).parent.parent.parent / ".venv" / "pgbouncer" / "usr" / "sbin"
"""Where `make test` unpacks Debian's package on a machine that has no PgBouncer."""

_PORT = 6432


def program():
    """Return the path of PgBouncer, and skip the test where there is none."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(FETCHED)])
    found = os.environ.get("PGQRS_PGBOUNCER") or shutil.which("pgbouncer", path=places)
    if not found:
        pytest.skip("there is no PgBouncer: install it (apt install pgbouncer), or name it in PGQRS_PGBOUNCER")
    return found


def _version():
    told = subprocess.run([program(), "--version"], check=True, capture_output=True, text=True, env=_environment())
    return tuple(int(each) for each in told.stdout.split()[1].split(".")[:2])


def _environment(installation=FETCHED.parent):
    libraries = os.pathsep.join(str(each) for each in installation.glob("lib/*"))
    return {"PATH": os.environ["PATH"]} | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


class Bouncer:
    """A PgBouncer with few sessions of the server, which it hands round as unkindly as it can."""

    def __init__(self, sql: asyncpg.Connection, folder: Path, mode: str) -> None:
        """Lead to where `sql` is connected to; `mode` is PgBouncer's `pool_mode`."""
        self._folder = folder
        self._account = Account.needed()
        self._process: asyncio.subprocess.Process | None = None
        self._database = sql._params.database
        self._write(sql, mode)

    @property
    def dsn(self) -> str:
        """Where the client is to connect to."""
        return (
            f"postgresql://somebody@/{quote(self._database)}?host={quote(str(self._folder), safe='')}&port={_PORT}"
        )

    @property
    def socket(self) -> Path:
        """The unix socket that it listens on."""
        return self._folder / f".s.PGSQL.{_PORT}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        account = self._account
        path, libraries = Path(program()), FETCHED.parent
        if account is not None and ownership.closed_above(path, account.uid) is not None:
            copy = self._folder / "pgbouncer"
            if not copy.exists():
                shutil.copytree(libraries, copy, symlinks=True)
            path, libraries = copy / path.relative_to(libraries), copy
        self._process = await asyncio.create_subprocess_exec(
            str(path), "-q", str(self._folder / "pgbouncer.ini"),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            env=_environment(libraries),
            **({"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}),
        )  # fmt: skip
        await until(self._answers)

    async def kill(self) -> None:
        """Kill it, with every connection through it."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)
            self.socket.with_name(f"{self.socket.name}.lock").unlink(missing_ok=True)

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            pytest.fail(f"PgBouncer ended at once; its log: {(self._folder / 'log').read_text()}")
        try:
            connection = await asyncpg.connect(self.dsn, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    def _write(self, sql: asyncpg.Connection, mode: str) -> None:
        address, parameters = sql._addr, sql._params
        if isinstance(address, str):
            host, port = str(Path(address).parent), Path(address).name.rpartition(".")[2]
        else:
            host, port = address
        server = {"host": host, "port": port, "dbname": parameters.database, "user": parameters.user}
        if parameters.password:
            server["password"] = parameters.password
        settings = {
            "pool_mode": mode,
            "auth_type": "any",
            "listen_port": _PORT,
            "unix_socket_dir": self._folder,
            "logfile": self._folder / "log",
            "default_pool_size": 100 if mode == "session" else 3,
            "server_round_robin": 1,
            "max_client_conn": 500,
        }
        if _version() >= (1, 21):
            settings["max_prepared_statements"] = 0  # as those before
        route = " ".join(f"{name}={value}" for name, value in server.items())
        lines = [
            "[databases]",
            f"* = {route}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        if self._account is not None:
            self._account.own(self._folder)
            self._account.own(self._folder / "pgbouncer.ini")


@asynccontextmanager
async def bouncing(dsn: str, mode: str = "transaction") -> AsyncIterator[Bouncer]:
    """Put a PgBouncer in front of the server of a DSN."""
    program()
    with tempfile.TemporaryDirectory(prefix="pgqrs-bouncer-", dir="/tmp") as folder:
        async with connected(dsn) as sql:
            bouncer = Bouncer(sql, Path(folder), mode)
        try:
            await bouncer.start()
            yield bouncer
        finally:
            await bouncer.kill()
