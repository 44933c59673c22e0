"""The database of one event loop: its engine, transactions and driver connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import asyncpg
from sqlalchemy import ClauseElement, Pool
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn
from tenacity import AsyncRetrying, RetryCallState, retry_base, wait_random_exponential

from pgqrs.models import SCHEMA
from pgqrs.storage.connections.backoff import StopAfterLoopTime
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import is_cancelled, is_read_only, is_transient, translated
from pgqrs.storage.connections.pooler import Driver, PooledConnection
from pgqrs.storage.sql.expressions import SCHEMA_PLACEHOLDER, SEARCH_PATH

T = TypeVar("T")

_KEPT = 3600.0
"""Seconds between two renewals of the event loop's reference to a database; see `_hold_reference`."""

_LATENESS = 600.0
"""Seconds for which waits for locks are limited after a transaction has run out of time."""

_MOST_CANCELLED = 5
"""Maximum attempts of a statement that is cancelled each time."""

LOCK_TIMEOUT = 0.1
"""Seconds for which a statement of the journal waits for a lock."""

# Batches over `unnest` would be planned anew each time, or keep a plan made while the tables were empty. With
# these settings a plan is made once, by the primary keys. pgqrs, and not the role, limits the wait for a row.
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
# Not `jit`: asyncpg restores its old value, for the session, after it has looked up a type.
_POOLED_SETTINGS = ("jit_above_cost = -1",)

# A claim that may sort scans the primary key, which holds all finished workflows, too.
_ORDERED_SETTINGS = ("enable_sort = off",)


class Limits(NamedTuple):
    """Limits of the storage; the times are in seconds.

    `timeout` limits one connection attempt and one statement of the journal. `outage_timeout` limits the retries
    of a write or a read while a server that was reachable before is away. The executor sends a heartbeat every
    `heartbeat_interval`; it is suspected dead after `heartbeat_timeout` without a heartbeat. It releases a run
    that it holds for longer than `unattended` and that no task of its process executes. A batch of the journal has
    at most `max_batch` records.
    """

    timeout: float
    outage_timeout: float
    heartbeat_interval: float = 3.0
    heartbeat_timeout: float = 15.0
    unattended: float = 5.0
    max_batch: int = 1000


class _TransientError(retry_base):
    """Retries a statement whose failure is transient."""

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
    """A statement in the driver's form: its text, and the names of its binds in order."""

    text: str
    binds: Sequence[str]

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """Return the values in the order of the binds."""
        return [values[name] for name in self.binds]


# Compiling the statements of a worker takes a tenth of a second, and a process may have several databases.
@lru_cache(maxsize=1000)
def compiled(build: Callable[..., ClauseElement], *arguments: Hashable) -> CompiledStatement:
    """Return the statement that `build` returns in the driver's form, with a placeholder for the schema."""
    statement: Any = build(*arguments).compile(
        dialect=PGDialect_asyncpg(),  # type: ignore[no-untyped-call]
        schema_translate_map={SCHEMA: SCHEMA_PLACEHOLDER},
        render_schema_translate=True,
    )
    return CompiledStatement(statement.string, tuple(statement.positiontup or ()))


