"""Queues with limits, and the partition keys of workflows.

Revision 0012, after 0011.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# A VOLATILE function reads with a snapshot of its own, which is taken when it is called. A claim calls these after
# it has locked the queue, so they count the runs of each claim before it. Its own snapshot is older than its lock.
_RUNNING = """
CREATE FUNCTION SCHEMA.pgqrs_running(queue text) RETURNS bigint LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
    WHERE w.queue = pgqrs_running.queue AND w.executor IS NOT NULL;
END
"""

_RUNNING_IN_PARTITION = """
CREATE FUNCTION SCHEMA.pgqrs_running(queue text, partition_key text) RETURNS bigint
LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
    WHERE w.queue = pgqrs_running.queue AND w.partition_key = pgqrs_running.partition_key
        AND w.executor IS NOT NULL;
END
"""


_FREE_AT = """
CREATE FUNCTION SCHEMA.pgqrs_free_at(queue text, partition_key text) RETURNS timestamptz
LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT r.free_at FROM SCHEMA.pgqrs_rates r
    WHERE r.queue = pgqrs_free_at.queue AND r.partition_key = pgqrs_free_at.partition_key;
END
"""


def upgrade(op: Operations) -> None:
    """Add the queues with limits, the partition keys, and the functions that read them."""
    schema = op.get_context().version_table_schema
    op.create_table(
        "pgqrs_queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.BigInteger(), nullable=True),
        sa.Column("partition_concurrency", sa.BigInteger(), nullable=True),
        sa.Column("rate", sa.JSON(), nullable=True),
        sa.Column("partition_rate", sa.JSON(), nullable=True),
        sa.Column("weights", sa.JSON(), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_pgqrs_queues"),
        schema=schema,
    )
    op.create_table(
        "pgqrs_rates",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("partition_key", sa.Text(collation="C"), nullable=False),
        sa.Column("free_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("queue", "partition_key", name="pk_pgqrs_rates"),
        schema=schema,
    )
    op.create_index("ix_pgqrs_rates_free_at", "pgqrs_rates", ["free_at"], schema=schema)
    # The order of the keys is the same for each locale, and does not change with a library of the system.
    op.add_column(
        "pgqrs_workflows", sa.Column("partition_key", sa.Text(collation="C"), nullable=True), schema=schema
    )
    op.create_index(
        "ix_pgqrs_workflows_partition",
        "pgqrs_workflows",
        ["queue", "name", "partition_key", sa.text("priority DESC"), "id"],
        schema=schema,
        postgresql_where=sa.text("ready_at IS NOT NULL AND partition_key IS NOT NULL"),
    )
    op.create_index(
        "ix_pgqrs_workflows_running",
        "pgqrs_workflows",
        ["queue", "partition_key"],
        schema=schema,
        postgresql_where=sa.text("executor IS NOT NULL AND partition_key IS NOT NULL"),
    )
    _index_executors(op, schema, ["executor", "queue"])
    for function in (_RUNNING, _RUNNING_IN_PARTITION, _FREE_AT):
        op.execute(_in_schema(function, schema))


def downgrade(op: Operations) -> None:
    """Take the limits away: each queue is claimed without a limit, also one that was paused."""
    schema = op.get_context().version_table_schema
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_free_at(text, text)", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_running(text, text)", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_running(text)", schema))
    _index_executors(op, schema, ["executor"])
    op.drop_index("ix_pgqrs_workflows_running", "pgqrs_workflows", schema=schema)
    op.drop_index("ix_pgqrs_workflows_partition", "pgqrs_workflows", schema=schema)
    op.drop_column("pgqrs_workflows", "partition_key", schema=schema)
    op.drop_table("pgqrs_rates", schema=schema)
    op.drop_table("pgqrs_queues", schema=schema)


def _index_executors(op: Operations, schema: str | None, columns: list[str]) -> None:
    """Make the index of the live runs again: the runs of a queue are counted in it."""
    op.drop_index("ix_pgqrs_workflows_executor", "pgqrs_workflows", schema=schema)
    op.create_index(
        "ix_pgqrs_workflows_executor",
        "pgqrs_workflows",
        columns,
        schema=schema,
        postgresql_where=sa.text("executor IS NOT NULL"),
    )


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    return sa.text(re.sub(r"\bSCHEMA\b", lambda _: quoted, statement).replace(":", "\\:"))
