"""The trace contexts of submissions.

Revision 0020, after 0016.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the trace context, which a submission has if a tracer was active."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflows", sa.Column("trace", sa.Text(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Drop the trace contexts."""
    op.drop_column("pgqrs_workflows", "trace", schema=op.get_context().version_table_schema)
