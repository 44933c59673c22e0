"""Sagas of workflows, whose steps are undone when the workflow is cancelled or passes its deadline.

Revision 0009, after 0008.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Give workflows the state of their sagas."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflows", sa.Column("saga_state", sa.Text(), nullable=True), schema=schema)
    op.create_check_constraint(
        op.f("ck_pgqrs_workflows_saga_state"),
        "pgqrs_workflows",
        "saga_state IN ('OPEN', 'CANCELLED', 'TIMED_OUT')",
        schema=schema,
    )


def downgrade(op: Operations) -> None:
    """Take the state of the sagas away; a cancellation then undoes nothing."""
    schema = op.get_context().version_table_schema
    op.drop_constraint(op.f("ck_pgqrs_workflows_saga_state"), "pgqrs_workflows", schema=schema, type_="check")
    op.drop_column("pgqrs_workflows", "saga_state", schema=schema)
