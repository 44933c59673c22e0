"""The costs of a work beside its time: the CPU of the client and of the server, and the WAL."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import asyncpg

PROCESSES = Path("/proc")


class Costs(NamedTuple):
    """What was used up to a moment: seconds of CPU of this process and of the server, and bytes of WAL.

    `server` is 0 where the system has no `/proc`.
    """

    client: float
    server: float
    wal: int

    def since(self, before: Costs) -> dict[str, float]:
        """Return the difference, as a program reports it."""
        return {
            "client_cpu": self.client - before.client,
            "server_cpu": self.server - before.server,
            "wal": self.wal - before.wal,
        }


async def costs_so_far(connection: asyncpg.Connection) -> Costs:
    """Return the costs up to now."""
    wal = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return Costs(time.process_time(), _cpu_of_server(connection.get_server_pid()), wal)


def _cpu_of_server(backend: int) -> float:
    """Return the seconds of CPU of all processes of the server that live; `backend` is the id of one of them."""
    if not PROCESSES.exists():
        return 0.0
    server = _fields(PROCESSES / str(backend))[1]
    found = [_fields(each) for each in PROCESSES.iterdir() if each.name.isdigit()]
    ticks = sum(int(each[11]) + int(each[12]) for each in found if each and each[1] == server)
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(process: Path) -> list[str]:
    """Return the fields of the state of a process after its name; none for a process that has ended."""
    try:
        return (process / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
