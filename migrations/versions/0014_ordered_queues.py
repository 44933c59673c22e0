"""Slots that workflows hold until their end.

Revision 0014, after 0012.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None

# Like `pgqrs_running`, these functions are VOLATILE: each reads with a snapshot that is newer than the lock of the
# claim that calls it. A run that was started by hand counts while it runs.
_HOLDING = """
CREATE FUNCTION SCHEMA.pgqrs_holding(queue text) RETURNS bigint LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT (
        SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
        WHERE w.queue = pgqrs_holding.queue AND w.slot IS NOT NULL AND w.completed_at IS NULL
    ) + (
        SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
        WHERE w.queue = pgqrs_holding.queue AND w.executor IS NOT NULL AND w.slot IS NULL
    );
END
"""

_HOLDING_IN_PARTITION = """
CREATE FUNCTION SCHEMA.pgqrs_holding(queue text, partition_key text) RETURNS bigint
LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT (
        SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
        WHERE w.queue = pgqrs_holding.queue AND w.slot = pgqrs_holding.partition_key AND w.completed_at IS NULL
    ) + (
        SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
        WHERE w.queue = pgqrs_holding.queue AND w.partition_key = pgqrs_holding.partition_key
            AND w.executor IS NOT NULL AND w.slot IS NULL
    );
END
"""


def upgrade(op: Operations) -> None:
    """Add the slots of workflows, and the functions that count them."""
    schema = op.get_context().version_table_schema
    op.add_column(
        "pgqrs_queues", sa.Column("holds", sa.Text(), server_default="running", nullable=False), schema=schema
    )
    op.create_check_constraint(
        op.f("ck_pgqrs_queues_holds"), "pgqrs_queues", "holds IN ('running', 'until_end')", schema=schema
    )
    op.add_column("pgqrs_workflows", sa.Column("slot", sa.Text(collation="C"), nullable=True), schema=schema)
    op.create_index(
        "ix_pgqrs_workflows_holders",
        "pgqrs_workflows",
        ["queue", "slot", "id"],
        schema=schema,
        postgresql_where=sa.text("slot IS NOT NULL AND completed_at IS NULL"),
    )
    op.create_index(
        "ix_pgqrs_workflows_ready_holders",
        "pgqrs_workflows",
        ["queue", "name", "ready_at"],
        schema=schema,
        postgresql_where=sa.text("slot IS NOT NULL AND ready_at IS NOT NULL"),
    )
    for function in (_HOLDING, _HOLDING_IN_PARTITION):
        op.execute(_in_schema(function, schema))


def downgrade(op: Operations) -> None:
    """Take the slots away: a workflow that waits holds none."""
    schema = op.get_context().version_table_schema
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_holding(text, text)", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_holding(text)", schema))
    op.drop_index("ix_pgqrs_workflows_ready_holders", "pgqrs_workflows", schema=schema)
    op.drop_index("ix_pgqrs_workflows_holders", "pgqrs_workflows", schema=schema)
    op.drop_column("pgqrs_workflows", "slot", schema=schema)
    op.drop_constraint(op.f("ck_pgqrs_queues_holds"), "pgqrs_queues", schema=schema)
    op.drop_column("pgqrs_queues", "holds", schema=schema)


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    return sa.text(re.sub(r"\bSCHEMA\b", lambda _: quoted, statement).replace(":", "\\:"))
