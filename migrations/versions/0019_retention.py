"""The retention of ended workflows, and the archive.

Revision 0019, after 0017.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# A worker owns no table, so the function makes the partitions with the rights of the owner of the tables. It finds
# them by the schema of the trigger's table, so it works after the schema was renamed.
_FUNCTION = """
CREATE FUNCTION SCHEMA.pgqrs_archive_month() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $month$
DECLARE
    own text = pg_catalog.quote_ident(TG_TABLE_SCHEMA);
    first timestamp = CASE WHEN TG_OP = 'INSERT' THEN NEW.month ELSE OLD.month END;
    archive text = pg_catalog.concat(own, '.pgqrs_archive');
    part text = pg_catalog.concat(archive, '_', pg_catalog.to_char(first, 'YYYY_MM'));
BEGIN
    IF TG_OP = 'INSERT' THEN
        EXECUTE pg_catalog.concat(
            'CREATE TABLE ', part, ' PARTITION OF ', archive, ' FOR VALUES FROM (',
            pg_catalog.quote_literal(pg_catalog.concat(pg_catalog.to_char(first, 'YYYY-MM-DD'), ' 00:00+00')),
            ') TO (',
            pg_catalog.quote_literal(
                pg_catalog.concat(pg_catalog.to_char(first + interval '1 month', 'YYYY-MM-DD'), ' 00:00+00')
            ),
            ')'
        );
    ELSE
        EXECUTE pg_catalog.concat('ALTER TABLE ', archive, ' DETACH PARTITION ', part);
        EXECUTE pg_catalog.concat('DROP TABLE ', part);
    END IF;
    RETURN NULL;
END
$month$
"""

_REVOKE = "REVOKE ALL ON FUNCTION SCHEMA.pgqrs_archive_month() FROM PUBLIC"

_TRIGGER = """
CREATE TRIGGER pgqrs_archive_month AFTER INSERT OR DELETE ON SCHEMA.pgqrs_archive_months FOR EACH ROW
EXECUTE FUNCTION SCHEMA.pgqrs_archive_month()
"""


def upgrade(op: Operations) -> None:
    """Add the retention, which a worker begins, and the archive, which has no month yet."""
    schema = op.get_context().version_table_schema
    time = sa.DateTime(timezone=True)
    op.create_table(
        "pgqrs_retention",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kept", sa.Double(), nullable=True),
        sa.Column("failed", sa.Double(), nullable=True),
        sa.Column("per_name", sa.JSON(), nullable=False),
        sa.Column("shortest", sa.Double(), nullable=True),
        sa.Column("archives", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("archive_kept", sa.Double(), nullable=True),
        sa.Column("set_at", time, nullable=True),
        sa.Column("starts_at", time, nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("cursor", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", time, nullable=False),
        sa.Column("began_at", time, nullable=True),
        sa.Column("ended_at", time, nullable=True),
        sa.Column("deleted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_pgqrs_retention_single")),
        sa.CheckConstraint("stage IN ('workflows', 'messages')", name=op.f("ck_pgqrs_retention_stage")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pgqrs_retention")),
        schema=schema,
    )
    op.create_table(
        "pgqrs_archive",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_at", time, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", "ended_at", name=op.f("pk_pgqrs_archive")),
        schema=schema,
        postgresql_partition_by="RANGE (ended_at)",
    )
    op.create_table(
        "pgqrs_archive_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.CheckConstraint("EXTRACT(day FROM month) = 1", name=op.f("ck_pgqrs_archive_months_first_day")),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_pgqrs_archive_months")),
        schema=schema,
    )
    for statement in (_FUNCTION, _REVOKE, _TRIGGER):
        op.execute(_in_schema(statement, schema))


def downgrade(op: Operations) -> None:
    """Drop the archive with all its documents, and the retention: workflows are kept for ever."""
    schema = op.get_context().version_table_schema
    op.drop_table("pgqrs_archive_months", schema=schema)
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_archive_month()", schema))
    op.drop_table("pgqrs_archive", schema=schema)
    op.drop_table("pgqrs_retention", schema=schema)


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    return sa.text(re.sub(r"\bSCHEMA\b", lambda _: quoted, statement).replace(":", "\\:"))
