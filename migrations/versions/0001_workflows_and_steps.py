"""Workflows and their steps.

Revision 0001, after nothing.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# SQLAlchemy 2.0 has no `postgresql_with` for tables.
_STORE_WORKFLOWS = sa.DDL(
    """
    ALTER TABLE %(fullname)s SET (
        fillfactor = 70,
        autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_analyze_scale_factor = 0.05
    )
    """
)
_STORE_STEPS = sa.DDL(
    "ALTER TABLE %(fullname)s SET (fillfactor = 90, autovacuum_vacuum_insert_scale_factor = 0.1)"
)


def upgrade(op: Operations) -> None:
    """Create the tables of workflows and of steps."""
    schema = op.get_context().version_table_schema
    op.execute(_STORE_WORKFLOWS.against(_create_workflows(op, schema)))
    op.execute(_STORE_STEPS.against(_create_steps(op, schema)))


def _create_workflows(op: Operations, schema: str | None) -> sa.Table:
    return op.create_table(
        "pgqrs_workflows",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="PENDING", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.CheckConstraint(
            "status IN ('PENDING', 'RUNNING', 'SUCCESS', 'ERROR', 'CANCELLED')",
            name=op.f("ck_pgqrs_workflows_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pgqrs_workflows")),
        schema=schema,
    )


def _create_steps(op: Operations, schema: str | None) -> sa.Table:
    return op.create_table(
        "pgqrs_workflow_steps",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("reopened", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.CheckConstraint(
            "status IN ('RUNNING', 'SUCCESS', 'ERROR')", name=op.f("ck_pgqrs_workflow_steps_status")
        ),
        sa.PrimaryKeyConstraint("workflow_id", "step_id", name=op.f("pk_pgqrs_workflow_steps")),
        schema=schema,
    )


def downgrade(op: Operations) -> None:
    """Drop the tables; the schema stays, for it may hold other things."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_workflow_steps", schema=schema)
    op.drop_table("pgqrs_workflows", schema=schema)
