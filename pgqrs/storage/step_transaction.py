"""The session of a transactional step, in which the writes and the outcome of the step commit together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
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
from pgqrs.storage.queries.steps import StepRepository
from pgqrs.storage.records import StoredOutcome, from_row
from pgqrs.storage.writes.operation import RETRY, CurrentState
from pgqrs.storage.writes.registry import CALLER_CURRENT_STATE, RECORD_LAST_STEP, AskedRecord
from pgqrs.storage.writes.states import CALLER_CHANGE_STATES, StateChange
from pgqrs.storage.writes.steps import StepOutcome

T = TypeVar("T")

SessionMaker: TypeAlias = Callable[[], AsyncSession]
"""A factory of sessions on the application's engine, usually an `async_sessionmaker`."""

_logger = logging.getLogger("pgqrs.storage")

_RECORD_STEP = RECORD_LAST_STEP.in_transaction()
_ASK = CALLER_CURRENT_STATE.statement()


class StepTransactions:
    """Opens the sessions of transactional steps, from `make` or on the engine of `database`."""

    def __init__(self, database: Database, caller_sessions: CallerSessions, make: SessionMaker | None) -> None:
        self._database = database
        self._caller_sessions = caller_sessions
        self._make: SessionMaker = make or async_sessionmaker(database.engine, expire_on_commit=False)

    @asynccontextmanager
    async def open(self, *, nested: bool) -> AsyncGenerator[StepTransaction]:
        """Open a session, and roll back at the end any write that is not committed.

        `nested` says that an enclosing step has a session already.
        """
        with await self._database.using():
            session = self._make()
            if not isinstance(cast(object, session), AsyncSession):
                raise SessionError(
                    f"`sessionmaker` must make an AsyncSession, got {type(session).__name__}: "
                    "give Admin an `async_sessionmaker`."
                )
            own = StepTransaction(session, self._database, self._caller_sessions, nested=nested)
            try:
                yield own
            finally:
                own.release()
                await session.close()


