"""A network connection to PostgreSQL that fails at a chosen exchange.

`Wire` listens on a port of its own and passes everything on to the real server. It knows where the messages of
the protocol begin and end, so it can fail the n-th exchange: what a client sends up to the point where it waits
for an answer, and that answer. One exchange is one round trip.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Self
from urllib.parse import quote

import asyncpg

from tests.support.waiting import DEADLINE

_SSL_REQUEST, _CANCEL_REQUEST = 80877103, 80877102
_WAITS = b"SHQ"  # Sync, Flush, Query: the client waits for an answer
_LONE_SYNC = b"S\0\0\0\4"
_FLUSHED = b"TnE"  # what ends the answer to a Flush: a row description, no data, an error


class Fault(StrEnum):
    """How an exchange fails."""

    BEFORE = "the socket closes before the statement reaches the server"
    AFTER = "the socket closes after the commit, the answer is lost"
    HALF = "the socket is reset in the middle of the answer"
    SILENT_BEFORE = "the statement never arrives and nobody says so"
    SILENT_AFTER = "the answer never arrives and nobody says so"
    LATE = "the statement arrives when the client has long given it up"
    TERMINATED = "an administrator terminates the backend"
    DEADLOCK = "the server answers 40P01"
    HOOKED = "the test's own hook is called when the statement is with the server"


_INJECTED = {Fault.DEADLOCK: "40P01"}
_SILENT = {Fault.SILENT_BEFORE, Fault.LATE}


class Wire:
    """PostgreSQL behind a port that this test controls; give its `dsn` to the client."""

    def __init__(self, dsn: str, sql: asyncpg.Connection[Any]) -> None:
        """Lead to the server of the DSN, which `sql` is connected to."""
        self._real = dsn
        parameters: Any = sql._params
        self.address: Any = sql._addr
        self._user, self._password = parameters.user, parameters.password or ""
        self._database = parameters.database
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._port = 0
        self._at = 0
        self._fault: Fault | None = None
        self._muted = False
        self.exchanges = 0
        self.texts: list[str] = []
        self.executed: list[int] = []
        self.fired = False
        self.hook: Callable[[], object] = lambda: None

    @property
    def dsn(self) -> str:
        """Where the client is to connect to."""
        login = f"{quote(self._user)}:{quote(self._password)}" if self._password else quote(self._user)
        return f"postgresql://{login}@127.0.0.1:{self._port}/{quote(self._database)}?sslmode=disable"

    @property
    def connections(self) -> int:
        """How many connections are open through the wire."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def quiet(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until no connection is open through the wire."""
        async with asyncio.timeout(DEADLINE):
            while self._links:
                meanwhile()
                await asyncio.sleep(0.01)

    def arm(self, n: int, fault: Fault) -> None:
        """Let the n-th exchange from now on fail (n = 1 is the next), and count from here."""
        self._at, self._fault, self.fired, self.exchanges = n, fault, False, 0
        self.texts.clear()
        self.executed.clear()

    def disarm(self) -> None:
        """Let nothing more fail."""
        self._fault = None

    async def cut(self) -> None:
        """The server is gone: every connection breaks, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.break_()

    async def restore(self) -> None:
        """The server is back, at the same address."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port or None)
            self._port = self._server.sockets[0].getsockname()[1]

    def mute(self) -> None:
        """The network loses everything from now on, and nobody says so."""
        self._muted = True

    async def terminate(self, pid: int) -> None:
        """Do to a backend what an administrator does."""
        control = await asyncpg.connect(self._real)
        try:
            await control.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        finally:
            await control.close()

    def next_fault(self, text: str, *, executes: bool) -> Fault | None:
        """Count an exchange and tell whether it is the one to fail; one that only prepares executes nothing."""
        self.exchanges += 1
        self.texts.append(text)
        if executes:
            self.executed.append(self.exchanges)
        if self._muted:
            return Fault.SILENT_BEFORE
        if self._fault is None or self.exchanges != self._at:
            return None
        self.fired = True
        refusable = text.partition(" ")[0] in {"SELECT", "INSERT", "UPDATE", "WITH"}
        return self._fault if refusable or self._fault not in _INJECTED else None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.carry()
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's streams log a handler that is cancelled
        finally:
            self._links.discard(link)
            self._tasks.discard(task)


