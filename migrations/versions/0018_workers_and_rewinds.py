"""The workers of executors, with the workflows that they claim.

Revision 0018, after 0016.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the table of the workers."""
    schema = op.get_context().version_table_schema
    op.create_table(
        "pgqrs_workers",
        sa.Column("executor", sa.Uuid(), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("names", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("batched", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("names_key", sa.BigInteger(), nullable=False),
        sa.Column("queues", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("shares", sa.ARRAY(sa.BigInteger()), nullable=True),
        sa.Column("concurrency", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("executor", "id", name="pk_pgqrs_workers"),
        schema=schema,
    )


def downgrade(op: Operations) -> None:
    """Take the table of the workers away."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_workers", schema=schema)
