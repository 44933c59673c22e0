"""Schedules, which start workflows at the times of a rule.

Revision 0011, after 0010.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_LIVE = "schedule IS NOT NULL AND completed_at IS NULL"


def upgrade(op: Operations) -> None:
    """Add the table of schedules, and to workflows their schedule."""
    schema = op.get_context().version_table_schema
    op.create_table(
        "pgqrs_schedules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("codec", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=True),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("zone", sa.Text(), nullable=True),
        sa.Column("every", sa.Double(), nullable=True),
        sa.Column("anchor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catchup", sa.Text(), nullable=False),
        sa.Column("within", sa.Double(), nullable=False),
        sa.Column("jitter", sa.Double(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_for", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "overlap IN ('skip', 'queue', 'allow', 'cancel')", name=op.f("ck_pgqrs_schedules_overlap")
        ),
        sa.CheckConstraint("catchup IN ('last', 'all', 'none')", name=op.f("ck_pgqrs_schedules_catchup")),
        sa.CheckConstraint("(cron IS NULL) <> (every IS NULL)", name=op.f("ck_pgqrs_schedules_rule")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pgqrs_schedules")),
        schema=schema,
    )
    for name, columns in (("next", ["queue", "workflow", "next_at"]), ("queued", ["queue", "workflow"])):
        column = "next_at" if name == "next" else "queued_for"
        op.create_index(
            f"ix_pgqrs_schedules_{name}",
            "pgqrs_schedules",
            columns,
            schema=schema,
            postgresql_where=sa.text(f"paused_at IS NULL AND {column} IS NOT NULL"),
        )
    op.add_column("pgqrs_workflows", sa.Column("schedule", sa.Text(), nullable=True), schema=schema)
    op.add_column(
        "pgqrs_workflows", sa.Column("scheduled_for", sa.DateTime(timezone=True), nullable=True), schema=schema
    )
    op.create_index(
        "ix_pgqrs_workflows_schedule",
        "pgqrs_workflows",
        ["schedule"],
        schema=schema,
        postgresql_where=sa.text(_LIVE),
    )


def downgrade(op: Operations) -> None:
    """Drop the schedules; the workflows that they have started stay."""
    schema = op.get_context().version_table_schema
    op.drop_index("ix_pgqrs_workflows_schedule", "pgqrs_workflows", schema=schema)
    op.drop_column("pgqrs_workflows", "scheduled_for", schema=schema)
    op.drop_column("pgqrs_workflows", "schedule", schema=schema)
    op.drop_table("pgqrs_schedules", schema=schema)
