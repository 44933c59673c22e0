"""Unique values of workflows, and the throttles of their starts.

Revision 0014, after 0013.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the unique values, which one workflow of a name holds at a time, and the throttles."""
    schema = op.get_context().version_table_schema
    for column in (sa.Column("unique_value", sa.Text()), sa.Column("unique_until_start", sa.Boolean())):
        op.add_column("pgqrs_workflows", column, schema=schema)
    op.create_index(
        "ix_pgqrs_workflows_unique",
        "pgqrs_workflows",
        ["name", "unique_value"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text(
            "unique_value IS NOT NULL AND completed_at IS NULL AND (epoch = 0 OR NOT unique_until_start)"
        ),
    )
    op.create_table(
        "pgqrs_throttles",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unique_value", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=True),
        sa.Column("period", sa.Double(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("free_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", "unique_value", name="pk_pgqrs_throttles"),
        schema=schema,
    )
    op.create_index("ix_pgqrs_throttles_free_at", "pgqrs_throttles", ["free_at"], schema=schema)


def downgrade(op: Operations) -> None:
    """Take the unique values from the workflows: each of them runs, beside any other one."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_throttles", schema=schema)
    op.drop_index("ix_pgqrs_workflows_unique", "pgqrs_workflows", schema=schema)
    op.drop_column("pgqrs_workflows", "unique_until_start", schema=schema)
    op.drop_column("pgqrs_workflows", "unique_value", schema=schema)
