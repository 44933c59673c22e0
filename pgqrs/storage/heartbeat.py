"""The pulse: the sign of life of an executor, from a thread and a connection of its own.

A thread, for the event loop may be blocked by somebody's computation for a minute and is alive all the same.
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
from pgqrs.storage.connections.database import CompiledStatement, Database, Limits
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import is_transient, translate
from pgqrs.storage.connections.pooler import Driver, PooledConnection
from pgqrs.storage.queries import executors
from pgqrs.storage.queries.channels import executor_channel

_MIN_PAUSE = 0.05
_MAX_PAUSE = 0.2
"""Seconds between two attempts to connect: well below `executors.SUSPICION`, the connecting included."""

_MIN_TIMEOUT = 1.0
"""Seconds that a beat may take at least, however short the expiry is."""

# So that the server gives the lock of a host that vanished up by itself, although nobody looks at the beat.
_KEEPALIVES = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2"


class HeldRun(NamedTuple):
    """A run that the tables say this executor holds."""

    workflow_id: int
    epoch: int
    claim: int | None


class RunOwner(Protocol):
    """What the pulse asks of an event loop's store. All but `told` is called in that loop."""

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel a run, if it is this loop's."""
        ...

    def on_time(self, reading: ClockReading) -> None:
        """Take in the server's time; called in the pulse's thread."""
        ...

    def without_task(self, held: Sequence[HeldRun]) -> list[HeldRun]:
        """Return those of the runs that nothing in this loop starts, carries out or leaves."""
        ...

    def give_up(self, held: Sequence[HeldRun]) -> None:
        """Give runs up that no event loop carries out."""
        ...


Users: TypeAlias = "list[tuple[asyncio.AbstractEventLoop, ref[RunOwner]]]"


class HeldRunCheck:
    """Asks one event loop after another for the runs that it carries out; what is left in the end is given up.

    The runs were read from the tables before, so none of them can be claimed, under the same epoch, after its loop
    was asked. A loop that is blocked keeps the inquiry from ending, and a loop that has ended carries nothing out.
    """

    def __init__(self, held: Sequence[HeldRun], users: Users) -> None:
        self._users = users
        self._asked: asyncio.AbstractEventLoop | None = None
        self._ask_next(list(held))

    @property
    def is_over(self) -> bool:
        """Whether no loop is yet to answer."""
        return self._asked is None or self._asked.is_closed()

    def _ask_next(self, left: list[HeldRun], last: RunOwner | None = None) -> None:
        while left and self._users:
            self._asked, keeper = self._users.pop()
            try:
                self._asked.call_soon_threadsafe(self._ask, keeper, left)
            except RuntimeError:  # the loop has ended
                continue
            return
        if left and last is not None:
            last.give_up(left)
        self._asked = None

    def _ask(self, reference: ref[RunOwner], held: list[HeldRun]) -> None:
        self._asked = None
        keeper = reference()
        self._ask_next(held if keeper is None else keeper.without_task(held), keeper)


class Heartbeat:
    """The life of one `Admin` in one process, shared by its event loops; it beats while one of them uses it."""

    def __init__(self, source: EngineSource, schema: str, limits: Limits) -> None:
        self.executor_id = uuid4()
        self.pid = os.getpid()
        self._source = source
        self._schema = schema
        self._limits = limits
        self._guard = threading.Lock()
        self._users: dict[asyncio.AbstractEventLoop, ref[RunOwner]] = {}
        self._beating: _HeartbeatThread | None = None
        self._inquiry: HeldRunCheck | None = None

    async def join(self, keeper: RunOwner) -> None:
        """Beat for the running event loop from now on, and wait until the executor is registered.

        Raises what kept it from being registered.
        """
        with self._guard:
            # Weakly, or the thread would keep a store alive that everybody else has dropped.
            self._users[asyncio.get_running_loop()] = ref(keeper)
            if self._beating is None or self._beating.is_over:
                self._beating = _HeartbeatThread(self, after=self._beating)
                self._beating.start()
            registered = self._beating.registered
        await asyncio.shield(asyncio.wrap_future(registered))

    async def leave(self) -> None:
        """Beat no longer for the running event loop; with the last one the executor stops."""
        if self.pid != os.getpid():  # a forked child's loop ends: the thread is its parent's
            return
        with self._guard:
            self._users.pop(asyncio.get_running_loop(), None)
            beating = None if self._users else self._beating
            if beating is not None:
                beating.stop()
        if beating is not None:
            await asyncio.shield(asyncio.wrap_future(beating.ended))

    def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Tell the event loops that somebody wants the workflow cancelled; one of them may be running it."""
        for loop, reference in self._living():
            keeper = reference()
            with suppress(RuntimeError):  # the loop has ended
                if keeper is not None:
                    loop.call_soon_threadsafe(keeper.cancel_asked, workflow_id, interrupt)

    def on_time(self, reading: ClockReading) -> None:
        """Tell the event loops the server's time."""
        for _, reference in self._living():
            if (keeper := reference()) is not None:
                keeper.on_time(reading)

    def check_held_runs(self, held: Sequence[HeldRun]) -> None:
        """Have the runs given up that this executor holds and none of its event loops carries out.

        Whatever kept a run from being left, it is not stranded for as long as the process lives.
        """
        if held and (self._inquiry is None or self._inquiry.is_over):
            self._inquiry = HeldRunCheck(held, self._living())

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
        """Return the database as the thread's event loop sees it."""
        return Database(self._source, self._schema, self._limits)


