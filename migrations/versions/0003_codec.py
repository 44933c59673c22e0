"""The codec that a workflow's payloads are written with.

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the codec's name; those that are there were written as strict JSON, which needs none."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflows", sa.Column("codec", sa.Text(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Remove the codec's name."""
    schema = op.get_context().version_table_schema
    op.drop_column("pgqrs_workflows", "codec", schema=schema)
