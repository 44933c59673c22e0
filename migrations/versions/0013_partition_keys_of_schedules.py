"""The partition keys of the workflows of schedules.

Revision 0013, after 0012.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add to schedules the partition key of their workflows."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_schedules", sa.Column("partition_key", sa.Text(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Drop the partition keys of schedules: their next workflows have none."""
    schema = op.get_context().version_table_schema
    op.drop_column("pgqrs_schedules", "partition_key", schema=schema)
