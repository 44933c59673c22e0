"""Attributes and tags of workflows, and the index of the workflows that have failed or were cancelled.

Revision 0017, after 0016.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the table of the attributes and the index."""
    schema = op.get_context().version_table_schema
    op.create_table(
        "pgqrs_attributes",
        sa.Column("workflow_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("attributes", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", name="pk_pgqrs_attributes"),
        schema=schema,
    )
    op.create_index(
        "ix_pgqrs_attributes_tags", "pgqrs_attributes", ["tags"], schema=schema, postgresql_using="gin"
    )
    op.create_index(
        "ix_pgqrs_attributes_attributes",
        "pgqrs_attributes",
        ["attributes"],
        schema=schema,
        postgresql_using="gin",
        postgresql_ops={"attributes": "jsonb_path_ops"},
    )
    op.create_index(
        "ix_pgqrs_workflows_failed",
        "pgqrs_workflows",
        ["id"],
        schema=schema,
        postgresql_where=sa.text("status IN ('ERROR', 'CANCELLED')"),
    )


def downgrade(op: Operations) -> None:
    """Drop the index and the table; the attributes and tags are lost."""
    schema = op.get_context().version_table_schema
    op.drop_index("ix_pgqrs_workflows_failed", "pgqrs_workflows", schema=schema)
    op.drop_table("pgqrs_attributes", schema=schema)
