"""Installs and verifies the tables, and renders the SQL of the migrations.

The revisions are the files of `migrations/`, which the `alembic` command runs too. This module renders them to
SQL, as ``alembic upgrade --sql`` does, and runs the statements on a connection of the caller's engine. Rendering
runs in a thread, needs no connection and sets none of Alembic's process-wide proxies (`alembic.op`,
`alembic.context`). So any number of tasks, event loops and threads can install at once, beside the application's
own Alembic, without a lock in this process; a lock of PostgreSQL orders them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Executable,
    MetaData,
    Table,
    bindparam,
    column,
    exists,
    quoted_name,
    select,
    table,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema, DropTable

from pgqrs.errors import ConfigurationError, DatabaseUnavailableError, NotInstalledError, SchemaOutOfDateError
from pgqrs.models import HEAD, OLDEST_SUPPORTED, Text
from pgqrs.storage.connections.errors import driver_error, is_lock_conflict
from pgqrs.storage.queries.executors import lock_holder
from pgqrs.storage.sql.expressions import SEARCH_PATH, pg
from pgqrs.validation import check_schema

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationStep
    from alembic.script import ScriptDirectory

_logger = logging.getLogger("pgqrs.storage")

VERSION_TABLE = "pgqrs_version"
"""Name of the table that holds the revision, in the same schema as the other tables."""

BASE = "base"
"""Alembic's name for the revision before the first revision."""

# SQLAlchemy's inspector compares by `name = varchar`; see `pgqrs.storage.sql.expressions`.
_SCHEMAS = table("pg_namespace", column("oid"), column("nspname", Text()), schema="pg_catalog")
_RELATIONS = table(
    "pg_class", column("oid"), column("relnamespace"), column("relname", Text()), schema="pg_catalog"
)
_LOCKS = table("pg_locks", column("pid"), column("relation"), column("granted", Boolean()), schema="pg_catalog")
_FIND_SCHEMA = select(_SCHEMAS.c.oid).where(_SCHEMAS.c.nspname == bindparam("schema", type_=Text()))
_FIND_TABLE = select(
    pg.getdatabaseencoding(type_=Text()).label("encoding"),
    exists()
    .where(
        _SCHEMAS.c.oid == _RELATIONS.c.relnamespace,
        _SCHEMAS.c.nspname == bindparam("schema", type_=Text()),
        _RELATIONS.c.relname == bindparam("table", type_=Text()),
    )
    .label("is_there"),
)

_FIND_LOCKERS = (
    select(_LOCKS.c.pid)
    .distinct()
    .join_from(_LOCKS, _RELATIONS, _LOCKS.c.relation == _RELATIONS.c.oid)
    .join(_SCHEMAS, _SCHEMAS.c.oid == _RELATIONS.c.relnamespace)
    .where(_SCHEMAS.c.nspname == bindparam("schema", type_=Text()), _LOCKS.c.granted)
    .order_by(_LOCKS.c.pid)
)
_OLDEST = "pg_catalog.to_jsonb(version) OPERATOR(pg_catalog.->>) 'oldest_supported'"

# SQL_ASCII stores bytes unchanged, and the driver sends UTF-8.
_ENCODINGS = {"UTF8", "SQL_ASCII"}

PATIENCE = 60.0
"""Seconds to wait for another migration of the schema, by default."""

_LOOK = 0.05
"""Seconds between two attempts to take the lock of the migrations."""

LOCK_TIMEOUT = 1.0
"""Seconds that a statement of a migration waits for the lock of a table.

Every statement that comes later to the table waits behind the migration, the reading ones too.
"""

_PAUSE = 0.5
"""Seconds between two attempts to migrate, in which the statements that waited behind the first one go on."""


class _Installed(NamedTuple):
    """The row of the revision: that of the tables, and the newest that the oldest supported version knows."""

    revision: str
    oldest_supported: str | None

    def is_supported(self) -> bool:
        """Return whether this version of pgqrs works with the tables."""
        if self.revision <= HEAD:
            return self.revision >= OLDEST_SUPPORTED
        return self.oldest_supported is not None and self.oldest_supported <= HEAD


