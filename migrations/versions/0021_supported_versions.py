"""The oldest version of pgqrs that works with the tables.

Revision 0021, after 0020. Each later revision writes the newest revision that this oldest version knows.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the column beside the revision: the versions before this one look at the revision alone."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_version", sa.Column("oldest_supported", sa.Text(), nullable=True), schema=schema)
    version = sa.table("pgqrs_version", sa.column("oldest_supported", sa.Text()), schema=schema)
    op.execute(sa.update(version).values(oldest_supported=op.inline_literal("0021")))


def downgrade(op: Operations) -> None:
    """Drop the column."""
    op.drop_column("pgqrs_version", "oldest_supported", schema=op.get_context().version_table_schema)
