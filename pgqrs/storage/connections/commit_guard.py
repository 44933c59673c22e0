"""A session whose only commit is ours: whatever else would end its transaction is refused."""

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
    "its writes are committed with its outcome when it returns. Use `ctx.session.begin_nested()` for a savepoint, "
    "or a session of your own."
)


class CommitGuard:
    """Watches over what is done with a session, from its making until `release`.

    A commit that SQLAlchemy is asked for is refused before it is sent. SQL that ends the transaction is noticed
    when it has been executed, and from then on no other statement is.
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
        """Raise `SessionError` where the session's commit would leave the transaction to somebody else."""
        with session_errors():
            bind = self._session.get_bind(mapper=Workflow.__mapper__)
        if isinstance(bind, SyncConnection) and bind.in_transaction():
            controls = self._session.join_transaction_mode == "control_fully"
            if bind.in_nested_transaction() or not controls:
                raise SessionError(
                    "Admin's sessionmaker is bound to a connection that is in a transaction already, which a "
                    "commit of the session would not commit: bind it to an engine."
                )

    def check(self) -> None:
        """Raise `SessionError` where the session was misused, whether or not the step has caught that."""
        if (misuse := self.misuse()) is not None:
            raise misuse

    def misuse(self) -> SessionError | None:
        """Return what was done with the session that must not be, if something was."""
        if (
            self._misuse is None
            and self._session.is_active
            and any(map(_TransactionState.is_over, self._begun.values()))
        ):
            self._note_end()
        return self._misuse

    def allow(self) -> None:
        """Let the session commit from now on."""
        self._is_allowed = True

    def check_committed(self) -> None:
        """Raise `SessionError` where the session has said that it commits and has not."""
        if not self._has_committed:
            raise SessionError(
                "the session's `commit` has returned without a COMMIT, so nothing of the transactional step is "
                "committed: give Admin a sessionmaker whose sessions commit."
            )

    def terminate(self) -> None:
        """End the connections, without a word to the server, on which the transaction goes on."""
        for begun in self._begun.values():
            begun.driver.terminate()

    def release(self) -> None:
        """Leave the session alone from now on."""
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
                "a transactional step needs a transaction, and its engine or its connection is in AUTOCOMMIT: "
                "give Admin a sessionmaker on an engine that is not."
            )
            raise self._misuse

    def _after_transaction_end(self, _session: SyncSession, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._has_committed = all(each.is_committed for each in self._begun.values())
            self._of_connections.clear()
            self._begun.clear()  # the connections are in the pool, and may be somebody else's in a moment

    def _before_cursor_execute(self, *_: object) -> None:
        # A step that has caught what it was told goes on outside of any transaction.
        if self._misuse is not None:
            raise self._misuse

    def _after_cursor_execute(self, connection: SyncConnection, *_: object) -> None:
        self._begun[connection].has_executed = True
        if not self._is_allowed:
            self.check()

    def _on_commit(self, connection: SyncConnection, *_: object) -> None:
        if not self._is_allowed:
            refused = self._commit_refused()
            # SQLAlchemy takes its transaction for ended now, and would put the connection back into the pool with
            # the writes in it, for whoever commits next.
            connection.connection.rollback()
            raise refused
        self._begun[connection].is_committed = True

    def _on_rollback(self, connection: SyncConnection) -> None:
        # The last moment at which the driver can tell.
        if self._misuse is None and not self._is_allowed and self._begun[connection].left_transaction():
            self._note_end()

    def _commit_refused(self) -> SessionError:
        self._misuse = SessionError(f"a transactional step must not commit ctx.session: {_ITS_COMMIT}")
        return self._misuse

    def _note_end(self) -> None:
        self._misuse = SessionError(
            "a transactional step must not end the transaction of ctx.session, by SQL or through its connection; "
            f"what it wrote before may be committed, and nothing is recorded: {_ITS_COMMIT}"
        )


class _TransactionState:
    """A transaction that a session has begun on a connection."""

    def __init__(self, connection: SyncConnection) -> None:
        self.driver: Any = connection.connection.driver_connection
        self.has_executed = False
        """Whether the server has heard of it."""
        self.is_committed = False
        self._connection = connection
        self._transaction = connection.get_transaction()

    def is_over(self) -> bool:
        """Tell whether it has ended, and not through the session."""
        return self._connection.get_transaction() is not self._transaction or self.left_transaction()

    def left_transaction(self) -> bool:
        """Tell whether the server is in no transaction although it has been told to begin one."""
        return self.has_executed and not self.driver.is_closed() and not self.driver.is_in_transaction()


class _Listeners:
    """Listeners that can be taken away together."""

    def __init__(self) -> None:
        self._added: list[tuple[object, str, _Listener]] = []

    def add(self, target: object, name: str, listener: _Listener) -> None:
        """Have the listener called."""
        event.listen(target, name, listener)
        self._added.append((target, name, listener))

    def clear(self) -> None:
        """Have none of them called any more."""
        while self._added:
            event.remove(*self._added.pop())


def isolation_of(connection: SyncConnection) -> str:
    """Return a connection's isolation level, in small letters, as far as SQLAlchemy knows it without asking."""
    own: object = getattr(connection.connection.dbapi_connection, "isolation_level", None)
    level = own or connection.default_isolation_level or "read committed"
    return str(level).lower().replace("_", " ")
