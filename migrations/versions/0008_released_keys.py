"""Keys that a workflow releases at its end.

Revision 0008, after 0007.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Let a workflow have its key until its end only."""
    schema = op.get_context().version_table_schema
    released = sa.Column("releases_key", sa.Boolean(), server_default=sa.false(), nullable=False)
    op.add_column("pgqrs_workflows", released, schema=schema)
    _index_keys(op, schema, "key IS NOT NULL AND (completed_at IS NULL OR NOT releases_key)")


def downgrade(op: Operations) -> None:
    """Take the released keys from their workflows; every other workflow has its key for ever."""
    schema = op.get_context().version_table_schema
    workflows = sa.table(
        "pgqrs_workflows",
        sa.column("key", sa.Text()),
        sa.column("completed_at", sa.DateTime(timezone=True)),
        sa.column("releases_key", sa.Boolean()),
        schema=schema,
    )
    released = workflows.c.releases_key & workflows.c.completed_at.is_not(None)
    op.execute(sa.update(workflows).where(released).values(key=sa.null()))
    _index_keys(op, schema, "key IS NOT NULL")
    op.drop_column("pgqrs_workflows", "releases_key", schema=schema)


def _index_keys(op: Operations, schema: str | None, condition: str) -> None:
    op.drop_index("ix_pgqrs_workflows_key", "pgqrs_workflows", schema=schema)
    op.create_index(
        "ix_pgqrs_workflows_key",
        "pgqrs_workflows",
        ["name", "key"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text(condition),
    )
