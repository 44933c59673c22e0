"""Messages to workflows, the waits of parked workflows for messages, and the events that workflows set.

Revision 0006, after 0005.
"""

import re

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


# "SCHEMA" stands for the quoted schema, "MESSAGES" for the name of its messages as a string, "OWN" for the present
# name of the schema, "PATH" for the statement that adds it to the search path of the call, and "CHANNEL" for the
# channel of its notifications. The payload of the notification announces messages; see
# `pgqrs.storage.sql.channels`. The default of `messages` is stored as an oid, so the functions find their schema
# after it was renamed.
_OWN = """(
        SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = messages
    )"""

_PATH = """PERFORM pg_catalog.set_config(
        'search_path', pg_catalog.concat('pg_catalog, ', pg_catalog.quote_ident(own_schema), ', pg_temp'), true
    );"""

_CHANNEL = """pg_catalog.concat(
            'pgqrs_',
            pg_catalog.left(
                pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(own_schema, 'UTF8')), 'hex'), 32
            )
        )"""

_SEND = """
CREATE FUNCTION SCHEMA.send(
    workflow_id bigint, topic text, payload json, key text DEFAULT NULL, ring boolean DEFAULT true,
    messages pg_catalog.regclass DEFAULT CAST(MESSAGES AS pg_catalog.regclass)
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $send$
#variable_conflict use_column
DECLARE
    own_schema text = OWN;
    receiver_status text;
    receiver_address text = pg_catalog.concat(
        'm/', send.workflow_id, '/', pg_catalog.replace(pg_catalog.replace(send.topic, '%', '%25'), E'\\n', '%0A')
    );
BEGIN
    IF send.workflow_id IS NULL OR send.payload IS NULL OR coalesce(send.topic, '') = '' OR send.key = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a message needs a workflow, a topic and a payload, and a key is not empty.';
    END IF;
    PATH
    SELECT w.status INTO receiver_status FROM pgqrs_workflows w WHERE w.id = send.workflow_id;
    IF receiver_status IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'no_data_found',
            MESSAGE = pg_catalog.concat('there is no workflow ', send.workflow_id, ' in this schema.');
    END IF;
    IF receiver_status IN ('SUCCESS', 'ERROR', 'CANCELLED') AND NOT EXISTS (
        SELECT FROM pgqrs_messages m WHERE m.address = receiver_address AND m.key = send.key
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = pg_catalog.concat('workflow ', send.workflow_id, ' has ended with ', receiver_status, '.');
    END IF;
    INSERT INTO pgqrs_messages (workflow_id, address, key, is_kept, payload)
    VALUES (
        send.workflow_id,
        receiver_address,
        coalesce(send.key, pg_catalog.concat('~', pg_catalog.gen_random_uuid())),
        send.key IS NOT NULL,
        send.payload
    )
    ON CONFLICT (address, key) DO NOTHING;
    IF ring THEN
        PERFORM pg_catalog.pg_notify(CHANNEL, 'c3165864caeb1e2592c187910148cbc3:0');
    END IF;
END
$send$
"""

_EMIT = """
CREATE FUNCTION SCHEMA.emit(
    name text, payload json DEFAULT 'null', ring boolean DEFAULT true,
    messages pg_catalog.regclass DEFAULT CAST(MESSAGES AS pg_catalog.regclass)
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $emit$
#variable_conflict use_column
DECLARE
    own_schema text = OWN;
    event_address text = pg_catalog.concat(
        'e/', pg_catalog.replace(pg_catalog.replace(emit.name, '%', '%25'), E'\\n', '%0A')
    );
BEGIN
    IF coalesce(emit.name, '') = '' OR emit.payload IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an event needs a name and a payload.';
    END IF;
    PATH
    INSERT INTO pgqrs_messages (address, key, payload)
    VALUES (event_address, '', CAST(pg_catalog.concat('{"codec": null, "value": ', emit.payload, '}') AS json))
    ON CONFLICT (address, key) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF ring THEN
        PERFORM pg_catalog.pg_notify(CHANNEL, 'c3165864caeb1e2592c187910148cbc3:0');
    END IF;
    RETURN true;
END
$emit$
"""


