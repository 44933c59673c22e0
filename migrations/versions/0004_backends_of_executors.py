"""The session that holds an executor's lock, and how long its beat counts.

Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add both columns, empty: the next beat of each executor fills them."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_executors", sa.Column("backend_pid", sa.BigInteger(), nullable=True), schema=schema)
    op.add_column("pgqrs_executors", sa.Column("expiry", sa.Double(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Remove both columns."""
    schema = op.get_context().version_table_schema
    op.drop_column("pgqrs_executors", "expiry", schema=schema)
    op.drop_column("pgqrs_executors", "backend_pid", schema=schema)