async def install(engine: AsyncEngine, schema: str, patience: float = PATIENCE) -> None:
    """Bring the tables in `schema` to the newest revision, and create the schema if it is missing.

    Many tasks and processes may call it at once, any number of times, beside working processes; if the tables are
    up to date, or newer and supported, it reads one row. A migration is one transaction. It waits at most
    `LOCK_TIMEOUT` for each table, and begins anew after a pause. Raises `SchemaOutOfDateError` if the tables are
    too new for this version, `ConfigurationError` for a database that is not encoded in UTF-8, and
    `DatabaseUnavailableError` if another migration, or a lock of a table, takes longer than `patience` seconds.
    The driver's other errors pass unchanged.
    """

    async def act(connection: AsyncConnection) -> None:
        if await _start(connection, schema) is None:
            return
        await take_lock(connection, schema, patience)
        if (start := await _start(connection, schema)) is not None:
            await _upgrade(connection, schema, start)

    await begin_until_unlocked(engine, schema, act, patience)


async def begin_until_unlocked(
    engine: AsyncEngine,
    schema: str,
    act: Callable[[AsyncConnection], Awaitable[None]],
    patience: float = PATIENCE,
) -> None:
    """Migrate by `act` in a transaction; begin anew while a lock of another session stands in the way.

    A lock is in the way if `act` has set `lock_timeout`, or if the server has found a deadlock. Raises
    `DatabaseUnavailableError` after `patience` seconds.
    """
    # A snapshot older than the lock would hide the changes of the migration that had the lock before.
    engine = engine.execution_options(isolation_level="READ COMMITTED")
    give_up_at = monotonic() + patience
    while True:
        try:
            async with engine.begin() as connection:
                return await act(connection)
        except DBAPIError as error:
            if not is_lock_conflict(error):
                raise
            if monotonic() >= give_up_at:
                raise await _locked_out(engine, schema, patience) from driver_error(error)
        _logger.info("pgqrs: the tables in the schema %r are locked; the migration is tried again", schema)
        await asyncio.sleep(_PAUSE)


async def _locked_out(engine: AsyncEngine, schema: str, patience: float) -> DatabaseUnavailableError:
    async with engine.connect() as connection:
        pids = (await connection.scalars(_FIND_LOCKERS, {"schema": schema})).all()
    lockers = ", ".join(map(str, pids)) or "none any more"
    return DatabaseUnavailableError(
        f"the tables in the schema {schema!r} were not migrated: they could not be locked for {patience:g} s. "
        f"Sessions that hold locks of these tables: {lockers}. Wait for their transactions, or end them: "
        "`SELECT pg_catalog.pg_terminate_backend(pid)`. Then call `install` again."
    )


async def verify(connection: AsyncConnection, schema: str) -> str:
    """Check that this version of pgqrs works with the tables in `schema`, and return their revision.

    Raises `NotInstalledError`, `SchemaOutOfDateError` or, for a database that is not encoded in UTF-8,
    `ConfigurationError`; the transaction stays usable after each of these errors.
    """
    installed = await _installed(connection, schema)
    if installed is None:
        raise NotInstalledError(schema)
    revision = installed.revision
    if not installed.is_supported():
        raise SchemaOutOfDateError(revision, HEAD, schema=schema, newer=revision > HEAD)
    return revision


def sql_script(schema: str, *, start: str = BASE, end: str = HEAD) -> str:
    """Return the SQL that brings the tables in `schema` from the revision `start` to `end`, up or down.

    The SQL also writes the revision's row, so that `install` finds nothing to do at the newest revision. It has
    neither BEGIN nor COMMIT: run it in one transaction (``psql -1``), or in a revision of the application. It is
    empty if `start` equals `end`; down to "base", it drops the tables and keeps the schema. Raises
    `ConfigurationError` for an invalid schema name or an unknown revision.
    """
    check_schema(schema)
    first = [CreateSchema(schema, if_not_exists=True)] if start == BASE else []
    # Newer versions of Alembic leave the version table, empty.
    last = [DropTable(_version_table(schema), if_exists=True)] if end == BASE else []
    return "\n\n".join(_render(schema, start, end, first, last))


