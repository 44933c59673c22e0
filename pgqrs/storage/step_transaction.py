"""The session of a transactional step: what the step writes through it and its outcome commit together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.util import await_only

from pgqrs.codecs.failures import shown_error
from pgqrs.errors import DatabaseError, SessionError
from pgqrs.storage.connections.caller import CallerConnection, CallerSessions, session_errors
from pgqrs.storage.connections.commit_guard import CommitGuard, isolation_of
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.errors import sqlstate
from pgqrs.storage.journal.operation import RETRY, CurrentState
from pgqrs.storage.journal.registry import CALLER_CURRENT_STATE, RECORD_LAST_STEP
from pgqrs.storage.queries.steps import StepRepository
from pgqrs.storage.records import StepOutcome, StoredOutcome

T = TypeVar("T")

SessionMaker: TypeAlias = Callable[[], AsyncSession]
"""What makes sessions on the application's engine: an `async_sessionmaker`, mostly."""

_logger = logging.getLogger("pgqrs")

_RECORD_STEP = RECORD_LAST_STEP.in_transaction()
_ASK = CALLER_CURRENT_STATE.statement()


class StepTransactions:
    """Makes the sessions of transactional steps, with `make` or on the library's own engine."""

    def __init__(self, database: Database, lending: CallerSessions, make: SessionMaker | None) -> None:
        self._database = database
        self._lending = lending
        self._make: SessionMaker = make or async_sessionmaker(database.engine, expire_on_commit=False)

    @asynccontextmanager
    async def open(self, *, nested: bool) -> AsyncGenerator[StepTransaction]:
        """Open a session, and roll back in the end what is not committed.

        `nested` tells that a step around it has one already.
        """
        with await self._database.using():
            session = self._make()
            if not isinstance(cast(object, session), AsyncSession):
                raise SessionError(f"Admin's sessionmaker makes a {type(session).__name__}, not an AsyncSession.")
            own = StepTransaction(session, self._database, self._lending, nested=nested)
            try:
                yield own
            finally:
                own.release()
                await session.close()


class StepTransaction:
    """A session whose only commit is that of the step's outcome, its last statement."""

    def __init__(
        self, session: AsyncSession, database: Database, lending: CallerSessions, *, nested: bool
    ) -> None:
        self.session = session
        self.outcome: StoredOutcome | None = None
        """What is recorded of the step, once that is committed."""
        self.cancels: bool | None = None
        """Whether the workflow is to be cancelled, interrupting its steps; None where it is not."""
        self._database = database
        self._lending = lending
        self._nested = nested
        self._unmark: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._sole = CommitGuard(session.sync_session)
        event.listen(session.sync_session, "after_begin", self._before_snapshot)

    async def prepare(self, unmark: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Get ready for the step, or raise `SessionError` where the session cannot serve it.

        `unmark` returns when nobody writes any more that the step is running. Where a step around it has a
        session, a connection must be free within the database's `timeout`, for nobody else would ever give one
        back.
        """
        self._unmark = unmark
        self._sole.check_bind()
        if self._nested:
            await self._connect(self._database.limits.timeout)

    def _before_snapshot(self, _session: object, _transaction: object, connection: SyncConnection) -> None:
        # The outcome replaces a mark, and cannot replace one that the snapshot of its transaction does not show.
        if self._unmark is not None and isolation_of(connection) not in {"read committed", "read uncommitted"}:
            await_only(self._unmark())

    def release(self) -> None:
        """Leave the session alone from now on."""
        event.remove(self.session.sync_session, "after_begin", self._before_snapshot)
        self._sole.release()

    async def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Return what the step's function returns, and raise what it raises.

        Raises `SessionError` instead where it did what it must not do with the session, even if it caught that.
        """
        try:
            value = await body()
        except Exception as error:
            misuse = self._sole.misuse()
            if misuse is None or misuse is error:
                raise
            raise misuse from error
        self._sole.check()
        return value

    async def _connect(self, timeout: float) -> None:
        """Take a connection, within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._lending.bind(self.session)
        except TimeoutError as error:
            raise SessionError(
                f"no connection came free within {timeout:g} s for a transactional step inside another, which "
                "keeps its own meanwhile: give the engine a larger pool, or do not nest them."
            ) from error

    async def commit_with(self, record: StepOutcome) -> None:
        """Commit what was written with the outcome as the last statement; `outcome` is what is recorded then.

        Where the step has an outcome already, that is it, and the writes are rolled back. Raises why the run
        may write no more, `SessionError`, and SQLAlchemy's errors. A cancellation does not end a commit on its
        way: it is raised when that is over, which a server that falls silent puts off by the database's `timeout`
        and its `outage_timeout`.
        """
        with session_errors():
            await self.session.flush()
        borrowed = await self._lending.bind(self.session)
        row = (await borrowed.execute(_RECORD_STEP, RECORD_LAST_STEP.values(record))).first()
        if row is not None:
            self.cancels = row.cancels
            await _to_the_end(self._commit(record))
        else:
            self.outcome = await _recorded_before(borrowed, record)

    async def _commit(self, record: StepOutcome) -> None:
        try:
            await self._commit_in_time()
        except Exception as error:
            if not _is_refusal(error):
                await self.session.invalidate()  # or the transaction might go on, and be waited for
                self.outcome = await self._settled(record)
            if self.outcome is None:
                raise
            _logger.warning(
                "step %r of workflow %s is committed, although its commit failed: %s (%s)",
                record.step_id,
                record.workflow_id,
                shown_error(error, is_sealed=True),  # the text may hold the parameters of a statement
                sqlstate(error),
            )
        else:
            self._sole.check_committed()
            self.outcome = RECORD_LAST_STEP.result_for(record, record.epoch)

    async def _commit_in_time(self) -> None:
        """Commit, and end the connection if that takes longer than the database's `timeout`."""
        self._sole.allow()
        late = asyncio.get_running_loop().call_later(self._database.limits.timeout, self._sole.terminate)
        try:
            await self.session.commit()
        finally:
            late.cancel()

    async def _settled(self, record: StepOutcome) -> StoredOutcome | None:
        """Return what is recorded once the transaction has certainly ended, though it was not heard how."""
        return await self._database.run_with_retries(
            lambda connection: StepRepository(connection).locked_outcome(record.workflow_id, record.step_id)
        )


def _is_refusal(error: Exception) -> bool:
    """Tell whether the server has answered that it did not commit; otherwise it may have."""
    code = sqlstate(error)
    return code is not None and not code.startswith(("08", "57"))


async def _recorded_before(borrowed: CallerConnection, record: StepOutcome) -> StoredOutcome:
    """Return the outcome that the step has already; raise why the run may write no more."""
    asked = CALLER_CURRENT_STATE.arrays([(record.workflow_id, record.step_id)])
    row: Any = (await borrowed.execute(_ASK, asked)).one()
    verdict = RECORD_LAST_STEP.resolve_missing(record, CurrentState(*row[2:]))
    if verdict is RETRY:
        raise DatabaseError(
            f"step {record.step_id!r} of workflow {record.workflow_id} could not be recorded, because its record "
            "was changed at the same time."
        )
    if isinstance(verdict, Exception):
        raise verdict
    return cast(StoredOutcome, verdict)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do work that no cancellation ends: one that came meanwhile is raised afterwards, with its error as cause."""
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancelled:
            cancellation = cancelled
    if cancellation is None:
        task.result()
    else:
        raise cancellation from (None if task.cancelled() else task.exception())
