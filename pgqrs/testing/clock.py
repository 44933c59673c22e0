"""`TestClock`: time that tests move, in this process and in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import ClassVar
from weakref import WeakSet

from pgqrs.client.admin import Admin
from pgqrs.engine.run import Run
from pgqrs.errors import ConfigurationError
from pgqrs.storage.journal.futures import resolve
from pgqrs.storage.store import Store
from pgqrs.testing import sql as testbed

PAUSE = 0.003
"""How long after time was skipped, in seconds, it is looked for the next timer; then ever less often."""

LONGEST_PAUSE = 0.012
"""The longest time between two such looks, in seconds."""

MARGIN = 0.001
"""How much farther than to the next timer time is skipped, in seconds: the database rounds to microseconds."""

UNCLAIMED = 1.0
"""How long, in seconds, time stands still for a workflow that a worker could take; then nobody will, it seems."""

_NOTHING = timedelta()


class TestClock:
    """A clock that goes as time does, and that a test moves: a workflow of thirty days takes it milliseconds.

    It moves the time of the runs in this process and that of the database, in the schemas of the test kit: what
    `PyWorkflow.now` returns, when sleeps end and retries are due, when deadlines pass, the times in the tables.
    Heartbeats and time limits of statements go by the machine's time, so nobody dies of a jump. `asyncio.sleep`
    and `asyncio.timeout` are not moved either.

    Made by `scratch_admin` and the fixture `pgqrs_admin`; `clock_of` returns an `Admin`'s. Connections see the
    time that have its `search_path`: an engine of your own is to be given it, as in
    ``connect_args={"server_settings": {"search_path": clock.search_path}}``.
    """

    __test__: ClassVar[bool] = False  # for pytest, which takes classes of such a name for tests

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._ahead = 0.0
        self._timers: set[_Timer] = set()
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._admins: WeakSet[Admin] = WeakSet()
        self._moving = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<TestClock {timedelta(seconds=self._ahead)} ahead>"

    @property
    def ahead(self) -> timedelta:
        """How far the clock is ahead of the machine's time."""
        return timedelta(seconds=self._ahead)

    @property
    def schema(self) -> str:
        """The schema of the tables in which the time is moved."""
        return self._schema

    @property
    def search_path(self) -> str:
        """The `search_path` of connections that see the time of this clock where a statement asks for `now()`."""
        return testbed.search_path(self._schema)

    def follow(self, admin: Admin) -> None:
        """Take an `Admin` for one whose writes and runs are looked at where time is moved; it has this clock.

        Raises `ConfigurationError` for one that goes by another clock, or has its tables elsewhere.
        """
        if admin.clock is not self or admin.schema != self._schema:
            raise ConfigurationError(
                f"this clock moves the time of the schema {self._schema!r}: "
                "give it to the Admin, as in Admin(..., clock.schema, clock=clock)."
            )
        self._admins.add(admin)

    def leave(self, admin: Admin) -> None:
        """Look at an `Admin` no longer, which is about to be closed."""
        self._admins.discard(admin)

    # --- a `Clock` ---

    def time(self) -> float:
        """Return the time in seconds from some moment on."""
        return monotonic() + self._ahead

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> _Timer:
        """Have the running event loop call `callback` with `args` when it is `time`, or has been."""
        timer = _Timer(self._timers, time, lambda: callback(*args))
        timer.arm(self.time())
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds by this clock."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self.time() + seconds
        timer = self.call_at(due, resolve, waiter, None)
        self._sleepers[waiter] = due
        try:
            await waiter
        finally:
            timer.cancel()
            del self._sleepers[waiter]

    # --- moving it ---

    async def now(self) -> datetime:
        """Return the time by the database's clock, as workflows see it; aware."""
        return await (await self._stores())[0].now()

    async def advance(
        self,
        length: timedelta = _NOTHING,
        *,
        days: float = 0.0,
        hours: float = 0.0,
        minutes: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        """Move the time on, by a `timedelta` or as in ``days=30``: what is due then goes on at once.

        Raises `ConfigurationError` for a length below zero: time does not go back.
        """
        length += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if length < _NOTHING:
            raise ConfigurationError(f"time does not go back, so it cannot be advanced by {length}.")
        async with self._moving:
            await self._move(length.total_seconds())

    async def advance_to(self, time: datetime) -> None:
        """Move the time on to `time`, an aware datetime; raises `ConfigurationError` where that has passed."""
        await self.advance(time - await self.now())

    @asynccontextmanager
    async def skipping(self) -> AsyncGenerator[None]:
        """Skip time while the block runs: whenever all that goes on only waits, it is the next one's time at once.

        What goes on are the runs in this process, the writes of the `Admin`s, and the workflows in the tables.
        Time stands still while a step executes, or a workflow waits for something else than time.
        """
        enough = asyncio.Event()
        skipping = asyncio.get_running_loop().create_task(self._skip(enough), name="pgqrs-test-clock")
        try:
            yield
        finally:
            enough.set()  # it is not cancelled: that would cost a connection each time
            await asyncio.wait([skipping])
            if not skipping.cancelled() and (error := skipping.exception()) is not None:
                raise error

    async def _move(self, seconds: float) -> None:
        stores = await self._stores()
        for store in stores:
            await store.now()  # it compares the database's time with this clock's, once: not while they move
        # First here: a wait that is measured from now on is right in the database, before and after it moves.
        # Those measured before must be written before.
        self._ahead += seconds
        for store in stores:
            await store.journal.drain()
        # Not patiently: twice would be too far.
        async with stores[0].database.transaction() as connection:
            await testbed.move(connection, self._schema, seconds)
        for timer in list(self._timers):
            timer.arm(self.time())

    async def _stores(self) -> list[Store]:
        stores = [await admin.store() for admin in list(self._admins)]
        if not stores:
            raise ConfigurationError(
                "this TestClock has no Admin to move the time of: use that of `pgqrs_admin` or `scratch_admin`."
            )
        return stores

    # --- skipping ---

    async def _skip(self, enough: asyncio.Event) -> None:
        since: dict[int, float] = {}
        pause = PAUSE
        while not await _comes_within(pause, enough):
            async with self._moving:
                due = await self._next_due(since)
                if due is not None:
                    await self._move(max(0.0, due - self.time()) + MARGIN)
            pause = min(2 * pause, LONGEST_PAUSE) if due is None else PAUSE

    async def _next_due(self, since: dict[int, float]) -> float | None:
        """Return when, by this clock, the first of all that wait goes on, None while something else goes on."""
        stores = await self._stores()
        if _rests(stores) is None:
            return None
        asked = self.time()
        outlook = await stores[0].database.run_with_retries(testbed.pending_work)
        rests = _rests(stores)
        runs = {workflow_id for each in stores for workflow_id in each.runs}
        if rests is None or outlook.held - runs or _may_be_claimed(outlook.open, since):
            return None
        in_tables = [] if outlook.next_due is None else [asked + outlook.next_due]
        return min([*rests, *self._sleepers.values(), *in_tables], default=None)


class _Timer:
    """A callback in an event loop at a time by a clock; `pending` are all of them that are to come."""

    __slots__ = ("_callback", "_handle", "_loop", "_pending", "_time")

    def __init__(self, pending: set[_Timer], time: float, callback: Callable[[], object]) -> None:
        self._pending = pending
        self._time = time
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        pending.add(self)

    def arm(self, now: float) -> None:
        """Set the timer anew: the clock shows `now`."""
        if self._handle is not None:
            self._handle.cancel()
        if self._loop.is_closed():
            self._pending.discard(self)
        elif self._loop is asyncio.get_running_loop():
            self._handle = self._loop.call_later(max(0.0, self._time - now), self._fire)
        else:
            self._handle = self._loop.call_soon_threadsafe(self._rearm, self._time - now)

    def cancel(self) -> None:
        """Let it not happen."""
        self._pending.discard(self)
        if self._handle is not None:
            self._handle.cancel()

    def _rearm(self, seconds: float) -> None:
        if self in self._pending:
            self._handle = self._loop.call_later(max(0.0, seconds), self._fire)

    def _fire(self) -> None:
        if self in self._pending:
            self._pending.discard(self)
            self._callback()


def clock_of(admin: Admin) -> TestClock:
    """Return the `TestClock` of an `Admin`; raises `ConfigurationError` for one that goes by the machine's."""
    if not isinstance(admin.clock, TestClock):
        raise ConfigurationError(
            "this Admin goes by the machine's clock: take the fixture `pgqrs_admin`, or `scratch_admin`."
        )
    return admin.clock


async def _comes_within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _rests(stores: list[Store]) -> list[float] | None:
    """Return until when each run of this process waits; None where one does not, or something is being written."""
    if not all(store.journal.is_idle for store in stores):
        return None
    rests: list[float] = []
    for run in _runs(stores):
        until = run.lifecycle.idle_until
        if until is not None:
            rests.append(until)
        elif run.in_body or run.busy_with is not None:
            return None
    return rests


def _runs(stores: list[Store]) -> Iterator[Run]:
    for store in stores:
        for run in list(store.runs.values()):
            if isinstance(run, Run):
                yield run


def _may_be_claimed(ids: frozenset[int], since: dict[int, float]) -> bool:
    """Tell whether a worker may be about to take one of these workflows; `since` is when each was first seen."""
    now = monotonic()
    for gone in since.keys() - ids:
        del since[gone]
    return any(now - since.setdefault(each, now) < UNCLAIMED for each in ids)
