"""The faults, injected one after another at random times, and a record of their effects."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from chaos.crew import GRACE, Crew, Member
from chaos.server import Server
from chaos.tables import Tables, is_away
from chaos.work import EXPIRY

WEIGHTS = {"kill": 40, "stop briefly": 12, "stop for long": 4, "terminate": 24, "restart": 6, "drain": 14}
"""The kinds of faults, and the percentage of each kind."""

DRAINED = GRACE + 45.0
"""Maximum seconds from SIGTERM to the end of a worker; the server may be away meanwhile."""

UNSTARTED = re.compile("Error: PostgreSQL (could not be reached|is unavailable): ")
"""The output of a worker that found no server at its start; the caller must start another worker."""

TURN = 3.0
"""Seconds to wait for a second worker before another kind of fault is injected."""

BRIEFLY = (0.3, 8.0)
FOR_LONG = (4 * EXPIRY + 2, 4 * EXPIRY + 6)  # runs of a stopped process are recovered after four times its expiry
MOST_TERMINATED = 6


@dataclass(frozen=True)
class Kill:
    """A killed worker: the time of the kill, and the ids and epochs of the runs that the worker held."""

    at: float
    held: list[tuple[int, int]]


@dataclass
class Damage:
    """The injected faults and their effects."""

    counts: Counter[str] = field(default_factory=Counter[str])
    terminated: Counter[str] = field(default_factory=Counter[str])
    unstarted: int = 0
    kills: list[Kill] = field(default_factory=list[Kill])
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    violations: list[str] = field(default_factory=list[str])


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """Ignore errors of a server that is away."""
    try:
        yield
    except (DBAPIError, OSError) as error:
        if not is_away(error):
            raise


class Faults:
    """Injects faults into a server and a crew."""

    def __init__(self, server: Server, crew: Crew, tables: Tables, chance: random.Random) -> None:
        self._server = server
        self._crew = crew
        self._tables = tables
        self._chance = chance
        self._pending: set[asyncio.Task[None]] = set()
        self.damage = Damage()
        self._kinds: dict[str, Callable[[], Coroutine[Any, Any, bool]]] = {
            "kill": self._kill,
            "stop briefly": lambda: self._stop(*BRIEFLY),
            "stop for long": lambda: self._stop(*FOR_LONG),
            "terminate": self._terminate,
            "restart": self._restart,
            "drain": self._drain,
        }

    def plan(self, count: int) -> list[str]:
        """Return the kinds of `count` faults: each kind in its share and at least once, in a random order.

        In a short run, the slowest kind comes first.
        """
        planned = list(WEIGHTS)[:count]
        kinds, weights = zip(*WEIGHTS.items(), strict=True)
        planned += self._chance.choices(kinds, weights, k=count - len(planned))
        self._chance.shuffle(planned)
        return sorted(planned, key=lambda kind: kind != "stop for long") if count < len(WEIGHTS) * 10 else planned

    async def inject(self, kind: str) -> None:
        """Inject a fault of this kind, or of another kind if it has no victim."""
        for each in (kind, "terminate", "kill"):
            if await self._kinds[each]():
                self.damage.counts[each] += 1
                return

    async def settle(self) -> None:
        """Wait for background work: stopped processes that continue, and workers that drain."""
        while self._pending:
            await asyncio.wait(self._pending)

    async def replace_fallen(self) -> None:
        """Replace each worker that ended by itself; only a worker that found no server may do so."""
        for member in self._crew.fallen():
            end = member.log.read_text(errors="replace")[-2000:]
            if UNSTARTED.match(end):
                self.damage.unstarted += 1
            else:
                ended = f"worker {member.number} ended by itself with {member.process.returncode}"
                self.damage.violations.append(f"{ended}; its log ends:\n{end}")
            self._crew.hire()

    async def wait_for_workers(self, count: int, patience: float) -> bool:
        """Wait until `count` workers work and are not meant to end; return False after `patience` seconds."""
        deadline = time.monotonic() + patience
        while len(self._crew.awake) < count:
            if time.monotonic() > deadline:
                return False
            await self.replace_fallen()
            await asyncio.sleep(0.05)
        return True

    async def _victim(self) -> Member | None:
        """Choose a worker as the victim; another worker must remain."""
        return self._chance.choice(self._crew.awake) if await self.wait_for_workers(2, TURN) else None

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _kill(self) -> bool:
        member = await self._victim()
        if member is None:
            return False
        member.doomed = True
        at = time.time()
        member.process.kill()
        member.process.wait()
        with server_may_be_away():
            self.damage.kills.append(Kill(at, await self._tables.held_by(member.pid)))
        self._crew.dismiss(member)
        self._crew.hire()
        return True

    async def _stop(self, least: float, most: float) -> bool:
        member = await self._victim()
        if member is None:
            return False
        member.stopped = True
        member.send(signal.SIGSTOP)
        self._later(self._go_on(member, self._chance.uniform(least, most)))
        return True

    async def _go_on(self, member: Member, seconds: float) -> None:
        await asyncio.sleep(seconds)
        member.send(signal.SIGCONT)
        member.stopped = False

    async def _drain(self) -> bool:
        member = await self._victim()
        if member is None:
            return False
        member.doomed = True
        member.send(signal.SIGTERM)
        self._crew.hire()
        self._later(self._see_off(member))
        return True

    async def _see_off(self, member: Member) -> None:
        try:
            code = await asyncio.to_thread(member.process.wait, DRAINED)
        except subprocess.TimeoutExpired:
            self.damage.violations.append(f"worker {member.number} did not end in {DRAINED:g} s after SIGTERM")
            member.process.kill()
            member.process.wait()
        else:
            if code != 0:
                self.damage.violations.append(f"worker {member.number} ended with {code} after SIGTERM")
        self._crew.dismiss(member)

    async def _terminate(self) -> bool:
        with server_may_be_away():
            backends = await self._tables.backends()
            chosen = self._chance.sample(backends, min(len(backends), self._chance.randint(1, MOST_TERMINATED)))
            await self._tables.terminate(pid for pid, _ in chosen)
            pulses = sum(is_pulse for _, is_pulse in chosen)
            self.damage.terminated += Counter({"pulses": pulses, "others": len(chosen) - pulses})
            return True
        return False

    async def _restart(self) -> bool:
        began = time.time()
        await asyncio.to_thread(self._server.restart)
        self.damage.outages.append((began, time.time()))
        return True
