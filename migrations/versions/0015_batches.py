"""Batches: workflows that run for many submissions, and end them.

Revision 0015, after 0014.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# "SCHEMA" stands for the quoted schema. The function finds its table by the schema of the trigger's table, as that
# of 0007 does. The ids of the submissions are the input of a batch. Its output has an element for each of them.
# Its error is for all of them; or it is an array, if a codec has sealed it for each workflow: that of the batch,
# then theirs. A submission that was cancelled has ended, and one that was resumed since has left the batch. The
# rows are locked in the order of their ids before they are written. Without the setting, a plan that was made on
# an empty table would go on to read the whole table.
_FUNCTION = """
CREATE FUNCTION SCHEMA.pgqrs_batch_ended() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $ended$
#variable_conflict use_column
DECLARE
    outputs json := CASE WHEN pg_catalog.json_typeof(NEW.output) = 'array' THEN NEW.output ELSE '[]' END;
    is_sealed boolean := coalesce(pg_catalog.json_typeof(NEW.error) = 'array', false);
    errors json := CASE WHEN pg_catalog.json_typeof(NEW.error) = 'array' THEN NEW.error ELSE '[]' END;
    ids json := CASE WHEN pg_catalog.json_typeof(NEW.input) = 'array' THEN NEW.input ELSE '[]' END;
    members bigint[] := ARRAY(SELECT CAST(i.id AS bigint) FROM pg_catalog.json_array_elements_text(ids) AS i (id));
BEGIN
    PERFORM pg_catalog.set_config(
        'search_path',
        pg_catalog.concat('pg_catalog, ', pg_catalog.quote_ident(TG_TABLE_SCHEMA), ', pg_temp'),
        true
    );
    PERFORM m.id FROM pgqrs_workflows m
    WHERE m.id = ANY (members) AND m.batch_id = NEW.id AND m.completed_at IS NULL
    ORDER BY m.id FOR NO KEY UPDATE;
    UPDATE pgqrs_workflows m SET
        status = NEW.status,
        output = CASE WHEN NEW.status = 'SUCCESS' THEN coalesce(o.value, 'null') END,
        error = CASE WHEN NEW.status = 'ERROR' THEN (CASE WHEN is_sealed THEN e.value ELSE NEW.error END) END,
        claim = NULL, executor = NULL, ready_at = NULL, due_at = NULL, deadline = NULL, cancel_interrupts = NULL,
        completed_at = NEW.completed_at, updated_at = NEW.completed_at
    FROM pg_catalog.unnest(members) WITH ORDINALITY AS i (id, place)
    LEFT JOIN pg_catalog.json_array_elements(outputs) WITH ORDINALITY AS o (value, place) ON o.place = i.place
    LEFT JOIN pg_catalog.json_array_elements(errors) WITH ORDINALITY AS e (value, place) ON e.place = i.place + 1
    WHERE m.id = i.id AND m.batch_id = NEW.id AND m.completed_at IS NULL;
    UPDATE pgqrs_workflows m SET
        output = CASE WHEN NEW.status = 'SUCCESS' THEN 'null' ELSE NEW.output END,
        error = CASE WHEN is_sealed THEN errors -> 0 ELSE NEW.error END
    WHERE m.id = NEW.id;
    RETURN NULL;
END
$ended$
"""

_TRIGGER = """
CREATE TRIGGER pgqrs_batch_ended AFTER UPDATE OF completed_at ON SCHEMA.pgqrs_workflows FOR EACH ROW
WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL AND NEW.batch_id = NEW.id)
EXECUTE FUNCTION SCHEMA.pgqrs_batch_ended()
"""


def upgrade(op: Operations) -> None:
    """Give workflows a batch, whose end ends them in the same transaction."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflows", sa.Column("batch_id", sa.BigInteger(), nullable=True), schema=schema)
    for statement in (_FUNCTION, _TRIGGER):
        op.execute(_in_schema(statement, schema))


def downgrade(op: Operations) -> None:
    """Take the batches away; a submission that is in a batch is no longer ended by it."""
    schema = op.get_context().version_table_schema
    op.execute(_in_schema("DROP TRIGGER pgqrs_batch_ended ON SCHEMA.pgqrs_workflows", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.pgqrs_batch_ended()", schema))
    op.drop_column("pgqrs_workflows", "batch_id", schema=schema)


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    return sa.text(re.sub(r"\bSCHEMA\b", lambda _: quoted, statement).replace(":", "\\:"))