async def take_lock(connection: AsyncConnection, schema: str, patience: float = PATIENCE) -> None:
    """Wait until no other session migrates `schema`, and lock out other sessions until the transaction ends.

    Raises `DatabaseUnavailableError` after `patience` seconds: every role of the database can hold the lock.
    """
    key = pg.hashtextextended(f"pgqrs migrates {schema}", 0, type_=BigInteger())
    give_up_at = monotonic() + patience
    while not await connection.scalar(select(pg.pg_try_advisory_xact_lock(key))):
        if monotonic() >= give_up_at:
            pid = await connection.scalar(lock_holder(key))
            raise DatabaseUnavailableError(
                f"another session, of pid {pid}, has been migrating the schema {schema!r} for more than "
                f"{patience:g} s. Wait for it, or end it: `SELECT pg_catalog.pg_terminate_backend({pid})`."
            )
        await asyncio.sleep(_LOOK)


def create_schema(connection: Connection, schema: str) -> None:
    """Create `schema` if it is missing; an existing schema requires no right to create schemas."""
    if connection.scalar(_FIND_SCHEMA, {"schema": schema}) is None:
        connection.execute(CreateSchema(schema))


def whole_name(schema: str) -> quoted_name:
    """Return `schema` as a single name for Alembic, which splits a plain string at its dots."""
    return quoted_name(schema, quote=None)


async def lock_timeout(connection: AsyncConnection) -> None:
    """Limit how long a statement of the transaction waits for the lock of a table."""
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'")


async def _installed(connection: AsyncConnection, schema: str) -> _Installed | None:
    # A query of a missing table would abort the transaction. The catalog is queried instead of to_regclass, which
    # takes no lock and so may miss a table that another transaction has just created.
    found = await connection.execute(_FIND_TABLE, {"schema": schema, "table": VERSION_TABLE})
    encoding, is_there = found.one()
    _check_encoding(encoding)
    if not is_there:
        return None
    # As text for the driver: SQLAlchemy 2.0 fails on a % in a name.
    name = connection.dialect.identifier_preparer.format_table(_version_table(schema))
    # As JSON, because the column is missing before revision 0021.
    query = f"SELECT version_num, {_OLDEST} AS oldest_supported FROM {name} AS version"  # noqa: S608  # quoted above
    row = (await connection.exec_driver_sql(query)).one_or_none()
    return None if row is None else _Installed(row.version_num, row.oldest_supported)


def _check_encoding(encoding: str) -> None:
    if encoding not in _ENCODINGS:
        raise ConfigurationError(
            f"the database's encoding must be UTF8, got {encoding}, which lacks characters that a value or an "
            "error may have. Create a database by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
        )


async def _start(connection: AsyncConnection, schema: str) -> str | None:
    """Return the revision to upgrade from, or None if the tables are up to date, or newer."""
    try:
        revision = await verify(connection, schema)
    except NotInstalledError:
        return BASE
    except SchemaOutOfDateError as error:
        if error.current > HEAD:
            raise
        revision = error.current
    return revision if revision < HEAD else None


async def _upgrade(connection: AsyncConnection, schema: str, start: str) -> None:
    # In a thread, because importing Alembic takes 100 ms.
    statements = await asyncio.to_thread(_render, schema, start, HEAD)
    await connection.exec_driver_sql(f"SET LOCAL search_path = {SEARCH_PATH}")
    await lock_timeout(connection)
    await connection.run_sync(create_schema, schema)
    for statement in statements:
        if not statement.startswith("--"):
            await connection.exec_driver_sql(statement)
    _logger.info("pgqrs: upgraded the tables in the schema %r from revision %s to %s", schema, start, HEAD)