class _Link:
    """One connection of the client's, and the server's end of it."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader, self._writer = reader, writer
        self._upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._pid = 0
        self._state = b"I"
        self._fault: Fault | None = None
        self._flushed = False
        self._deaf = False

    def break_(self, *, reset: bool = False) -> None:
        """Close both ends at once."""
        if reset and (sock := self._writer.get_extra_info("socket")):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        if self._upstream is not None:
            self._upstream[1].transport.abort()

    async def carry(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                if await self._start():
                    await self._race(self._forth(), self._back())
            finally:
                self.break_()

    async def _race(self, *sides: Any) -> None:
        tasks = [asyncio.ensure_future(side) for side in sides]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._wire.address
        if isinstance(address, str):
            return await asyncio.open_unix_connection(address)
        return await asyncio.open_connection(*address)

    async def _start(self) -> bool:
        while True:
            (length,) = struct.unpack("!i", head := await self._reader.readexactly(4))
            body = await self._reader.readexactly(length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code != _SSL_REQUEST:
                break
            self._writer.write(b"N")
        self._upstream = await self._connect()
        if code == _CANCEL_REQUEST:
            self._upstream[1].write(head + body)
            await self._upstream[0].read()
            return False
        await self._exchange(head + body, "(startup)")
        return True

    async def _forth(self) -> None:
        waiting, text, executes = b"", "", False
        prepared: dict[bytes, str] = {}
        while True:
            head = await self._reader.readexactly(5)
            (length,) = struct.unpack("!i", head[1:])
            body = await self._reader.readexactly(length - 4)
            kind = head[:1]
            waiting += head + body
            executes = executes or kind in b"EQ"
            if kind == b"Q":
                text = body.split(b"\0")[0].decode()
            elif kind == b"P":
                name, query, *_ = body.split(b"\0")
                text = prepared[name] = query.decode()
            elif kind == b"B":
                text = prepared.get(body.split(b"\0", 2)[1], text)
            if waiting == _LONE_SYNC:  # the driver recovers from an error: no exchange of its own
                self._flushed = False
                await self._send(waiting)
            elif kind in _WAITS:
                self._flushed = kind == b"H"
                await self._exchange(waiting, text, executes=executes)
            elif kind in b"pX":  # a password belongs to the startup, a Terminate to nothing
                await self._send(waiting)
            else:
                continue
            waiting, executes = b"", False

    async def _exchange(self, data: bytes, text: str, *, executes: bool = False) -> None:
        if self._deaf:
            return
        fault = self._fault = self._wire.next_fault(text, executes=executes)
        if fault is Fault.BEFORE:
            self.break_()
        elif fault in _SILENT:
            self._deaf = True
            if fault is Fault.LATE:
                await self._reader.read()  # until the client has given it up
                await self._send(data)
                await asyncio.sleep(5)  # `_back` ends this when the server has answered
        elif fault is Fault.TERMINATED:
            await self._wire.terminate(self._pid)
        elif fault in _INJECTED:
            self._inject(_INJECTED[fault])
        else:
            await self._send(data)
            if fault is Fault.HOOKED:
                self._wire.hook()

    async def _send(self, data: bytes) -> None:
        assert self._upstream is not None
        self._upstream[1].write(data)
        await self._upstream[1].drain()

    def _inject(self, code: str) -> None:
        fields = f"SERROR\0VERROR\0C{code}\0Minjected by a test\0\0".encode()
        self._writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        if not self._flushed:
            state = b"E" if self._state == b"T" else self._state
            self._writer.write(b"Z" + struct.pack("!i", 5) + state)

    async def _back(self) -> None:
        assert self._upstream is not None
        reader, answer = self._upstream[0], b""
        while True:
            head = await reader.readexactly(5)
            (length,) = struct.unpack("!i", head[1:])
            message = head + await reader.readexactly(length - 4)
            kind = head[:1]
            if kind == b"K":
                (self._pid,) = struct.unpack("!i", message[5:9])
            if kind == b"Z":
                self._state = message[5:6]
            complete = kind == b"Z" or (self._flushed and kind in _FLUSHED)
            if self._fault in {Fault.AFTER, Fault.HALF, Fault.SILENT_AFTER, Fault.LATE}:
                answer += message
                if not complete:
                    continue
                if self._fault is not Fault.SILENT_AFTER:
                    if self._fault is Fault.HALF:
                        self._writer.write(answer[: len(answer) // 2])
                        await self._writer.drain()
                    self.break_(reset=self._fault is Fault.HALF)
                    return
                self._deaf, self._fault, answer = True, None, b""
            elif not self._deaf:
                self._writer.write(message)
                await self._writer.drain()
