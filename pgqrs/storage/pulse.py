"""The pulse: the sign of life of an executor, from a thread and a connection of its own.

A thread, for the event loop may be blocked by somebody's computation for a minute and is alive all the same.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakMethod

from pgqrs.storage import executors
from pgqrs.storage.channels import executor_channel
from pgqrs.storage.database import CompiledStatement, Database, Limits
from pgqrs.storage.engines import EngineSource
from pgqrs.storage.faults import is_passing, translate
from pgqrs.storage.poolers import Driver, PooledConnection

CancelAsked = Callable[[int, bool], None]
"""A method called in an event loop with a workflow to be cancelled, and whether to interrupt its steps."""

_LONGEST_PAUSE = 1.0

# So that the server gives the lock of a host that vanished up by itself, although nobody looks at the beat.
_KEEPALIVES = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2"


class Pulse:
    """The life of one `Admin` in one process, shared by its event loops; it beats while one of them uses it."""

    def __init__(self, source: EngineSource, schema: str, limits: Limits) -> None:
        self.executor_id = uuid4()
        self.pid = os.getpid()
        self._lock_key = secrets.randbelow(2**62)
        self._source = source
        self._schema = schema
        self._limits = limits
        self._guard = threading.Lock()
        self._users: dict[asyncio.AbstractEventLoop, WeakMethod[CancelAsked]] = {}
        self._beating: _Beating | None = None

    async def join(self, cancel_asked: CancelAsked) -> None:
        """Beat for the running event loop from now on, and wait until the executor is registered.

        Raises what kept it from being registered.
        """
        with self._guard:
            # Weakly, or the thread would keep a store alive that everybody else has dropped.
            self._users[asyncio.get_running_loop()] = WeakMethod(cancel_asked)
            if self._beating is None or self._beating.is_over:
                self._beating = _Beating(self, after=self._beating)
                self._beating.start()
            registered = self._beating.registered
        await asyncio.shield(asyncio.wrap_future(registered))

    async def leave(self) -> None:
        """Beat no longer for the running event loop; with the last one the executor stops."""
        with self._guard:
            self._users.pop(asyncio.get_running_loop(), None)
            beating = None if self._users else self._beating
            if beating is not None:
                beating.stop()
        if beating is not None:
            await asyncio.shield(asyncio.wrap_future(beating.ended))

    def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Tell the event loops that somebody wants the workflow cancelled; one of them may be running it."""
        with self._guard:
            users = list(self._users.items())
        for loop, reference in users:
            cancel_asked = reference()
            with suppress(RuntimeError):  # the loop has ended
                if cancel_asked is not None:
                    loop.call_soon_threadsafe(cancel_asked, workflow_id, interrupt)

    @property
    def values(self) -> dict[str, Any]:
        """The binds of the statements about this executor."""
        return {
            "executor": self.executor_id,
            "lock_key": None if self._source.pooler.shares_sessions else self._lock_key,
            "host": socket.gethostname(),
            "pid": self.pid,
            "expiry": self._limits.expiry,
        }

    def database(self) -> Database:
        """Return the database as the thread's event loop sees it."""
        return Database(self._source, self._schema, self._limits)


class _Beating:
    """The thread that beats, from its start to its end."""

    def __init__(self, pulse: Pulse, *, after: _Beating | None) -> None:
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
        session = _Session(self._pulse, database)
        pause = 0.05
        give_up_at = self._loop.time() + database.limits.patience
        try:
            while not self._stopping.is_set():
                try:
                    await session.beat(self._wake)
                except Exception as error:
                    session.abort()
                    if not self.registered.done() and (not is_passing(error) or self._loop.time() > give_up_at):
                        raise (translate(error, database.schema) or error) from error
                    await self._wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                pause = 0.05
                if not self.registered.done():
                    self.registered.set_result(None)
                await self._wait(database.limits.beat)
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


class _Session:
    """The connection that holds the lock, hears of cancellations and carries the beats; made anew when lost."""

    def __init__(self, pulse: Pulse, database: Database) -> None:
        self._pulse = pulse
        self._database = database
        self._connection: Driver | None = None
        self._locked = False
        self._compiled: dict[str, CompiledStatement] = {}

    async def beat(self, wake: Callable[..., None]) -> None:
        """Say that the executor lives, take its lock where it does not hold it, and pass cancellations on."""
        connection = await self._connected(wake)
        asked = await self._fetch("beat", executors.beat)
        if not self._locked and not isinstance(connection, PooledConnection):
            self._locked = bool((await self._fetch("lock", executors.take_lock))[0][0])
        if connection.is_closed():
            raise ConnectionResetError("the connection of the pulse was lost")
        for workflow_id, interrupt in asked:
            self._pulse.cancel(workflow_id, interrupt=interrupt)

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
        self._locked = False

    async def _connected(self, wake: Callable[..., None]) -> Driver:
        connection = self._connection
        if connection is None or connection.is_closed():
            self._locked = False
            self._connection = connection = await self._database.open_driver()
            connection.add_termination_listener(wake)
            async with asyncio.timeout(self._database.limits.timeout):
                if not isinstance(connection, PooledConnection):
                    await connection.execute(_KEEPALIVES)
                await connection.add_listener(executor_channel(self._pulse.executor_id), wake)
        return connection

    async def _fetch(self, name: str, statement: Callable[[], Any]) -> list[Any]:
        assert self._connection is not None  # noqa: S101  # the callers connect
        compiled = self._compiled.get(name)
        if compiled is None:
            compiled = self._compiled[name] = self._database.compile(statement())
        arguments = compiled.arguments(self._pulse.values)
        return await self._connection.fetch(compiled.text, *arguments, timeout=self._database.limits.timeout)
