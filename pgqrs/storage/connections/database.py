"""One database as one event loop sees it: its engine, its transactions, its driver connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import asyncpg
from sqlalchemy import ClauseElement, Pool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn
from tenacity import AsyncRetrying, RetryCallState, retry_base, wait_random_exponential

from pgqrs.models import SCHEMA
from pgqrs.storage.connections.backoff import StopAfterLoopTime
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import is_cancelled, is_read_only, is_transient, translated
from pgqrs.storage.connections.pooler import Driver, PooledConnection
from pgqrs.storage.queries.expressions import SEARCH_PATH

T = TypeVar("T")

_PLACEHOLDER = "pgqrs_schema_placeholder"

_KEPT = 3600.0

_LATENESS = 600.0
"""Seconds for which waits for locks are bounded after a transaction has run out of time."""

_MOST_CANCELLED = 5

LOCK_TIMEOUT = 0.1
"""How long a statement of the journal waits for a lock, in seconds."""

# Batches over `unnest` would be planned anew each time, or keep a plan made while the tables were empty: with
# these a plan is made once, by the primary keys. How long a row may wait is ours to bound, and not the role's.
_STATEMENT_SETTINGS = (
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "statement_timeout = 0",
    f"lock_timeout = '{round(LOCK_TIMEOUT * 1000)}ms'",
)
_SESSION_SETTINGS = ("jit = off", "default_transaction_isolation = 'read committed'")
# Not `jit`: asyncpg puts it back as it found it, for the session, when it has looked up a type.
_POOLED_SETTINGS = ("jit_above_cost = -1",)

# A claim that may sort walks through the primary key, which holds all that has ended too.
_ORDERED_SETTINGS = ("enable_sort = off",)


class Limits(NamedTuple):
    """How long to wait for the database, in seconds.

    `timeout` bounds one connection attempt and one statement of the journal; `outage_timeout` is how long a write
    or a read goes on trying while a server that was there is away. The executor shows that it lives once in
    `heartbeat_interval`, and without a sign for `heartbeat_timeout` it is suspected. A run that it holds for
    longer than `unattended`, and that nothing in its process carries out, it gives up.
    """

    timeout: float
    outage_timeout: float
    heartbeat_interval: float = 3.0
    heartbeat_timeout: float = 15.0
    unattended: float = 5.0


class _TransientError(retry_base):
    """Has a statement sent again whose failure passes by itself."""

    def __init__(self, also: Callable[[BaseException], bool] | None) -> None:
        self._also = also

    def __call__(self, retry_state: RetryCallState) -> bool:
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        if error is None:
            return False
        if is_cancelled(error):
            return retry_state.attempt_number < _MOST_CANCELLED
        return is_transient(error) or (self._also is not None and self._also(error))


class CompiledStatement(NamedTuple):
    """A statement as the driver takes it: its text, and the names of its binds in their order."""

    text: str
    binds: Sequence[str]

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """Return the values in the order of the binds."""
        return [values[name] for name in self.binds]


class Database:
    """The engine, the schema, and how transactions begin and failures are told.

    `clock_schema` is where the functions are that tell the time, None for the server's own; see `Clock.schema`.
    """

    def __init__(self, source: EngineSource, schema: str, limits: Limits, clock_schema: str | None = None) -> None:
        self.schema = schema
        self._clock_schema = clock_schema
        self.limits = limits
        self._owned = source.owned
        self.pooler = source.pooler
        self.engine: AsyncEngine = source.make()
        self._translation = {SCHEMA: schema}
        self._driver_pool: Pool | None = None
        self._kept: asyncio.TimerHandle | None = None
        self._late_until = 0.0
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._open = asyncio.Event()
        self._open.set()

    @asynccontextmanager
    async def transaction(
        self, limit: float | None = None, *, lasting: float | None = None
    ) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction of our own: committed at a clean exit, rolled back at any other.

        `limit` bounds the connecting, and then the transaction, in seconds: a server that falls silent says
        nothing, and the engine would wait for it for ever. The transaction may last for `lasting` instead.
        """
        with translated(self.schema), await self.using():
            async with asyncio.timeout(limit):
                connection = await self.engine.connect()
            if lasting is not None:
                limit = lasting
            # Closed in this task: SQLAlchemy's own context manager does it in a new one, which the end of the
            # loop cancels before it begins.
            try:
                await connection.execution_options(
                    isolation_level="READ COMMITTED", schema_translate_map=self._translation
                )
                async with _terminated_after(limit, connection, self._ran_late), connection.begin():
                    if limit is not None and self._is_to_bound_locks():
                        # No `statement_timeout`, which would end a commit's wait for a standby as well.
                        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{1000 * limit + 1000:.0f}ms'")
                    yield connection
            except Exception as error:
                if is_read_only(error):
                    await connection.invalidate()
                raise
            finally:
                await connection.close()

    def _ran_late(self) -> None:
        self._late_until = asyncio.get_running_loop().time() + _LATENESS

    def _is_to_bound_locks(self) -> bool:
        """Tell whether the server is to end a wait for a lock by itself, a second after this process has given up.

        It does not notice meanwhile that the connection was ended, and each attempt would leave a session behind.
        Connections of our own engine have it look (see `pgqrs.storage.connections.engines`). On others the setting
        takes a round trip, which is spent once a transaction has run out of time.
        """
        looks = self._owned and not self.pooler.shares_sessions
        return not looks and asyncio.get_running_loop().time() < self._late_until

    async def run_with_retries(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, lasting: float | None = None
    ) -> T:
        """Do `work` in a transaction, again while the server is away; so it must be safe to do twice.

        The transaction may last for `lasting` seconds, for the `timeout` of our limits where that is not given.
        """
        return await self.retrying()(self._transact, work, lasting)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]], lasting: float | None) -> T:
        async with self.transaction(self.limits.timeout, lasting=lasting) as connection:
            return await work(connection)

    def retrying(self, also: Callable[[BaseException], bool] | None = None) -> AsyncRetrying:
        """Return a retry of what passes by itself, within our patience; of what is `also` said to pass, too.

        A statement that was cancelled is sent again a few times: a time limit of the role would cancel it always.
        """
        return AsyncRetrying(
            retry=_TransientError(also),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=StopAfterLoopTime(self.limits.outage_timeout, self.limits.timeout),
            reraise=True,
        )

    def compile(self, statement: ClauseElement) -> CompiledStatement:
        """Compile a statement for the driver, with the names of this schema."""
        compiled: Any = statement.compile(
            dialect=self.engine.dialect,
            schema_translate_map={SCHEMA: _PLACEHOLDER},
            render_schema_translate=True,
        )
        # Put in afterwards: SQLAlchemy 2.0 takes a % in a schema's name for a bind.
        text = compiled.string.replace(_PLACEHOLDER, self._quoted(self.schema))
        return CompiledStatement(text, tuple(compiled.positiontup or ()))

    def qualified(self, name: str) -> str:
        """Return the name of something in our schema, quoted as SQL text needs it."""
        return f"{self._quoted(self.schema)}.{self._quoted(name)}"

    @property
    def workflow_ids(self) -> str:
        """The name of the sequence of the workflows' ids, as SQL text needs it."""
        return self.qualified("pgqrs_workflows_id_seq")

    def _quoted(self, name: str) -> str:
        return self.engine.dialect.identifier_preparer.quote(name)

    async def open_driver(self, *, sorting: bool = True) -> Driver:
        """Open a driver connection outside the engine's pool, made as the engine makes its own.

        Without `sorting` rows are read in the order of an index wherever one has the order that is asked for.
        Behind a pooler that shares sessions it sets nothing for the session, and hears nothing.
        """
        if self._driver_pool is None:
            self._driver_pool = self.engine.sync_engine.pool.recreate()
        async with asyncio.timeout(self.limits.timeout):
            pooled: Any = await greenlet_spawn(self._driver_pool.connect)
            driver: asyncpg.Connection[Any] = pooled.driver_connection
            pooled.detach()
            try:
                return await self._prepared(driver, () if sorting else _ORDERED_SETTINGS)
            except BaseException:
                driver.terminate()
                raise

    async def _prepared(self, driver: asyncpg.Connection[Any], settings: Sequence[str]) -> Driver:
        await self.pooler.found_by(driver)
        if self.pooler.shares_sessions:
            self.pooler.warn(self.limits.heartbeat_timeout, self.limits.heartbeat_interval)
            return PooledConnection(driver, self._settings("SET LOCAL", (*_POOLED_SETTINGS, *settings)))
        await driver.execute(self._settings("SET", (*_SESSION_SETTINGS, *settings)))
        return driver

    def _settings(self, verb: str, own: Sequence[str]) -> str:
        clock = "" if self._clock_schema is None else f"{self._quoted(self._clock_schema)}, "
        path = f"search_path = {clock}{SEARCH_PATH}"
        return "; ".join(f"{verb} {setting}" for setting in (*_STATEMENT_SETTINGS, path, *own))

    async def using(self) -> AbstractContextManager[None]:
        """Return a context in which the engine's connections are in use, once they are not being closed."""
        await self._open.wait()
        return self._track_use()

    @contextmanager
    def _track_use(self) -> Generator[None]:
        if self._owned and self._kept is None:
            self._hold_reference()
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    def _hold_reference(self) -> None:
        """Have the event loop hold this, until `dispose`.

        What nobody holds is closed when the garbage collector has found it. By then Python has cleared the weak
        references within what it collects, and without its own a connection of asyncpg's cannot be closed.
        """
        self._kept = asyncio.get_running_loop().call_later(_KEPT, self._hold_reference)

    async def dispose(self) -> None:
        """Close the engine's connections, if the engine is ours; it can be used again afterwards."""
        if not self._owned:
            return
        # A connection that comes back to a pool after its end would be closed by nobody.
        self._open.clear()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.timeout):
                    await self._unused.wait()
            await self.engine.dispose()
        finally:
            if self._kept is not None:
                self._kept.cancel()
                self._kept = None
            self._open.set()


@asynccontextmanager
async def _terminated_after(
    seconds: float | None, connection: AsyncConnection, late: Callable[[], object]
) -> AsyncGenerator[None]:
    """End the connection if it is still in use after a time, None for never, and call `late` then."""
    if seconds is None:
        yield
        return
    # A task that is cancelled asks the server to cancel the statement. A commit that waits for a standby ends its
    # wait then, and what the standby does not have is there when it is sent again: it would be acknowledged.
    driver: Any = (await connection.get_raw_connection()).driver_connection

    def end() -> None:
        driver.terminate()
        late()

    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    finally:
        timer.cancel()