class Database:
    """The engine and schema of one event loop; opens transactions and translates errors.

    `clock_schema` is the schema of the functions that return the time, or None for the server's own functions; see
    `Clock.schema`.
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
        """Open a transaction of pgqrs: committed at a normal exit, rolled back at any other exit.

        `limit`, in seconds, applies to the connecting and then to the transaction, because the engine would wait
        forever for a server that does not answer. `lasting`, in seconds, replaces it for the transaction.
        """
        with translated(self.schema), await self.using():
            async with asyncio.timeout(limit):
                connection = await self.engine.connect()
            if lasting is not None:
                limit = lasting
            # Closed in this task: SQLAlchemy's own context manager closes it in a new task, which the end of the
            # loop cancels before the task begins.
            try:
                await connection.execution_options(
                    isolation_level="READ COMMITTED", schema_translate_map=self._translation
                )
                async with _terminated_after(limit, connection, self._ran_late), connection.begin():
                    if limit is not None and self._is_to_bound_locks():
                        # No `statement_timeout`: it would end a commit's wait for a standby, too.
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
        """Return whether the server must end a wait for a lock itself, one second after this process abandons it.

        During the wait, the server does not notice that the connection was closed, so each attempt would leave a
        session behind. On connections of pgqrs's own engine the server checks for a closed connection (see
        `pgqrs.storage.connections.engines`). On other connections the setting takes a round trip, so it is set
        only after a transaction has run out of time.
        """
        looks = self._owned and not self.pooler.shares_sessions
        return not looks and asyncio.get_running_loop().time() < self._late_until

    async def run_with_retries(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, lasting: float | None = None
    ) -> T:
        """Do `work` in a transaction, and retry it while the server is away; `work` must be safe to do twice.

        The transaction may last for `lasting` seconds, by default for the `timeout` of the limits.
        """
        return await self.retrying()(self._transact, work, lasting)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]], lasting: float | None) -> T:
        async with self.transaction(self.limits.timeout, lasting=lasting) as connection:
            return await work(connection)

    def retrying(self, also: Callable[[BaseException], bool] | None = None) -> AsyncRetrying:
        """Return a retry of transient failures, and of failures that `also` accepts, within `outage_timeout`.

        A cancelled statement is retried only a few times: a time limit of the role would cancel it each time.
        """
        return AsyncRetrying(
            retry=_TransientError(also),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=StopAfterLoopTime(self.limits.outage_timeout, self.limits.timeout),
            reraise=True,
        )

    def compile(self, build: Callable[..., ClauseElement], *arguments: Hashable) -> CompiledStatement:
        """Compile the statement that `build` returns for the driver, with the table names of this schema.

        `build` returns the same statement each time that it is called with `arguments`.
        """
        shared = compiled(build, *arguments)
        # Replaced after compilation: SQLAlchemy 2.0 takes a % in a schema's name for a bind.
        return shared._replace(text=shared.text.replace(SCHEMA_PLACEHOLDER, self._quoted(self.schema)))

    def qualified(self, name: str) -> str:
        """Return a name qualified with the schema, quoted for SQL text."""
        return f"{self._quoted(self.schema)}.{self._quoted(name)}"

    @property
    def workflow_ids(self) -> str:
        """Name of the sequence of the workflow ids, qualified and quoted for SQL text."""
        return self.qualified("pgqrs_workflows_id_seq")

    def _quoted(self, name: str) -> str:
        return self.engine.dialect.identifier_preparer.quote(name)

    async def open_driver(self, *, sorting: bool = True) -> Driver:
        """Open a driver connection outside the engine's pool, in the same way as the engine opens its connections.

        Without `sorting`, rows are read in the order of an index wherever an index has the requested order. Behind
        a pooler that shares sessions, the connection sets nothing for the session and receives no notifications.
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
        """Return a context that marks the engine's connections as used; wait first while they are being closed."""
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
        """Keep a reference to this database in the event loop, until `dispose`.

        The garbage collector would otherwise close the connections of an unreferenced database. By then Python has
        cleared the weak references within the garbage, and asyncpg needs them to close a connection.
        """
        self._kept = asyncio.get_running_loop().call_later(_KEPT, self._hold_reference)

    async def dispose(self) -> None:
        """Close the engine's connections, if pgqrs made the engine; it can be used again afterwards."""
        if not self._owned:
            return
        # A connection that returns to the pool after its end would never be closed.
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
    """Terminate the connection and call `late` if the block takes longer than `seconds`; None sets no limit."""
    if seconds is None:
        yield
        return
    # A cancelled task would make the server cancel the statement. A commit would then stop waiting for a standby,
    # and the repeated statement would find, and acknowledge, rows that the standby does not have.
    driver: Any = (await connection.get_raw_connection()).driver_connection

    def end() -> None:
        driver.terminate()
        late()

    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    finally:
        timer.cancel()
