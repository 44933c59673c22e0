"""Queues, timers, executors and attempts.

Revision 0002, after 0001.
"""

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATUSES = "'PENDING', 'RUNNING', 'SUCCESS', 'ERROR', 'CANCELLED'"
_STATUSES_WITH_WAITING = "'PENDING', 'RUNNING', 'WAITING', 'SUCCESS', 'ERROR', 'CANCELLED'"


def _workflow_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("priority", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("executor", sa.Uuid(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("retries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_interrupts", sa.Boolean(), nullable=True),
    )


def _step_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("fingerprint", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
    )


def upgrade(op: Operations) -> None:
    """Add what workers need: where a workflow may be claimed, who runs it, and when it is due."""
    schema = op.get_context().version_table_schema
    for column in _workflow_columns():
        op.add_column("pgqrs_workflows", column, schema=schema)
    for column in _step_columns():
        op.add_column("pgqrs_workflow_steps", column, schema=schema)
    _replace_statuses(op, schema, _STATUSES_WITH_WAITING)
    _create_indexes(op, schema)
    op.create_table(
        "pgqrs_executors",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("lock_key", sa.BigInteger(), nullable=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("suspected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pgqrs_executors")),
        schema=schema,
    )


def _replace_statuses(op: Operations, schema: str | None, statuses: str) -> None:
    name = op.f("ck_pgqrs_workflows_status")
    op.drop_constraint(name, "pgqrs_workflows", schema=schema, type_="check")
    op.create_check_constraint(name, "pgqrs_workflows", f"status IN ({statuses})", schema=schema)


def _create_indexes(op: Operations, schema: str | None) -> None:
    for column in ("due_at", "executor", "deadline"):
        op.create_index(
            f"ix_pgqrs_workflows_{column.removesuffix('_at')}",
            "pgqrs_workflows",
            [column],
            schema=schema,
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.create_index(
        "ix_pgqrs_workflows_ready",
        "pgqrs_workflows",
        ["queue", "name", sa.text("priority DESC"), "id"],
        schema=schema,
        postgresql_where=sa.text("ready_at IS NOT NULL"),
    )
    op.create_index(
        "ix_pgqrs_workflows_key",
        "pgqrs_workflows",
        ["name", "key"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("key IS NOT NULL"),
    )


def downgrade(op: Operations) -> None:
    """Take it all away again; workflows that wait are PENDING then."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_executors", schema=schema)
    workflows = sa.table("pgqrs_workflows", sa.column("status", sa.Text()), schema=schema)
    op.execute(
        workflows.update()
        .where(workflows.c.status == sa.literal_column("'WAITING'"))
        .values(status=sa.literal_column("'PENDING'"))
    )
    _replace_statuses(op, schema, _STATUSES)
    for column in _step_columns():
        op.drop_column("pgqrs_workflow_steps", column.name, schema=schema)
    for column in _workflow_columns():
        op.drop_column("pgqrs_workflows", column.name, schema=schema)
