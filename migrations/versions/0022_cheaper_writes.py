"""Cheaper writes: another compression of large values, and no CHECKs on workflows and steps.

Revision 0022, after 0021; the version that knows 0021 works with it.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_VALUES = {
    "pgqrs_workflows": ("input", "output", "error"),
    "pgqrs_workflow_steps": ("output", "error"),
    "pgqrs_set_aside_steps": ("output", "error"),
    "pgqrs_messages": ("payload",),
    "pgqrs_events": ("value",),
    "pgqrs_states": ("value",),
}

_LZ4 = """
DO $compression$
BEGIN
    {lz4}
EXCEPTION WHEN feature_not_supported THEN
    {external}
END
$compression$
"""

_CHECKS = {
    "ck_pgqrs_workflows_status": ("pgqrs_workflows", "status", "PENDING RUNNING WAITING SUCCESS ERROR CANCELLED"),
    "ck_pgqrs_workflows_saga_state": ("pgqrs_workflows", "saga_state", "OPEN CANCELLED TIMED_OUT"),
    "ck_pgqrs_workflow_steps_status": ("pgqrs_workflow_steps", "status", "RUNNING SUCCESS ERROR"),
}


def upgrade(op: Operations) -> None:
    """Compress values of more than 2 kB with lz4, or not at all where the server was built without it.

    The values that are there stay as they are. Drop the CHECKs, which the server parses again in each statement.
    """
    schema = op.get_context().version_table_schema
    lz4, external = (_altered(schema, each) for each in ("COMPRESSION lz4", "STORAGE EXTERNAL"))
    script = _LZ4.format(lz4="\n    ".join(lz4), external="\n    ".join(external))
    op.execute(sa.text(script.replace(":", "\\:")))
    for name, (table, *_) in _CHECKS.items():
        op.drop_constraint(op.f(name), table, schema=schema, type_="check")
    _support(op, "0021")


def downgrade(op: Operations) -> None:
    """Compress values with the server's default method, and check rows that are written from now on."""
    schema = op.get_context().version_table_schema
    for name, (table, column, values) in _CHECKS.items():
        listed = ", ".join(f"'{each}'" for each in values.split())
        op.create_check_constraint(op.f(name), table, f"{column} IN ({listed})", schema=schema)
    for statement in (*_altered(schema, "COMPRESSION DEFAULT"), *_altered(schema, "STORAGE EXTENDED")):
        op.execute(sa.text(statement.removesuffix(";").replace(":", "\\:")))
    _support(op, "0021")


def _altered(schema: str | None, setting: str) -> Iterator[str]:
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    for table, columns in _VALUES.items():
        settings = ", ".join(f"ALTER COLUMN {column} SET {setting}" for column in columns)
        yield f"ALTER TABLE {quoted}.{table} {settings};"


def _support(op: Operations, oldest: str) -> None:
    schema = op.get_context().version_table_schema
    version = sa.table("pgqrs_version", sa.column("oldest_supported", sa.Text()), schema=schema)
    op.execute(sa.update(version).values(oldest_supported=op.inline_literal(oldest)))
