"""`TestClock`: the time of a test, in this process and in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from math import inf, isinf
from operator import attrgetter
from time import monotonic
from typing import ClassVar
from weakref import WeakSet

from pgqrs.client.admin import Admin
from pgqrs.engine.run import Run
from pgqrs.errors import ConfigurationError
from pgqrs.storage.journal.futures import resolve
from pgqrs.storage.store import Store
from pgqrs.testing import sql as testbed
from pgqrs.testing.scheduled import start_due

PAUSE = 0.003
"""Seconds between a skip of time and the next search for a timer; the pause doubles up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = 0.012
"""Maximum seconds between two searches for a timer."""

MARGIN = 0.001
"""Seconds that a skip of time goes beyond the next timer, because the database rounds to microseconds."""

UNCLAIMED = 1.0
"""Seconds for which a ready workflow keeps time from being skipped; later, no worker is expected to claim it."""

UNCLAIMED_LOOKS = 40
"""Minimum searches that find a ready workflow in that time: a busy machine is slow to claim and to search."""

_NOTHING = timedelta()


class TestClock:
    """A clock that runs like the machine's clock, and that a test can move forward.

    A workflow of thirty days takes a test milliseconds. The clock moves the time of the runs in this process and
    the time of the database, in the schemas of the test kit: the result of `PyWorkflow.now`, the ends of sleeps,
    the times of retries, the deadlines, and the times in the tables. Heartbeats and time limits of statements
    follow the machine's clock, so no executor dies of a move. `asyncio.sleep` and `asyncio.timeout` are not moved
    either.

    `scratch_admin` and the fixture `pgqrs_admin` create the clock, and `clock_of` returns the clock of an `Admin`.
    A connection sees this time if it has the `search_path` of the clock. Pass it to an engine of your own:
    ``connect_args={"server_settings": {"search_path": clock.search_path}}``.

    Args:
        schema: The schema whose time the clock moves. The test kit must have created it.
    """

    __test__: ClassVar[bool] = False  # pytest would collect a class of this name as tests

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
        """The length of time by which the clock is ahead of the machine's clock."""
        return timedelta(seconds=self._ahead)

    @property
    def schema(self) -> str:
        """The schema of the tables whose time the clock moves."""
        return self._schema

    @property
    def search_path(self) -> str:
        """The `search_path` of connections that see the time of this clock where a statement calls `now()`."""
        return testbed.search_path(self._schema)

    def follow(self, admin: Admin) -> None:
        """Monitor the writes and runs of an `Admin` when time is moved or skipped.

        Args:
            admin: An `Admin` with this clock and its schema.

        Raises:
            ConfigurationError: The `Admin` has another clock or another schema.
        """
        if admin.clock is not self or admin.schema != self._schema:
            raise ConfigurationError(
                f"`admin` must have this clock and its schema {self._schema!r}; "
                "create it with Admin(..., clock.schema, clock=clock)."
            )
        self._admins.add(admin)

    def leave(self, admin: Admin) -> None:
        """Stop to monitor an `Admin`, before it is closed.

        Args:
            admin: An `Admin` that was passed to `follow`.
        """
        self._admins.discard(admin)

    # --- a `Clock` ---

    def time(self) -> float:
        """Return the time of this clock in seconds, from an arbitrary start.

        Returns:
            Seconds, as comparable values; only their differences have a meaning.
        """
        return monotonic() + self._ahead

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> _Timer:
        """Call `callback` in the running event loop at a time of this clock.

        Args:
            time: The time of the call, as `time` returns it; a time in the past means at once.
            callback: The function to call.
            *args: The arguments of the call.

        Returns:
            The timer, which can be cancelled.
        """
        timer = _Timer(self._timers, time, lambda: callback(*args))
        timer.arm(self.time())
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait for a length of time by this clock.

        Args:
            seconds: The length, in seconds.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self.time() + seconds
        timer = self.call_at(due, resolve, waiter, None)
        self._sleepers[waiter] = due
        try:
            await waiter
        finally:
            timer.cancel()
            del self._sleepers[waiter]

    # --- moves ---

    async def now(self) -> datetime:
        """Return the time of the database's clock, as workflows see it.

        Returns:
            An aware datetime.

        Raises:
            ConfigurationError: The clock follows no `Admin`.
        """
        return await (await self._stores())[0].reader.now()

    async def advance(
        self,
        length: timedelta = _NOTHING,
        *,
        days: float = 0.0,
        hours: float = 0.0,
        minutes: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        """Move the time forward by a length; everything that is due then happens at once.

        Schedules start their workflows, also without a worker. A move over several times of a schedule is like an
        outage: `catchup` says which of them count.

        Args:
            length: The length as a `timedelta`; zero by default. The other arguments are added to it.
            days: Days to add, as in ``days=30``.
            hours: Hours to add.
            minutes: Minutes to add.
            seconds: Seconds to add.

        Raises:
            ConfigurationError: The length is negative, or the clock follows no `Admin`.
        """
        length += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if length < _NOTHING:
            raise ConfigurationError(f"the length must be at least 0, got {length}: time does not go back.")
        async with self._moving:
            await self._move(length.total_seconds())
            await start_due(await self._stores())

    async def advance_to(self, time: datetime) -> None:
        """Move the time forward to a time of day.

        Args:
            time: An aware datetime.

        Raises:
            ConfigurationError: The time has passed, or the clock follows no `Admin`.
            TypeError: The datetime is naive.
        """
        await self.advance(time - await self.now())

    @asynccontextmanager
    async def skipping(self) -> AsyncGenerator[None]:
        """Skip time while the block runs: when all work only waits, move to the time of the next timer.

        The clock monitors the runs in this process, the writes of the `Admin` objects, and the workflows in the
        tables. It does not move to the times of schedules. It skips no time while a step executes, while a message
        or the end of a child has not reached the workflow that waits for it, or while a workflow waits for an
        event that pgqrs does not know.

        Raises:
            ConfigurationError: The clock follows no `Admin`; raised at the end of the block.
        """
        enough = asyncio.Event()
        skipping = asyncio.get_running_loop().create_task(self._skip(enough), name="pgqrs-test-clock")
        try:
            yield
        finally:
            enough.set()  # a cancellation would cost a connection each time
            await asyncio.wait([skipping])
            if not skipping.cancelled() and (error := skipping.exception()) is not None:
                raise error

    async def _move(self, seconds: float) -> None:
        stores = await self._stores()
        for store in stores:
            await store.reader.now()  # the store measures the database's clock once; not during the move
        # This process moves first: a wait that is measured from now on is right in the database, before and after
        # the move there. A wait that was measured earlier must be written before that move.
        self._ahead += seconds
        for store in stores:
            await store.journal.drain()
        # Without retries: a second move would go too far.
        async with stores[0].database.transaction() as connection:
            await testbed.move(connection, self._schema, seconds)
        for timer in sorted(self._timers, key=attrgetter("time")):  # they fire in this order
            timer.arm(self.time())

    async def _stores(self) -> list[Store]:
        stores = [await admin.store() for admin in list(self._admins)]
        if not stores:
            raise ConfigurationError(
                "this TestClock has no Admin; use the clock of `pgqrs_admin` or `scratch_admin`, or call `follow`."
            )
        return stores

    # --- skipping ---

    async def _skip(self, enough: asyncio.Event) -> None:
        ready = _Ready()
        pause = PAUSE
        while not await _comes_within(pause, enough):
            async with self._moving:
                due = await self._next_due(ready)
                if due is not None:
                    await self._move(max(0.0, due - self.time()) + MARGIN)
            pause = min(2 * pause, LONGEST_PAUSE) if due is None else PAUSE

    async def _next_due(self, ready: _Ready) -> float | None:
        """Return the earliest time, by this clock, at which a wait ends; None while other work is in progress."""
        stores = await self._stores()
        if _rests(stores) is None:
            return None
        asked = self.time()
        outlook = await stores[0].database.run_with_retries(testbed.pending_work)
        has_message = any([await each.arrivals.has_unread() for each in stores])
        rests = _rests(stores)
        runs = {workflow_id for each in stores for workflow_id in each.runs}
        may_be_claimed = ready.may_be_claimed(outlook.open)
        if rests is None or has_message or outlook.held - runs or may_be_claimed:
            return None
        in_tables = [] if outlook.next_due is None else [asked + outlook.next_due]
        soonest = min([*rests, *self._sleepers.values(), *in_tables], default=inf)
        return None if isinf(soonest) else soonest


class _Ready:
    """The ready workflows: the time and the number of the searches that have found each."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], tuple[float, int]] = {}

    def may_be_claimed(self, found: frozenset[tuple[int, int]]) -> bool:
        """Return whether a worker may soon claim one of the workflows, which are ids and epochs.

        A workflow that is ready again after a run counts as newly ready, because its epoch has changed.
        """
        now = monotonic()
        earlier = self._found
        self._found = {}
        for each in found:
            since, looks = earlier.get(each, (now, 0))
            self._found[each] = since, looks + 1
        return any(now - since < UNCLAIMED or looks < UNCLAIMED_LOOKS for since, looks in self._found.values())


class _Timer:
    """A callback in an event loop at a time of a clock; `pending` has all timers that have not fired."""

    __slots__ = ("_callback", "_handle", "_loop", "_pending", "time")

    def __init__(self, pending: set[_Timer], time: float, callback: Callable[[], object]) -> None:
        self._pending = pending
        self.time = time
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        pending.add(self)

    def arm(self, now: float) -> None:
        """Set the timer again; the clock shows `now`."""
        if self._handle is not None:
            self._handle.cancel()
        if self._loop.is_closed():
            self._pending.discard(self)
        elif self._loop is asyncio.get_running_loop():
            self._handle = self._loop.call_later(max(0.0, self.time - now), self._fire)
        else:
            self._handle = self._loop.call_soon_threadsafe(self._rearm, self.time - now)

    def cancel(self) -> None:
        """Cancel the callback."""
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
    """Return the `TestClock` of an `Admin`.

    Args:
        admin: An `Admin` of the fixture `pgqrs_admin` or of `scratch_admin`.

    Returns:
        The clock of the `Admin`.

    Raises:
        ConfigurationError: The `Admin` has the machine's clock.
    """
    if not isinstance(admin.clock, TestClock):
        raise ConfigurationError(
            "`admin` must have a TestClock, got the machine's clock; use `pgqrs_admin` or `scratch_admin`."
        )
    return admin.clock


async def _comes_within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _rests(stores: list[Store]) -> list[float] | None:
    """Return the end of each wait of this process's runs; None while a run works or a record is written."""
    if not all(store.journal.is_idle for store in stores):
        return None
    rests: list[float] = []
    for run in _runs(stores):
        until = run.parking.idle_until
        if until is not None:
            rests.append(until)  # infinite for a run that only waits for messages
        elif run.in_body or run.busy_with is not None:
            return None
    return rests


def _runs(stores: list[Store]) -> Iterator[Run]:
    for store in stores:
        for run in list(store.runs.values()):
            if isinstance(run, Run):
                yield run