class _HeartbeatThread:
    """The thread that beats, from its start to its end."""

    def __init__(self, pulse: Heartbeat, *, after: _HeartbeatThread | None) -> None:
        self._pulse = pulse
        self._after = after
        self.registered: Future[None] = Future()
        self.ended: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake: asyncio.Event | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgqrs-pulse", daemon=True)

    @property
    def is_over(self) -> bool:
        """Whether it has ended or is about to."""
        return self._stopping.is_set() or self.ended.done()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; `ended` tells when it has."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(self._wake)

    def _wake(self, *_told: object) -> None:
        if self._awake is not None:
            self._awake.set()

    def _run(self) -> None:
        try:
            if self._after is not None:
                # The one before says that the executor has stopped: that must not come after our first beat.
                self._after.ended.result()
                self._after = None
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001  # nobody else would hear of it
            if not self.registered.done():
                self.registered.set_exception(error)
        finally:
            if not self.registered.done():
                self.registered.cancel()
            self.ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        database = self._pulse.database()
        session = _HeartbeatConnection(self._pulse, database)
        pause = _MIN_PAUSE
        give_up_at = self._loop.time() + database.limits.outage_timeout
        try:
            while not self._stopping.is_set():
                try:
                    await session.beat(self._wake)
                except Exception as error:
                    session.abort()
                    if not self.registered.done() and (not is_transient(error) or self._loop.time() > give_up_at):
                        raise (translate(error, database.schema) or error) from error
                    # At random, or all executors come back to a server in one moment.
                    await self._wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
                    pause = min(2 * pause, _MAX_PAUSE)
                    continue
                pause = _MIN_PAUSE
                if not self.registered.done():
                    self.registered.set_result(None)
                await self._wait(database.limits.heartbeat_interval)
            await session.stop()
        finally:
            session.abort()
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
    """The connection that holds the lock, hears of cancellations and carries the beats; made anew when lost.

    Each has a lock of its own, so that none waits for a lock of a session that the server has not yet given up.
    """

    def __init__(self, pulse: Heartbeat, database: Database) -> None:
        self._pulse = pulse
        self._database = database
        self._connection: Driver | None = None
        self._lock_key: int | None = None
        self._after = 0
        self._compiled: dict[str, CompiledStatement] = {}
        limits = database.limits
        # One beat that gets no answer must not be the executor's last in time.
        self._timeout = min(limits.timeout, max(_MIN_TIMEOUT, limits.heartbeat_timeout / 2))

    async def beat(self, wake: Callable[..., None]) -> None:
        """Say that the executor lives, pass cancellations on, and account for the runs that it holds."""
        connection = await self._connected(wake)
        asked = monotonic()
        rows = await self._fetch("beat", executors.beat, after=self._after)
        if connection.is_closed():
            raise ConnectionResetError("the connection of the pulse was lost")
        self._pulse.on_time(ClockReading.between(rows[0]["now"], asked))
        held = [row for row in rows if row["id"] is not None]
        for row in held:
            if row["cancel_interrupts"] is not None:
                self._pulse.cancel(row["id"], interrupt=row["cancel_interrupts"])
        # The next beat goes on where this one ends, so that many runs that live do not hide one that does not.
        self._after = held[-1]["id"] if len(held) >= executors.HELD_AT_ONCE else 0
        self._pulse.check_held_runs([HeldRun(row["id"], row["epoch"], row["claim"]) for row in held])

    async def stop(self) -> None:
        """Say that the executor has stopped, and close the connection, which gives its lock up."""
        if self._connection is None:
            return
        with suppress(Exception):
            await self._fetch("stop", executors.stop)
            await self._fetch("forget", executors.forget)
            await self._connection.close(timeout=1)

    def abort(self) -> None:
        """Give the connection up as it is."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    async def _connected(self, wake: Callable[..., None]) -> Driver:
        connection = self._connection
        if connection is None or connection.is_closed():
            self._connection = connection = await self._database.open_driver()
            connection.add_termination_listener(wake)
            async with asyncio.timeout(self._database.limits.timeout):
                await self._take_lock(connection)
                await connection.add_listener(executor_channel(self._pulse.executor_id), wake)
        return connection

    async def _take_lock(self, connection: Driver) -> None:
        if isinstance(connection, PooledConnection):
            self._lock_key = None
            return
        await connection.execute(_KEEPALIVES)
        taken = False
        while not taken:
            self._lock_key = secrets.randbelow(2**62)
            ((taken,),) = await self._fetch("lock", executors.take_lock)

    async def _fetch(self, name: str, statement: Callable[[], Any], **values: Any) -> list[Any]:
        assert self._connection is not None  # noqa: S101  # the callers connect
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = self._compiled[name] = self._database.compile(statement())
        arguments = compiled.arguments(self._pulse.values | {"lock_key": self._lock_key} | values)
        return await self._connection.fetch(compiled.text, *arguments, timeout=self._timeout)
