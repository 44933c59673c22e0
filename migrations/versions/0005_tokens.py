"""Tokens that tell a claim, and a workflow, from others of the same number.

Revision 0005, after 0004.
"""

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.types import TypeEngine

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Make the claim a number, which costs less than a UUID in each write, and give workflows a token."""
    schema = op.get_context().version_table_schema
    _make_claim(op, schema, sa.BigInteger(), "bigint")
    op.add_column("pgqrs_workflows", sa.Column("token", sa.BigInteger(), nullable=True), schema=schema)


def downgrade(op: Operations) -> None:
    """Make the claim a UUID again, and take the tokens away."""
    schema = op.get_context().version_table_schema
    op.drop_column("pgqrs_workflows", "token", schema=schema)
    _make_claim(op, schema, sa.Uuid(), "uuid")


def _make_claim(op: Operations, schema: str | None, type_: TypeEngine[Any], name: str) -> None:
    """Give the claim another type; the runs that go on are fenced."""
    op.alter_column("pgqrs_workflows", "claim", type_=type_, schema=schema, postgresql_using=f"NULL::{name}")
