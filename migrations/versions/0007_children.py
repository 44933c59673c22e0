"""Children of workflows, which tell their parent of their end.

Revision 0007, after 0006.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# "SCHEMA" stands for the quoted schema. The function finds its table by the schema of the trigger's table, so it
# works after the schema was renamed; a dynamic statement would be planned at each end. The addresses are those of
# `pgqrs.storage.sql.addresses`. The key is the transaction: children that end together leave one message, and a
# workflow that was resumed and ends again leaves another message, a row that is unknown to a delivery which began
# before this end.
_FUNCTION = """
CREATE FUNCTION SCHEMA.pgqrs_workflow_ended() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $ended$
#variable_conflict use_column
BEGIN
    PERFORM pg_catalog.set_config(
        'search_path',
        pg_catalog.concat('pg_catalog, ', pg_catalog.quote_ident(TG_TABLE_SCHEMA), ', pg_temp'),
        true
    );
    IF NEW.parent_id IS NOT NULL THEN
        INSERT INTO pgqrs_messages (workflow_id, address, key, payload)
        VALUES (
            NEW.parent_id,
            pg_catalog.concat(
                'c/', NEW.parent_id, '/',
                pg_catalog.replace(pg_catalog.replace(NEW.parent_step, '%', '%25'), E'\\n', '%0A')
            ),
            CAST(pg_catalog.pg_current_xact_id() AS text),
            'null'
        )
        ON CONFLICT (address, key) DO NOTHING;
    END IF;
    IF NEW.has_children THEN
        INSERT INTO pgqrs_messages (workflow_id, address, key, payload)
        VALUES (NEW.id, pg_catalog.concat('x/', NEW.id), CAST(pg_catalog.pg_current_xact_id() AS text), 'null')
        ON CONFLICT (address, key) DO NOTHING;
    END IF;
    RETURN NULL;
END
$ended$
"""

_TRIGGER = """
CREATE TRIGGER pgqrs_workflow_ended AFTER UPDATE OF completed_at ON SCHEMA.pgqrs_workflows FOR EACH ROW
WHEN (
    OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL AND (NEW.parent_id IS NOT NULL OR NEW.has_children)
)
EXECUTE FUNCTION SCHEMA.pgqrs_workflow_ended()
"""


def upgrade(op: Operations) -> None:
    """Give workflows a parent, and have their ends leave messages for the parent and for their children."""
    schema = op.get_context().version_table_schema
    for column in (
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("parent_step", sa.Text(), nullable=True),
        sa.Column("place", sa.BigInteger(), nullable=True),
        sa.Column("ends_with_parent", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("has_children", sa.Boolean(), server_default=sa.false(), nullable=False),
    ):
        op.add_column("pgqrs_workflows", column, schema=schema)
    op.create_index(
        "ix_pgqrs_workflows_place",
        "pgqrs_workflows",
        ["parent_id", "parent_step", "place"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_pgqrs_workflows_parent",
        "pgqrs_workflows",
        ["parent_id", "parent_step"],
        schema=schema,
        postgresql_where=sa.text("parent_id IS NOT NULL AND completed_at IS NULL"),
    )
    for statement in (_FUNCTION, _TRIGGER):
        op.execute(_in_schema(statement, schema))


def downgrade(op: Operations) -> None:
    """Take the parents of workflows away; a workflow that waits for its children waits no longer."""
    schema = op.get_context().version_table_schema
    op.execute(_in_schema("DROP TRIGGER pgqrs_workflow_ended ON SCHEMA.pgqrs_workflows", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_workflow_ended()", schema))
    op.drop_index("ix_pgqrs_workflows_parent", "pgqrs_workflows", schema=schema)
    op.drop_index("ix_pgqrs_workflows_place", "pgqrs_workflows", schema=schema)
    for column in ("has_children", "ends_with_parent", "place", "parent_step", "parent_id"):
        op.drop_column("pgqrs_workflows", column, schema=schema)


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    return sa.text(re.sub(r"\bSCHEMA\b", lambda _: quoted, statement).replace(":", "\\:"))
