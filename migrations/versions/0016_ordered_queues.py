"""Slots that workflows hold until their end, queues that keep the order of each partition key, and its state.

Revision 0016, after 0015.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0016"
down_revision = "0015"
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
    ) + CASE WHEN pgqrs_holding.partition_key = '' THEN (
        SELECT pg_catalog.count(*) FROM SCHEMA.pgqrs_workflows w
        WHERE w.queue = pgqrs_holding.queue AND w.partition_key IS NULL AND w.executor IS NOT NULL
            AND w.slot IS NULL
    ) ELSE 0 END;
END
"""

# The holder of the key, ready or not; without one, and without a run by hand, the first in the order. The empty
# key is for the workflows without a key, which have no order. A submission in a batch does not run, but its batch.
_NEXT = """
CREATE FUNCTION SCHEMA.pgqrs_next(queue text, partition_key text) RETURNS bigint
LANGUAGE sql VOLATILE BEGIN ATOMIC
    SELECT coalesce(
        (
            SELECT w.id FROM SCHEMA.pgqrs_workflows w
            WHERE w.queue = pgqrs_next.queue AND w.slot = pgqrs_next.partition_key AND w.completed_at IS NULL
            ORDER BY w.position, w.id LIMIT 1
        ),
        (
            SELECT head.id FROM (
                SELECT w.id FROM SCHEMA.pgqrs_workflows w
                WHERE w.queue = pgqrs_next.queue AND w.partition_key = pgqrs_next.partition_key
                    AND w.position IS NOT NULL AND w.completed_at IS NULL
                    AND (w.batch_id IS NULL OR w.batch_id = w.id)
                ORDER BY w.position LIMIT 1
            ) head
            WHERE NOT EXISTS (
                SELECT FROM SCHEMA.pgqrs_workflows r
                WHERE r.queue = pgqrs_next.queue AND r.partition_key = pgqrs_next.partition_key
                    AND r.executor IS NOT NULL
            )
        )
    );
END
"""

# The ids are no order: processes reserve them in blocks. The function finds the sequence by the schema of the
# trigger's table, so it works after the schema was renamed.
_TAKE_POSITION = """
CREATE FUNCTION SCHEMA.pgqrs_take_position() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $position$
BEGIN
    NEW.position = pg_catalog.nextval(
        CAST(pg_catalog.concat(pg_catalog.quote_ident(TG_TABLE_SCHEMA), '.pgqrs_positions') AS pg_catalog.regclass)
    );
    RETURN NEW;
END
$position$
"""

_TRIGGER = """
CREATE TRIGGER pgqrs_position BEFORE INSERT ON SCHEMA.pgqrs_workflows FOR EACH ROW
WHEN (NEW.partition_key IS NOT NULL AND NEW.position IS NULL) EXECUTE FUNCTION SCHEMA.pgqrs_take_position()
"""

_SEQUENCE = "CREATE SEQUENCE SCHEMA.pgqrs_positions"

# The workflows that are there come before new ones, in the order of their ids: no better one is known.
_NUMBER = """
UPDATE SCHEMA.pgqrs_workflows w SET position = -numbered.place
FROM (
    SELECT n.id, pg_catalog.row_number() OVER (ORDER BY n.id DESC) AS place
    FROM SCHEMA.pgqrs_workflows n WHERE n.partition_key IS NOT NULL
) numbered
WHERE w.id = numbered.id
"""


def upgrade(op: Operations) -> None:
    """Add the slots and the positions of workflows, and the functions that read them."""
    schema = op.get_context().version_table_schema
    op.add_column(
        "pgqrs_queues", sa.Column("holds", sa.Text(), server_default="running", nullable=False), schema=schema
    )
    op.create_check_constraint(
        op.f("ck_pgqrs_queues_holds"), "pgqrs_queues", "holds IN ('running', 'until_end')", schema=schema
    )
    op.add_column(
        "pgqrs_queues", sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=True), schema=schema
    )
    op.add_column(
        "pgqrs_queues", sa.Column("fair", sa.Boolean(), server_default=sa.true(), nullable=False), schema=schema
    )
    op.add_column("pgqrs_workflows", sa.Column("position", sa.BigInteger(), nullable=True), schema=schema)
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
    for statement in (_SEQUENCE, _NUMBER):
        op.execute(_in_schema(statement, schema))
    op.create_index(
        "ix_pgqrs_workflows_order",
        "pgqrs_workflows",
        ["queue", "partition_key", "position"],
        schema=schema,
        postgresql_where=sa.text("position IS NOT NULL AND completed_at IS NULL"),
    )
    op.create_table(
        "pgqrs_states",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("partition_key", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=True),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workflow", "partition_key", "name", name="pk_pgqrs_states"),
        schema=schema,
    )
    for function in (_HOLDING, _HOLDING_IN_PARTITION, _NEXT, _TAKE_POSITION, _TRIGGER):
        op.execute(_in_schema(function, schema))


def downgrade(op: Operations) -> None:
    """Take the slots, the order and the states away: a workflow that waits holds no slot."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_states", schema=schema)
    op.execute(_in_schema("DROP TRIGGER pgqrs_position ON SCHEMA.pgqrs_workflows", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_take_position()", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_next(text, text)", schema))
    op.drop_index("ix_pgqrs_workflows_order", "pgqrs_workflows", schema=schema)
    op.execute(_in_schema("DROP SEQUENCE SCHEMA.pgqrs_positions", schema))
    op.drop_column("pgqrs_workflows", "position", schema=schema)
    op.drop_column("pgqrs_queues", "fair", schema=schema)
    op.drop_column("pgqrs_queues", "ordered_at", schema=schema)
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
