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
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BigInteger,
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
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema, DropTable

from pgqrs.errors import ConfigurationError, DatabaseUnavailableError, NotInstalledError, SchemaOutOfDateError
from pgqrs.models import HEAD, Text
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
_RELATIONS = table("pg_class", column("relnamespace"), column("relname", Text()), schema="pg_catalog")
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

# SQL_ASCII stores bytes unchanged, and the driver sends UTF-8.
_ENCODINGS = {"UTF8", "SQL_ASCII"}

PATIENCE = 60.0
"""Seconds to wait for another migration of the schema, by default."""

_LOOK = 0.05
"""Seconds between two attempts to take the lock of the migrations."""


async def install(engine: AsyncEngine, schema: str, patience: float = PATIENCE) -> None:
    """Bring the tables in `schema` to the newest revision, and create the schema if it is missing.

    Many tasks and processes may call it at once, any number of times; if the tables are up to date, it reads one
    row. Raises `SchemaOutOfDateError` if a newer pgqrs made the tables, `ConfigurationError` for a database that
    is not encoded in UTF-8, and `DatabaseUnavailableError` if another migration takes longer than `patience`
    seconds. The driver's errors pass unchanged.
    """
    # A snapshot older than the lock would hide the changes of the migration that had the lock before.
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        if await _start(connection, schema) is None:
            return
        await take_lock(connection, schema, patience)
        if (start := await _start(connection, schema)) is not None:
            await _upgrade(connection, schema, start)


async def verify(connection: AsyncConnection, schema: str) -> None:
    """Check that the tables in `schema` are at the revision that this version of pgqrs needs.

    Raises `NotInstalledError`, `SchemaOutOfDateError` or, for a database that is not encoded in UTF-8,
    `ConfigurationError`; the transaction stays usable after each of these errors.
    """
    current = await _current(connection, schema)
    if current is None:
        raise NotInstalledError(schema)
    if current != HEAD:
        raise SchemaOutOfDateError(current, HEAD, schema=schema, newer=current > HEAD)


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


async def _current(connection: AsyncConnection, schema: str) -> str | None:
    # A query of a missing table would abort the transaction. The catalog is queried instead of to_regclass, which
    # takes no lock and so may miss a table that another transaction has just created.
    found = await connection.execute(_FIND_TABLE, {"schema": schema, "table": VERSION_TABLE})
    encoding, is_there = found.one()
    _check_encoding(encoding)
    if not is_there:
        return None
    # As text for the driver: SQLAlchemy 2.0 fails on a % in a name.
    name = connection.dialect.identifier_preparer.format_table(_version_table(schema))
    version = await connection.exec_driver_sql(f"SELECT version_num FROM {name}")  # noqa: S608  # quoted above
    return cast("str | None", version.scalar())


def _check_encoding(encoding: str) -> None:
    if encoding not in _ENCODINGS:
        raise ConfigurationError(
            f"the database's encoding must be UTF8, got {encoding}, which lacks characters that a value or an "
            "error may have. Create a database by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
        )


async def _start(connection: AsyncConnection, schema: str) -> str | None:
    """Return the revision to upgrade from, or None if the tables are up to date."""
    try:
        await verify(connection, schema)
    except NotInstalledError:
        return BASE
    except SchemaOutOfDateError as error:
        if error.current > HEAD:
            raise
        return error.current
    return None


async def _upgrade(connection: AsyncConnection, schema: str, start: str) -> None:
    # In a thread, because importing Alembic takes 100 ms.
    statements = await asyncio.to_thread(_render, schema, start, HEAD)
    await connection.exec_driver_sql(f"SET LOCAL search_path = {SEARCH_PATH}")
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
