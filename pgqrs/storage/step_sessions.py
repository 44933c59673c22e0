"""The session of a transactional step: what the step writes through it and its outcome commit together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from pgqrs.errors import DatabaseError, SessionError
from pgqrs.storage.borrowed import Borrowed
from pgqrs.storage.database import Database
from pgqrs.storage.faults import sqlstate
from pgqrs.storage.kinds import AGAIN, Standing
from pgqrs.storage.lending import Lending
from pgqrs.storage.repositories import StepRepository
from pgqrs.storage.writes import ASKED, OUTCOME
from pgqrs.types import Outcome, StepOutcome

SessionMaker: TypeAlias = Callable[[], AsyncSession]
"""What makes sessions on the application's engine: an `async_sessionmaker`, mostly."""

_logger = logging.getLogger("pgqrs")

_RECORD = OUTCOME.in_transaction()
_ASK = ASKED.statement()


class StepSessions:
    """Makes the sessions of transactional steps, with `make` or on the library's own engine."""

    def __init__(self, database: Database, lending: Lending, make: SessionMaker | None) -> None:
        self._database = database
        self._lending = lending
        self._make: SessionMaker = make or async_sessionmaker(database.engine, expire_on_commit=False)

    @asynccontextmanager
    async def open(self, *, nested: bool) -> AsyncGenerator[StepSession]:
        """Open a session, and roll back in the end what is not committed.

        `nested` tells that a step around it has one already: then a connection must be free within the database's
        `timeout`, or `SessionError` is raised, for nobody else would ever give one back.
        """
        with await self._database.in_use():
            session = self._make()
            if not isinstance(cast(object, session), AsyncSession):
                raise SessionError(f"Admin's sessionmaker makes a {type(session).__name__}, not an AsyncSession.")
            own = StepSession(session, self._database, self._lending)
            try:
                if nested:
                    await own.connect(self._database.limits.timeout)
                yield own
            finally:
                await session.close()


class StepSession:
    """A session whose only commit is that of the step's outcome, its last statement."""

    def __init__(self, session: AsyncSession, database: Database, lending: Lending) -> None:
        self.session = session
        self.misuse: SessionError | None = None
        """What the step did that it must not do, if it did."""
        self.outcome: Outcome | None = None
        """What is recorded of the step, once that is committed."""
        self._database = database
        self._lending = lending
        self._may_commit = False
        event.listen(session.sync_session, "before_commit", self._before_commit)

    def _before_commit(self, session: SyncSession) -> None:
        if not self._may_commit and not session.in_nested_transaction():
            self.misuse = SessionError(
                "a transactional step must not commit ctx.session: its writes are committed with its outcome when "
                "it returns. Use `ctx.session.begin_nested()` for a savepoint, or a session of your own."
            )
            raise self.misuse

    async def connect(self, timeout: float) -> None:
        """Take a connection, within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._lending.borrow(self.session)
        except TimeoutError as error:
            raise SessionError(
                f"no connection came free within {timeout:g} s for a transactional step inside another, which "
                "keeps its own meanwhile: give the engine a larger pool, or do not nest them."
            ) from error

    async def commit_with(self, record: StepOutcome) -> None:
        """Commit what was written with the outcome as the last statement; `outcome` is what is recorded then.

        Where the step has an outcome already, that is it, and the writes are rolled back. Raises why the run
        may write no more, `SessionError`, and SQLAlchemy's errors. A cancellation does not end a commit on its
        way: it is raised when that is over.
        """
        if self.misuse is not None:
            raise self.misuse
        await self.session.flush()
        borrowed = await self._lending.borrow(self.session)
        await _check_is_transaction(borrowed)
        if await _record(borrowed, record):
            await _to_the_end(self._commit(record))
        else:
            self.outcome = await _recorded_before(borrowed, record)

    async def _commit(self, record: StepOutcome) -> None:
        self._may_commit = True
        try:
            await self.session.commit()
        except Exception as error:
            if not _is_refusal(error):
                await self.session.invalidate()  # or the transaction might go on, and be waited for
                self.outcome = await self._settled(record)
            if self.outcome is None:
                raise
            _logger.warning(
                "step %r of workflow %s is committed, although its commit failed: %s",
                record.step_id,
                record.workflow_id,
                error,
            )
        else:
            self.outcome = OUTCOME.answered(record, record.epoch)

    async def _settled(self, record: StepOutcome) -> Outcome | None:
        """Return what is recorded once the transaction has certainly ended, though it was not heard how."""
        return await self._database.patiently(
            lambda connection: StepRepository(connection).settled(record.workflow_id, record.step_id)
        )


def _is_refusal(error: Exception) -> bool:
    """Tell whether the server has answered that it did not commit; otherwise it may have."""
    code = sqlstate(error)
    return code is not None and not code.startswith(("08", "57"))


async def _record(borrowed: Borrowed, record: StepOutcome) -> bool:
    return (await borrowed.execute(_RECORD, OUTCOME.values(record))).first() is not None


async def _recorded_before(borrowed: Borrowed, record: StepOutcome) -> Outcome:
    """Return the outcome that the step has already; raise why the run may write no more."""
    asked = ASKED.arrays([(record.workflow_id, record.step_id)])
    row: Any = (await borrowed.execute(_ASK, asked)).one()
    verdict = OUTCOME.judge(record, Standing(*row[2:]))
    if verdict is AGAIN:
        raise DatabaseError(
            f"step {record.step_id!r} of workflow {record.workflow_id} could not be recorded, because its record "
            "was changed at the same time."
        )
    if isinstance(verdict, Exception):
        raise verdict
    return cast(Outcome, verdict)


async def _check_is_transaction(borrowed: Borrowed) -> None:
    raw = await borrowed.connection.get_raw_connection()
    if getattr(raw.dbapi_connection, "isolation_level", None) == "autocommit":
        raise SessionError(
            "a transactional step needs a transaction, and its engine is in AUTOCOMMIT: give Admin a sessionmaker "
            "on an engine that is not."
        )


async def _to_the_end(work: Any) -> None:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
