"""The workers of executors, with the workflows that they claim, and the rewinds of workflows.

Revision 0018, after 0016.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the tables of the workers, of the rewinds, and of the steps that these have set aside."""
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
    op.create_table(
        "pgqrs_rewinds",
        sa.Column("workflow_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("before_step", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("rewound_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("workflow_id", "epoch", name="pk_pgqrs_rewinds"),
        schema=schema,
    )
    op.create_table(
        "pgqrs_set_aside_steps",
        sa.Column("workflow_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rewind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("reopened", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("fingerprint", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("workflow_id", "rewind", "step_id", name="pk_pgqrs_set_aside_steps"),
        schema=schema,
    )


def downgrade(op: Operations) -> None:
    """Take the tables away; the steps that were set aside are lost."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_set_aside_steps", schema=schema)
    op.drop_table("pgqrs_rewinds", schema=schema)
    op.drop_table("pgqrs_workers", schema=schema)
