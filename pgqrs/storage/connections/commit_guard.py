"""Guard of a transactional step's session: only the commit of the step may end its transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import event
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.orm import SessionTransaction

from pgqrs.errors import SessionError
from pgqrs.models import Workflow
from pgqrs.storage.connections.caller import session_errors

_Listener: TypeAlias = Callable[..., None]

_ITS_COMMIT = (
    "pgqrs commits the writes of the step with its outcome. Use `ctx.session.begin_nested()` for a savepoint, "
    "or a separate session."
)


class CommitGuard:
    """Refuses every end of a session's transaction but the step's own commit, until `release`.

    A commit through SQLAlchemy is refused before it is sent. SQL that ends the transaction is detected after its
    execution, and every later statement is refused.
    """

    def __init__(self, session: SyncSession) -> None:
        self._session = session
        self._misuse: SessionError | None = None
        self._is_allowed = False
        self._has_committed = False
        self._begun: dict[SyncConnection, _TransactionState] = {}
        self._of_session = _Listeners()
        self._of_connections = _Listeners()
        self._of_session.add(session, "before_commit", self._before_commit)
        self._of_session.add(session, "after_begin", self._after_begin)
        self._of_session.add(session, "after_transaction_end", self._after_transaction_end)

    def check_bind(self) -> None:
        """Raise `SessionError` if the session's commit would not commit the transaction of its connection."""
        with session_errors():
            bind = self._session.get_bind(mapper=Workflow.__mapper__)
        if isinstance(bind, SyncConnection) and bind.in_transaction():
            controls = self._session.join_transaction_mode == "control_fully"
            if bind.in_nested_transaction() or not controls:
                raise SessionError(
                    "Admin's sessionmaker is bound to a connection whose open transaction a commit of the session "
                    "would not commit. Bind the sessionmaker to an engine."
                )

    def check(self) -> None:
        """Raise `SessionError` if the session was misused, even if the step has caught that error."""
        if (misuse := self.misuse()) is not None:
            raise misuse

    def misuse(self) -> SessionError | None:
        """Return the error for a misuse of the session, or None."""
        if (
            self._misuse is None
            and self._session.is_active
            and any(map(_TransactionState.is_over, self._begun.values()))
        ):
            self._note_end()
        return self._misuse

    def allow(self) -> None:
        """Allow the session to commit from now on."""
        self._is_allowed = True

    def check_committed(self) -> None:
        """Raise `SessionError` if the session's `commit` has returned without a COMMIT."""
        if not self._has_committed:
            raise SessionError(
                "the session's `commit` has returned without a COMMIT, so nothing of the transactional step is "
                "committed. Give Admin a sessionmaker whose sessions commit."
            )

    def terminate(self) -> None:
        """Terminate the connections of the open transaction, without a message to the server."""
        for begun in self._begun.values():
            begun.driver.terminate()

    def release(self) -> None:
        """Remove all listeners, so that the guard has no further effect."""
        self._of_connections.clear()
        self._of_session.clear()

    def _before_commit(self, session: SyncSession) -> None:
        if not self._is_allowed and not session.in_nested_transaction():
            raise self._commit_refused()

    def _after_begin(
        self, _session: SyncSession, transaction: SessionTransaction, connection: SyncConnection
    ) -> None:
        if transaction.nested:
            return
        self._begun[connection] = _TransactionState(connection)
        for name, listener in (
            ("before_cursor_execute", self._before_cursor_execute),
            ("after_cursor_execute", self._after_cursor_execute),
            ("commit", self._on_commit),
            ("commit_twophase", self._on_commit),
            ("rollback", self._on_rollback),
        ):
            self._of_connections.add(connection, name, listener)
        if isolation_of(connection) == "autocommit":
            self._misuse = SessionError(
                "a transactional step needs a transaction, but its engine or connection is in AUTOCOMMIT. "
                "Give Admin a sessionmaker on an engine without AUTOCOMMIT."
            )
            raise self._misuse

    def _after_transaction_end(self, _session: SyncSession, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._has_committed = all(each.is_committed for each in self._begun.values())
            self._of_connections.clear()
            self._begun.clear()  # the pool has the connections, and may give them to another session

    def _before_cursor_execute(self, *_: object) -> None:
        # A step that has caught the error would continue outside of any transaction.
        if self._misuse is not None:
            raise self._misuse

    def _after_cursor_execute(self, connection: SyncConnection, *_: object) -> None:
        self._begun[connection].has_executed = True
        if not self._is_allowed:
            self.check()

    def _on_commit(self, connection: SyncConnection, *_: object) -> None:
        if not self._is_allowed:
            refused = self._commit_refused()
            # SQLAlchemy now regards its transaction as ended. It would return the connection to the pool with the
            # writes still open, and the next session would commit them.
            connection.connection.rollback()
            raise refused
        self._begun[connection].is_committed = True

    def _on_rollback(self, connection: SyncConnection) -> None:
        # After the rollback, the driver no longer knows whether the transaction was still open.
        if self._misuse is None and not self._is_allowed and self._begun[connection].left_transaction():
            self._note_end()

    def _commit_refused(self) -> SessionError:
        self._misuse = SessionError(f"a transactional step must not commit ctx.session: {_ITS_COMMIT}")
        return self._misuse

    def _note_end(self) -> None:
        self._misuse = SessionError(
            "a transactional step must not end the transaction of ctx.session, by SQL or through its connection "
            f"(its earlier writes may be committed, and its outcome is not recorded): {_ITS_COMMIT}"
        )


class _TransactionState:
    """A transaction that a session began on a connection."""

    def __init__(self, connection: SyncConnection) -> None:
        self.driver: Any = connection.connection.driver_connection
        self.has_executed = False
        """True if the server has executed a statement of the transaction."""
        self.is_committed = False
        self._connection = connection
        self._transaction = connection.get_transaction()

    def is_over(self) -> bool:
        """Return whether the transaction has ended, other than through the session."""
        return self._connection.get_transaction() is not self._transaction or self.left_transaction()

    def left_transaction(self) -> bool:
        """Return whether the server is outside of a transaction after a statement of the transaction."""
        return self.has_executed and not self.driver.is_closed() and not self.driver.is_in_transaction()


class _Listeners:
    """Event listeners that are removed together."""

    def __init__(self) -> None:
        self._added: list[tuple[object, str, _Listener]] = []

    def add(self, target: object, name: str, listener: _Listener) -> None:
        event.listen(target, name, listener)
        self._added.append((target, name, listener))

    def clear(self) -> None:
        while self._added:
            event.remove(*self._added.pop())


def isolation_of(connection: SyncConnection) -> str:
    """Return a connection's isolation level in lower case, as SQLAlchemy knows it without a query."""
    own: object = getattr(connection.connection.dbapi_connection, "isolation_level", None)
    level = own or connection.default_isolation_level or "read committed"
    return str(level).lower().replace("_", " ")
