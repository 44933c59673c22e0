"""Workflows that continue as new, with a generation for each history.

Revision 0010, after 0009.
"""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add the generation of workflows."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflows", sa.Column("generation", sa.BigInteger(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Take the generation away: the children of earlier generations keep their steps."""
    schema = op.get_context().version_table_schema
    op.drop_column("pgqrs_workflows", "generation", schema=schema)