def upgrade(op: Operations) -> None:
    """Add the tables of messages and waits, and the address of the message that answered a step."""
    schema = op.get_context().version_table_schema
    op.add_column("pgqrs_workflow_steps", sa.Column("address", sa.Text(), nullable=True), schema=schema)
    op.create_table(
        "pgqrs_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_kept", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("is_new", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pgqrs_messages")),
        schema=schema,
    )
    op.create_table(
        "pgqrs_waits",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("is_new", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "step_id", "address", name=op.f("pk_pgqrs_waits")),
        schema=schema,
    )
    op.create_table(
        "pgqrs_events",
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "name", name=op.f("pk_pgqrs_events")),
        schema=schema,
    )
    _create_indexes(op, schema)
    for function in (_SEND, _EMIT):
        op.execute(_in_schema(function, schema))


def _in_schema(statement: str, schema: str | None) -> sa.TextClause:
    """Return a statement for a schema; a colon would be a bind."""
    quoted = '"{}"'.format(str(schema).replace('"', '""'))
    messages = f"{quoted}.pgqrs_messages".replace("'", "''")
    values = {"SCHEMA": quoted, "MESSAGES": f"'{messages}'", "OWN": _OWN, "PATH": _PATH, "CHANNEL": _CHANNEL}
    whole = re.sub(r"\b(SCHEMA|MESSAGES|OWN|PATH|CHANNEL)\b", lambda found: values[found[0]], statement)
    return sa.text(whole.replace(":", "\\:"))


def _create_indexes(op: Operations, schema: str | None) -> None:
    op.create_index(
        "ix_pgqrs_messages_unread",
        "pgqrs_messages",
        ["address", "id"],
        schema=schema,
        postgresql_where=sa.text("taken_at IS NULL"),
    )
    op.create_index("ix_pgqrs_messages_key", "pgqrs_messages", ["address", "key"], unique=True, schema=schema)
    op.create_index(
        "ix_pgqrs_messages_new", "pgqrs_messages", ["id"], schema=schema, postgresql_where=sa.text("is_new")
    )
    op.create_index(
        "ix_pgqrs_messages_taken",
        "pgqrs_messages",
        ["taken_at"],
        schema=schema,
        postgresql_where=sa.text("taken_at IS NOT NULL AND NOT is_kept"),
    )
    op.create_index("ix_pgqrs_waits_address", "pgqrs_waits", ["address"], schema=schema)
    op.create_index(
        "ix_pgqrs_waits_new", "pgqrs_waits", ["workflow_id"], schema=schema, postgresql_where=sa.text("is_new")
    )


def downgrade(op: Operations) -> None:
    """Drop the messages and the waits; a workflow that waited for a message waits no longer."""
    schema = op.get_context().version_table_schema
    op.execute(_in_schema("DROP FUNCTION SCHEMA.emit(text, json, boolean, regclass)", schema))
    op.execute(_in_schema("DROP FUNCTION SCHEMA.send(bigint, text, json, text, boolean, regclass)", schema))
    op.drop_table("pgqrs_events", schema=schema)
    op.drop_table("pgqrs_waits", schema=schema)
    op.drop_table("pgqrs_messages", schema=schema)
    op.drop_column("pgqrs_workflow_steps", "address", schema=schema)
    workflows = sa.table(
        "pgqrs_workflows",
        sa.column("status", sa.Text()),
        sa.column("ready_at", sa.DateTime(timezone=True)),
        sa.column("due_at", sa.DateTime(timezone=True)),
        schema=schema,
    )
    op.execute(
        sa.update(workflows)
        .where(workflows.c.status == sa.literal_column("'WAITING'", sa.Text()), workflows.c.due_at.is_(None))
        .values(status=sa.literal_column("'PENDING'", sa.Text()), ready_at=sa.func.now())
    )