class StepTransaction:
    """A session that commits only with the step's outcome, which is its last statement."""

    def __init__(
        self, session: AsyncSession, database: Database, caller_sessions: CallerSessions, *, nested: bool
    ) -> None:
        self.session = session
        self.outcome: StoredOutcome | None = None
        """The recorded outcome of the step, once it is committed."""
        self.cancels: bool | None = None
        """None unless the workflow is to be cancelled; then True if the cancellation interrupts its steps."""
        self._database = database
        self._caller_sessions = caller_sessions
        self._nested = nested
        self._unmark: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._commit_guard = CommitGuard(session.sync_session)
        event.listen(session.sync_session, "after_begin", self._before_snapshot)

    async def prepare(self, unmark: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Prepare the session for the step, or raise `SessionError` if the session is unusable.

        `unmark` returns when no write of the step's running mark is under way. If an enclosing step has a session,
        a connection must become free within the database's `timeout`: the enclosing step keeps its own connection
        until this step ends.
        """
        self._unmark = unmark
        self._commit_guard.check_bind()
        if self._nested:
            await self._connect(self._database.limits.timeout)

    def _before_snapshot(self, _session: object, _transaction: object, connection: SyncConnection) -> None:
        # The outcome replaces a running mark, but not a mark that the snapshot of its transaction does not show.
        if self._unmark is not None and isolation_of(connection) not in {"read committed", "read uncommitted"}:
            await_only(self._unmark())

    def release(self) -> None:
        """Detach from the session."""
        event.remove(self.session.sync_session, "after_begin", self._before_snapshot)
        self._commit_guard.release()

    async def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the step's function, or raise its error.

        Raises `SessionError` instead if the function misused the session, even if it caught its error.
        """
        try:
            value = await body()
        except Exception as error:
            misuse = self._commit_guard.misuse()
            if misuse is None or misuse is error:
                raise
            raise misuse from error
        self._commit_guard.check()
        return value

    async def _connect(self, timeout: float) -> None:
        """Take a connection within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._caller_sessions.bind(self.session)
        except TimeoutError as error:
            raise SessionError(
                f"no connection came free within {timeout:g} s for a transactional step inside another one, which "
                "keeps its connection: give the engine a larger pool, or do not nest transactional steps."
            ) from error

    async def commit_with(self, record: StepOutcome, states: Sequence[StateChange] = ()) -> None:
        """Commit the step's writes with its outcome as the last statement, and set `outcome` to the recorded one.

        The changes of the state are written just before: the outcome fences them, too.

        If the step has an outcome already, `outcome` is that outcome, and the writes are rolled back. Raises the
        error for which the run may write no more, `SessionError`, and SQLAlchemy's errors. A cancellation does not
        interrupt a running commit: it is raised when the commit has ended. A silent server delays that by the
        database's `timeout` and its `outage_timeout`.
        """
        with session_errors():
            await self.session.flush()
        connection = await self._caller_sessions.bind(self.session)
        if states:
            await connection.execute(CALLER_CHANGE_STATES.statement(), CALLER_CHANGE_STATES.arrays(states))
        row = (await connection.execute(_RECORD_STEP, RECORD_LAST_STEP.values(record))).first()
        if row is not None:
            self.cancels = row.cancels
            await _to_the_end(self._commit(record))
        else:
            self.outcome = await _recorded_before(connection, record)

    async def _commit(self, record: StepOutcome) -> None:
        try:
            await self._commit_in_time()
        except Exception as error:
            if not _is_refusal(error):
                await self.session.invalidate()  # or the transaction might stay open, and be waited for
                self.outcome = await self._resolve(record)
            if self.outcome is None:
                raise
            _logger.warning(
                "step %r of workflow %s is committed, although its commit failed: %s (%s)",
                record.step_id,
                record.workflow_id,
                shown_error(error, is_sealed=True),  # the text may hold the parameters of a statement
                sqlstate(error),
                extra={"workflow_id": record.workflow_id, "step_id": record.step_id},
            )
        else:
            self._commit_guard.check_committed()
            self.outcome = RECORD_LAST_STEP.result_for(record, record.epoch)

    async def _commit_in_time(self) -> None:
        """Commit, and terminate the connection if the commit takes longer than the database's `timeout`."""
        self._commit_guard.allow()
        late = asyncio.get_running_loop().call_later(self._database.limits.timeout, self._commit_guard.terminate)
        try:
            await self.session.commit()
        finally:
            late.cancel()

    async def _resolve(self, record: StepOutcome) -> StoredOutcome | None:
        """Return the recorded outcome after a commit of unknown result, once the transaction has surely ended."""
        return await self._database.run_with_retries(
            lambda connection: StepRepository(connection).locked_outcome(record.workflow_id, record.step_id)
        )


def _is_refusal(error: Exception) -> bool:
    """Return True if the server reported that it did not commit; otherwise it may have committed."""
    code = sqlstate(error)
    return code is not None and not code.startswith(("08", "57"))


async def _recorded_before(connection: CallerConnection, record: StepOutcome) -> StoredOutcome:
    """Return the outcome that the step has already, or raise the error for which the run may write no more."""
    asked = CALLER_CURRENT_STATE.arrays([AskedRecord(record.workflow_id, record.step_id)])
    row = (await connection.execute(_ASK, asked)).mappings().one()
    verdict = RECORD_LAST_STEP.resolve_missing(record, from_row(CurrentState, row))
    if verdict is RETRY:
        raise DatabaseError(
            f"step {record.step_id!r} of workflow {record.workflow_id} could not be recorded, because its record "
            "was changed at the same time."
        )
    if isinstance(verdict, Exception):
        raise verdict
    return cast(StoredOutcome, verdict)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run work to its end and raise a cancellation only then, with the error of the work as its cause."""
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
