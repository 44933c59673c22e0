"""The heartbeat of an executor, which a thread of its own sends through a connection of its own.

It needs a thread, because a computation may block the event loop for a minute while the executor is alive.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeAlias
from uuid import uuid4
from weakref import ref

from pgqrs.clock import ClockReading
from pgqrs.storage.connections.database import Database, Limits
from pgqrs.storage.connections.dedicated import DedicatedConnection
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import is_transient, translate
from pgqrs.storage.connections.pooler import Driver, PooledConnection
from pgqrs.storage.queries import executors
from pgqrs.storage.sql.channels import executor_channel

_MIN_PAUSE = 0.05
_MAX_PAUSE = 0.2
"""Maximum seconds between two attempts to connect; with the connecting, well below `executors.SUSPICION`."""

_MIN_TIMEOUT = 1.0
"""Minimum seconds that a heartbeat may take before it times out, however short the expiry is."""

# So that the server itself releases the lock of a host that vanished, although no process checks the heartbeat.
_KEEPALIVES = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2"


class HeldRun(NamedTuple):
    """A run that this executor holds according to the tables."""

    workflow_id: int
    epoch: int
    claim: int | None


class RunOwner(Protocol):
    """The store of an event loop, as the heartbeat calls it; all methods but `on_time` are called in that loop."""

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel a run, if this loop has it."""
        ...

    def on_time(self, reading: ClockReading) -> None:
        """Receive the server's time; called in the heartbeat's thread."""
        ...

    def without_task(self, held: Sequence[HeldRun]) -> list[HeldRun]:
        """Return the runs that no task in this loop starts, executes or releases."""
        ...

    def abandon_runs(self, held: Sequence[HeldRun]) -> None:
        """Abandon runs that no event loop executes."""
        ...


Users: TypeAlias = "list[tuple[asyncio.AbstractEventLoop, ref[RunOwner]]]"


class HeldRunCheck:
    """Asks one event loop after another for the runs that it executes; the remaining runs are abandoned.

    The runs were read from the tables before, so after its check no loop can claim one of them under the same
    epoch. A blocked loop keeps the check from ending, and a loop that has ended executes no runs.
    """

    def __init__(self, held: Sequence[HeldRun], users: Users) -> None:
        self._users = users
        self._asked: asyncio.AbstractEventLoop | None = None
        self._ask_next(list(held))

    @property
    def is_over(self) -> bool:
        """True if no loop has an answer outstanding."""
        return self._asked is None or self._asked.is_closed()

    def _ask_next(self, left: list[HeldRun], last: RunOwner | None = None) -> None:
        while left and self._users:
            self._asked, owner = self._users.pop()
            try:
                self._asked.call_soon_threadsafe(self._ask, owner, left)
            except RuntimeError:  # the loop has ended
                continue
            return
        if left and last is not None:
            last.abandon_runs(left)
        self._asked = None

    def _ask(self, reference: ref[RunOwner], held: list[HeldRun]) -> None:
        self._asked = None
        owner = reference()
        self._ask_next(held if owner is None else owner.without_task(held), owner)


class Heartbeat:
    """The heartbeat of one `Admin` in one process; it beats while one of the event loops uses it."""

    def __init__(self, source: EngineSource, schema: str, limits: Limits) -> None:
        self.executor_id = uuid4()
        self.pid = os.getpid()
        self._source = source
        self._schema = schema
        self._limits = limits
        self._guard = threading.Lock()
        self._users: dict[asyncio.AbstractEventLoop, ref[RunOwner]] = {}
        self._beating: _HeartbeatThread | None = None
        self._check: HeldRunCheck | None = None

    async def join(self, owner: RunOwner) -> None:
        """Beat for the running event loop from now on, and wait until the executor is registered.

        Raises the error that prevented the registration.
        """
        with self._guard:
            # A weak reference, or the thread would keep a store alive that the application has dropped.
            self._users[asyncio.get_running_loop()] = ref(owner)
            if self._beating is None or self._beating.is_over:
                self._beating = _HeartbeatThread(self, after=self._beating)
                self._beating.start()
            registered = self._beating.registered
        await asyncio.shield(asyncio.wrap_future(registered))

    async def leave(self) -> None:
        """Stop beating for the running event loop; when the last loop leaves, the executor stops."""
        if self.pid != os.getpid():  # the loop of a forked child: the thread belongs to the parent
            return
        with self._guard:
            self._users.pop(asyncio.get_running_loop(), None)
            beating = None if self._users else self._beating
            if beating is not None:
                beating.stop()
        if beating is not None:
            await asyncio.shield(asyncio.wrap_future(beating.ended))

    def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Pass the cancellation of a workflow on to the event loops; one of them may be running it."""
        for loop, reference in self._living():
            owner = reference()
            with suppress(RuntimeError):  # the loop has ended
                if owner is not None:
                    loop.call_soon_threadsafe(owner.cancel_asked, workflow_id, interrupt)

    def on_time(self, reading: ClockReading) -> None:
        """Pass the server's time on to the stores of the event loops."""
        for _, reference in self._living():
            if (owner := reference()) is not None:
                owner.on_time(reading)

    def check_held_runs(self, held: Sequence[HeldRun]) -> None:
        """Have the runs abandoned that this executor holds and that none of its event loops executes.

        So a run whose release failed for any reason is not stranded until the process ends.
        """
        if held and (self._check is None or self._check.is_over):
            self._check = HeldRunCheck(held, self._living())

    def _living(self) -> Users:
        with self._guard:
            return [each for each in self._users.items() if each[1]() is not None]

    @property
    def values(self) -> dict[str, Any]:
        """The binds of the statements about this executor."""
        return {
            "executor": self.executor_id,
            "host": socket.gethostname(),
            "pid": self.pid,
            "expiry": self._limits.heartbeat_timeout,
            "unattended": self._limits.unattended,
        }

    def database(self) -> Database:
        """Return a `Database` for the thread's event loop."""
        return Database(self._source, self._schema, self._limits)