def _version_table(schema: str) -> Table:
    return Table(VERSION_TABLE, MetaData(), schema=schema)


class _Statements(list[str]):
    """A file-like object for Alembic, which writes one statement at a time."""

    def write(self, statement: str) -> None:
        # The column is a VARCHAR, a type without operators of its own; see `pgqrs.storage.sql.expressions`.
        self.append(statement.strip().replace(".version_num = '", ".version_num::text = '"))

    def flush(self) -> None:
        pass


def _render(
    schema: str, start: str, end: str, first: Sequence[Executable] = (), last: Sequence[Executable] = ()
) -> list[str]:
    """Return the statements `first`, the statements from the revision `start` to `end`, and `last`.

    The list is empty if `start` equals `end`.
    """
    with _alembic_silent():
        return _rendered(schema, start, end, first, last)


@contextmanager
def _alembic_silent() -> Generator[None]:
    """Suppress Alembic's log in this thread only: another thread may run migrations of the application."""
    here = threading.get_ident()

    def is_not_ours(record: logging.LogRecord) -> bool:
        return record.thread != here

    loggers = [logging.getLogger(f"alembic.runtime.{name}") for name in ("migration", "plugins")]
    for logger in loggers:
        logger.addFilter(is_not_ours)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_not_ours)


def _rendered(
    schema: str, start: str, end: str, first: Sequence[Executable], last: Sequence[Executable]
) -> list[str]:
    from alembic.operations import Operations  # noqa: PLC0415 - the import takes 100 ms, and few processes need it

    statements = _Statements()
    if not (steps := _steps(start, end)):
        return statements
    context = _rendering(schema, start, steps, statements)
    for statement in first:
        context.execute(statement)
    begin = len(statements)
    context.run_migrations(op=Operations(context))
    if start == BASE:
        statements[begin] = _where_missing(statements[begin])
    for statement in last:
        context.execute(statement)
    return statements


def _where_missing(create_version_table: str) -> str:
    # `alembic downgrade base` leaves the version table, empty.
    return create_version_table.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)


def _rendering(schema: str, start: str, steps: list[MigrationStep], output: _Statements) -> MigrationContext:
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as above

    def migrate(_heads: object, _context: object) -> list[MigrationStep]:
        return steps

    opts: dict[str, Any] = {
        "as_sql": True,
        "fn": migrate,
        "output_buffer": output,
        "starting_rev": start,
        "transactional_ddl": False,
        "version_table": VERSION_TABLE,
        "version_table_schema": whole_name(schema),
    }
    # With a paramstyle other than "named", the compiler doubles each % in a name.
    return MigrationContext.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=opts)


def _steps(start: str, end: str) -> list[MigrationStep]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    directory = ScriptDirectory(str(_migrations_folder()))
    known = [BASE, *sorted(script.revision for script in directory.walk_revisions())]
    _check_revisions(known, start, end)
    if known.index(end) < known.index(start):
        return _steps_down(directory, start, end)
    return _steps_up(directory, start, end)


def _steps_up(directory: ScriptDirectory, start: str, end: str) -> list[MigrationStep]:
    from alembic.runtime.migration import MigrationStep  # noqa: PLC0415 - as above

    upgrade = partial(MigrationStep.upgrade_from_script, directory.revision_map)
    return [upgrade(script) for script in reversed(list(directory.iterate_revisions(end, start)))]


def _steps_down(directory: ScriptDirectory, start: str, end: str) -> list[MigrationStep]:
    from alembic.runtime.migration import MigrationStep  # noqa: PLC0415 - as above

    downgrade = partial(MigrationStep.downgrade_from_script, directory.revision_map)
    return [downgrade(script) for script in directory.iterate_revisions(start, end)]


def _check_revisions(known: list[str], *revisions: str) -> None:
    for revision in revisions:
        if revision not in known:
            raise ConfigurationError(f"the revision must be one of {', '.join(known)}, got {revision!r}.")


def _migrations_folder() -> Path:
    """Return the folder of the revisions: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"
