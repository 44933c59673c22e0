"""What the `alembic` command runs: which database and schema, and how the models are compared with them.

`Admin.install()` renders the same revisions without it; see `pgqrs/storage/schema/migrate.py`.

Revisions are frozen: they import no models. They take ``op`` as an argument and the schema from its context.
Installing renders them to SQL, so they never read from the database.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from alembic import context
from alembic.operations import MigrationScript, Operations
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateSchema

from pgqrs.alembic import include_name
from pgqrs.errors import PgqrsError
from pgqrs.models import SCHEMA, Base, Text
from pgqrs.storage.connections.engines import engine_source
from pgqrs.storage.schema.migrate import (
    VERSION_TABLE,
    begin_until_unlocked,
    create_schema,
    lock_timeout,
    take_lock,
    whole_name,
)
from pgqrs.storage.sql.expressions import SEARCH_PATH
from pgqrs.validation import check_schema

_CONNECT_TIMEOUT = 30.0


def _given(name: str) -> str | None:
    """Return what `-x name=...` or the environment says, if one of them does."""
    return context.get_x_argument(as_dictionary=True).get(name) or os.environ.get(f"PGQRS_{name.upper()}")


def _schema() -> str:
    schema = _given("schema") or SCHEMA
    check_schema(schema)
    return schema


def _engine() -> AsyncEngine:
    dsn = _given("dsn")
    if dsn is None:
        raise CommandError("which database? Set PGQRS_DSN, or give -x dsn=postgresql://...")
    engine = engine_source(dsn, timeout=_CONNECT_TIMEOUT).make()
    # First, so that SQLAlchemy takes no other schema for the default one.
    event.listen(engine.sync_engine, "connect", _set_search_path, insert=True)
    return engine


def _set_search_path(connection: Any, _record: object) -> None:
    connection.run_async(lambda driver: driver.execute(f"SET search_path = {SEARCH_PATH}"))


def _models_in(schema: str) -> MetaData:
    """Copy the models into `schema`: autogenerate knows no `schema_translate_map`."""
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata, schema=schema)
    return metadata


def _offline(schema: str) -> None:
    """Write the SQL that a migration would run."""
    context.configure(
        dialect_name="postgresql",
        # Under another style of parameters than "named" the compiler doubles each % in a name.
        dialect_opts={"paramstyle": "named"},
        version_table=VERSION_TABLE,
        version_table_schema=whole_name(schema),
    )
    with context.begin_transaction():
        if context.get_starting_revision_argument() in {None, "base"}:
            context.execute(CreateSchema(schema, if_not_exists=True))
        _run_migrations()


async def _online(schema: str) -> None:
    """Migrate, or compare, in one transaction."""
    engine = _engine()

    async def act(connection: AsyncConnection) -> None:
        await take_lock(connection, schema)
        await lock_timeout(connection)
        await connection.run_sync(_migrate, schema)

    try:
        await begin_until_unlocked(engine, schema, act)
    finally:
        await engine.dispose()


def _migrate(connection: Connection, schema: str) -> None:
    context.configure(
        connection=connection,
        target_metadata=_models_in(schema),
        version_table=VERSION_TABLE,
        version_table_schema=whole_name(schema),
        include_schemas=True,
        include_name=_ours(schema, connection.dialect.default_schema_name),
        compare_server_default=True,
        process_revision_directives=_number,
        template_args={"schema": schema},
        render_item=_render_item,
    )
    # `check`, `current` and `revision` only look.
    if not context.get_context().opts.get("dont_mutate"):
        create_schema(connection, schema)
    _run_migrations()


def _run_migrations() -> None:
    context.run_migrations(op=Operations(context.get_context()))


def _ours(schema: str, default_schema: str | None) -> Callable[..., bool]:
    """Return the filter that lets autogenerate see only the tables that an application's must not see."""

    def include(name: str | None, type_: str, parents: object) -> bool:
        if type_ == "schema":
            # The default schema goes by None.
            return (default_schema if name is None else name) == schema
        if type_ == "table":
            # Alembic leaves its own out by itself, but not from the default schema.
            return name != VERSION_TABLE and not include_name(name, type_, parents)
        return True

    return include


def _number(_context: object, _revision: object, directives: list[MigrationScript]) -> None:
    """Give a new revision the next number: they sort in their order."""
    head = context.script.get_current_head()
    for directive in directives:
        directive.rev_id = f"{int(head or 0) + 1:04}"


def _render_item(kind: str, item: object, _autogenerate: object) -> str | bool:
    """Write our type for strings as SQLAlchemy's: a revision imports nothing of ours."""
    return "sa.Text()" if kind == "type" and isinstance(item, Text) else False


def _act(schema: str) -> None:
    if context.is_offline_mode():
        _offline(schema)
    else:
        asyncio.run(_online(schema))


def _main() -> None:
    if context.config.cmd_opts is not None:
        logging.basicConfig(format="%(levelname)s %(message)s")
        logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    try:
        _act(_schema())
    except PgqrsError as error:
        # Alembic's command tells its own errors in one line, and others with a traceback.
        raise CommandError(str(error)) from error


_main()