class _HeartbeatThread:
    """The thread that beats, from its start to its end."""

    def __init__(self, heartbeat: Heartbeat, *, after: _HeartbeatThread | None) -> None:
        self._heartbeat = heartbeat
        self._after = after
        self.registered: Future[None] = Future()
        self.ended: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake: asyncio.Event | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgqrs-heartbeat", daemon=True)

    @property
    def is_over(self) -> bool:
        """True if the thread has ended or is about to end."""
        return self._stopping.is_set() or self.ended.done()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Request the end of the thread; `ended` completes when it has ended."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._wake)

    def _wake(self, *_args: object) -> None:
        if self._awake is not None:
            self._awake.set()

    def _run(self) -> None:
        try:
            if self._after is not None:
                # The previous thread reports the executor as stopped; the first heartbeat must come after that.
                self._after.ended.result()
                self._after = None
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001  # passed on by `registered`: a thread has no caller
            if not self.registered.done():
                self.registered.set_exception(error)
        finally:
            if not self.registered.done():
                self.registered.cancel()
            self.ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        database = self._heartbeat.database()
        session = _HeartbeatConnection(self._heartbeat, database, self._wake)
        pause = _MIN_PAUSE
        deadline = self._loop.time() + database.limits.outage_timeout
        try:
            while not self._stopping.is_set():
                try:
                    await session.beat()
                except Exception as error:
                    session.terminate()
                    if not self.registered.done() and (not is_transient(error) or self._loop.time() > deadline):
                        raise (translate(error, database.schema) or error) from error
                    # A random pause, or all executors would reconnect to a server at the same moment.
                    await self._wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
                    pause = min(2 * pause, _MAX_PAUSE)
                    continue
                pause = _MIN_PAUSE
                if not self.registered.done():
                    self.registered.set_result(None)
                await self._wait(database.limits.heartbeat_interval)
            await session.stop()
        finally:
            session.terminate()
            await database.dispose()

    async def _wait(self, seconds: float) -> None:
        assert self._awake is not None  # noqa: S101  # made before
        if self._stopping.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        self._awake.clear()


class _HeartbeatConnection:
    """The connection that holds the lock, listens for cancellations and sends heartbeats; replaced when lost.

    Each connection takes a lock of its own, so it does not wait for the lock of a lost session that the server has
    not yet ended.
    """

    def __init__(self, heartbeat: Heartbeat, database: Database, wake: Callable[..., None]) -> None:
        self._heartbeat = heartbeat
        self._wake = wake
        self._dedicated = DedicatedConnection(database, self._register)
        self._lock_key: int | None = None
        self._after = 0
        limits = database.limits
        # After a heartbeat without an answer there must be time for another one before the expiry.
        self._timeout = min(limits.timeout, max(_MIN_TIMEOUT, limits.heartbeat_timeout / 2))

    async def beat(self) -> None:
        """Send a heartbeat, pass cancellations on, and check the runs that the executor holds."""
        driver = await self._dedicated.open()
        asked = monotonic()
        rows = await self._fetch(executors.beat, after=self._after)
        if driver.is_closed():
            raise ConnectionResetError("the connection of the heartbeat was lost")
        self._heartbeat.on_time(ClockReading.between(rows[0]["now"], asked))
        held = [row for row in rows if row["id"] is not None]
        for row in held:
            if row["cancel_interrupts"] is not None:
                self._heartbeat.cancel(row["id"], interrupt=row["cancel_interrupts"])
        # The next heartbeat continues with the next id, so that many live runs do not hide a run without a task.
        self._after = held[-1]["id"] if len(held) >= executors.HELD_AT_ONCE else 0
        self._heartbeat.check_held_runs([HeldRun(row["id"], row["epoch"], row["claim"]) for row in held])

    async def stop(self) -> None:
        """Report the executor as stopped, and close the connection, which releases its lock."""
        if self._dedicated.driver is None:
            return
        with suppress(Exception):
            await self._fetch(executors.stop)
            await self._fetch(executors.forget)
            await self._dedicated.close()

    def terminate(self) -> None:
        """Terminate the connection at once."""
        self._dedicated.terminate()

    async def _register(self, driver: Driver) -> None:
        """Take a lock and listen for cancellations on a new connection, and wake the thread when it is lost."""
        driver.add_termination_listener(self._wake)
        await self._take_lock(driver)
        await driver.add_listener(executor_channel(self._heartbeat.executor_id), self._wake)

    async def _take_lock(self, driver: Driver) -> None:
        if isinstance(driver, PooledConnection):
            self._lock_key = None
            return
        await driver.execute(_KEEPALIVES)
        taken = False
        while not taken:
            self._lock_key = secrets.randbelow(2**62)
            ((taken,),) = await self._fetch(executors.take_lock, through=driver)

    async def _fetch(
        self, statement: Callable[[], Any], *, through: Driver | None = None, **values: Any
    ) -> list[Any]:
        given = self._heartbeat.values | {"lock_key": self._lock_key} | values
        return await self._dedicated.fetch(statement, given, through=through, timeout=self._timeout)
