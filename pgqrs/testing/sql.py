"""The SQL of `pgqrs.testing`: schemas that tests use in turn, with a time that tests can move.

Creating the tables takes a hundred milliseconds, and TRUNCATE almost as long; locking and emptying them takes two.
So a schema is used again, under another name. A process that still writes to the previous name finds no tables,
because a rename makes every prepared statement look up its tables again.

Such a schema has functions ``now()`` and the like beside the tables. A connection with the schema before
`pg_catalog` in its `search_path` sees their time in each statement that names no schema, of pgqrs and of the
application.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import case, exists, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from pgqrs.codecs.messages import EVENT
from pgqrs.models import SCHEMA, Base, Message, Queue, Schedule, StartRate, Step, Wait, Workflow
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.invariants import invariants
from pgqrs.storage.schema import migrate
from pgqrs.storage.sql.addresses import name_in
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import seconds_of, text_of
from pgqrs.types import Rate, WorkflowStatus

PREFIX = "pgqrs_test_"
"""The prefix of the names of all such schemas; the name of the process and a number follow."""

MAX_SCHEMA_BYTES = 4 * 1024 * 1024
"""Maximum bytes of a schema that is used again: emptying a larger schema takes longer than creating one."""

PATIENCE = "500ms"
"""Maximum wait for the locks of a schema; the schema is abandoned after it."""

_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{8}}_[0-9]{{1,18}}")
"""The form of the names that the kit gives; they need no quotes."""

_MARK = "made by pgqrs.testing"
"""The comment of the kit's schemas: only a schema with this comment, owned by the current role, is dropped."""

_PLACEHOLDER = "pgqrs_test_placeholder"

_TIMES = {
    "now": "STABLE",
    "transaction_timestamp": "STABLE",
    "statement_timestamp": "STABLE",
    "clock_timestamp": "VOLATILE",
}

_CLOCK = f"""
COMMENT ON SCHEMA {_PLACEHOLDER} IS '{_MARK}';
CREATE TABLE {_PLACEHOLDER}.pgqrs_test_clock (ahead interval NOT NULL);
INSERT INTO {_PLACEHOLDER}.pgqrs_test_clock VALUES ('0');
{
    "".join(
        f'''
CREATE FUNCTION {_PLACEHOLDER}.{name}() RETURNS timestamptz LANGUAGE sql {volatility} PARALLEL SAFE BEGIN ATOMIC
    SELECT pg_catalog.{name}() + (SELECT ahead FROM {_PLACEHOLDER}.pgqrs_test_clock);
END;'''
        for name, volatility in _TIMES.items()
    )
}
{
    "".join(
        f'''
ALTER TABLE {_PLACEHOLDER}.{name}
    ALTER COLUMN created_at SET DEFAULT {_PLACEHOLDER}.now(),
    ALTER COLUMN updated_at SET DEFAULT {_PLACEHOLDER}.now();'''
        for name in ("pgqrs_workflows", "pgqrs_schedules")
    )
}
"""  # noqa: S608  # constant names

_LIVE = (WorkflowStatus.PENDING, WorkflowStatus.RUNNING, WorkflowStatus.WAITING)


class PendingWork(NamedTuple):
    """The work that the live workflows wait for.

    `held` has the ids of workflows that an executor runs, `open` the ids and epochs of workflows that a worker
    could claim now. `next_due` is the number of seconds until the next timer, deadline or start that the rate of a
    queue allows, None without one.
    """

    held: frozenset[int]
    open: frozenset[tuple[int, int]]
    next_due: float | None


class StoredMessage(NamedTuple):
    """A message to a workflow; `payload` is JSON text. `key` is None for a key that pgqrs has made."""

    workflow_id: int
    address: str
    key: str | None
    payload: str
    is_received: bool

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return name_in(self.address)


def script() -> str:
    """Return the SQL that creates a schema of tests; see `create`. The rendering is slow."""
    return migrate.sql_script(_PLACEHOLDER) + _CLOCK


def search_path(schema: str) -> str:
    """Return the `search_path` of connections that see the time of a schema of tests."""
    # New tables go to the first schema of the path, so this schema is not the first.
    return f'"$user", public, {_quoted(schema)}, pg_catalog'


async def create(driver: asyncpg.Connection[Any], script: str, schema: str) -> int:
    """Create a schema of tests, and return the number of its relations."""
    if not _NAME.fullmatch(schema):
        raise ValueError(f"`schema` must be a name of the test kit, got {schema!r}; take one from a SchemaPool.")
    await driver.execute(script.replace(_PLACEHOLDER, schema))
    return (await _measure(driver, schema))[0]


async def recycle(driver: asyncpg.Connection[Any], schema: str, name: str, things: int) -> bool:
    """Empty a schema and rename it; return whether both succeeded.

    They fail if another session has locked a table of the schema, if the schema has grown, or if the number of its
    relations is not `things`.
    """
    count, size = await _measure(driver, schema)
    if count != things or size > MAX_SCHEMA_BYTES:
        return False
    old, new = _quoted(schema), _quoted(name)
    sequence = f"{old}.pgqrs_workflows_id_seq".replace("'", "''")
    tables = [f"{old}.{each.name}" for each in Base.metadata.sorted_tables]
    emptied = "".join(f"DELETE FROM {each};" for each in tables)  # noqa: S608  # quoted above
    try:
        await driver.execute(f"""
            BEGIN;
            SET LOCAL lock_timeout = '{PATIENCE}';
            LOCK TABLE {", ".join(tables)} IN ACCESS EXCLUSIVE MODE;
            {emptied}
            UPDATE {old}.pgqrs_test_clock SET ahead = '0';
            SELECT pg_catalog.setval('{sequence}', 1, false);
            ALTER SCHEMA {old} RENAME TO {new};
            COMMIT;
        """)  # noqa: S608  # quoted above
    except asyncpg.PostgresError:
        await driver.execute("ROLLBACK")
        return False
    return True


async def drop(driver: asyncpg.Connection[Any], schema: str) -> bool:
    """Drop a schema of the kit; return False if another session has locked a part of it.

    A schema of this name that the kit has not created, or that belongs to another role, is not dropped.
    """
    if not await driver.fetchval(f"{_OWN_SCHEMAS} AND nspname = $2", _MARK, schema):
        return True
    try:
        await driver.execute(f"SET lock_timeout = '{PATIENCE}'; DROP SCHEMA {_quoted(schema)} CASCADE")
    except asyncpg.PostgresError:
        return False
    return True


async def own(driver: asyncpg.Connection[Any], owner: str) -> None:
    """Protect the schemas of `owner`, a process, from other processes while this connection is open."""
    await driver.execute("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended($1, 0))", owner)


async def drop_left_over(driver: asyncpg.Connection[Any]) -> None:
    """Drop the schemas of this role's processes that have died."""
    rows = await driver.fetch(f"{_OWN_SCHEMAS} ORDER BY 1", _MARK)
    for schema in (name for (name,) in rows if _NAME.fullmatch(name)):
        owner = schema.rpartition("_")[0]
        key = "pg_catalog.hashtextextended($1, 0)"
        if await driver.fetchval(f"SELECT pg_catalog.pg_try_advisory_lock({key})", owner):
            await drop(driver, schema)
            await driver.execute(f"SELECT pg_catalog.pg_advisory_unlock({key})", owner)


def violations(schema: str) -> str:
    """Return one query for all violations of the invariants: a sentence with a place for each column, and the row.

    `Admin.verify` has a transaction for each invariant, for tables whose search takes long.
    """
    return _violations().replace(_PLACEHOLDER, _quoted(schema))


@cache  # the rendering takes longer than the query
def _violations() -> str:
    searches: list[str] = []
    for sentence, query in invariants():
        compiled = query.compile(
            dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"literal_binds": True},
            schema_translate_map={SCHEMA: _PLACEHOLDER},
            render_schema_translate=True,
        )
        searches.append(f"SELECT $${sentence}$$ AS sentence, found::text FROM ({compiled}) AS found")  # noqa: S608  # constant
    return " UNION ALL ".join(searches)


async def is_violated(connection: AsyncConnection, schema: str) -> bool:
    """Return whether the tables violate an invariant."""
    return (await connection.exec_driver_sql(f"{violations(schema)} LIMIT 1")).first() is not None


async def move(connection: AsyncConnection, schema: str, seconds: float) -> None:
    """Move the time in a schema of tests."""
    moved = f"UPDATE {_quoted(schema)}.pgqrs_test_clock SET ahead = ahead + $1"  # noqa: S608  # quoted
    await connection.exec_driver_sql(moved, (timedelta(seconds=seconds),))


async def pending_work(connection: AsyncConnection) -> PendingWork:
    """Return the work that the live workflows wait for."""
    rows: Any = await connection.execute(_OUTLOOK)
    held: set[int] = set()
    open_: set[tuple[int, int]] = set()
    times: list[float] = []
    for workflow_id, epoch, executor, is_ready, is_new, due, *limits in rows:
        wait = max(_wait_for(*limits[:2]), _wait_for(*limits[2:])) if is_ready and is_new else 0.0
        if executor is not None and executor != ABANDONED:
            held.add(workflow_id)
        elif executor is not None or (is_ready and wait <= 0) or (due is not None and due <= 0):
            open_.add((workflow_id, epoch))
        else:
            times += [each for each in (due, wait) if each]
    return PendingWork(frozenset(held), frozenset(open_), min(times, default=None))


def _wait_for(rate: str | None, ahead: float | None) -> float:
    """Return the seconds until a rate allows a start; `ahead` is by how much the starts are before its pace."""
    if rate is None or ahead is None:
        return 0.0
    own = Rate(**json.loads(rate))
    return ahead - (own.burst - 1) * own.per / own.limit


async def served(connection: AsyncConnection) -> tuple[list[str], list[str]]:
    """Return the names of the workflows of all schedules, and their queues."""
    rows: Any = (await connection.execute(select(Schedule.workflow, Schedule.queue).distinct())).all()
    return sorted({workflow for workflow, _ in rows}), sorted({queue for _, queue in rows})


async def queues(connection: AsyncConnection, names: list[str], codec: str | None) -> list[str]:
    """Return the queues that have workflows of these names which are ready, or wait for a time.

    A queue that is paused is left out: its workflows cannot start.
    `codec` names the codec of the workflows, None for strict JSON; a claim takes no workflow of another codec.
    """
    is_ours = Workflow.name.in_(names), Workflow.codec.is_not_distinct_from(codec)
    found = await connection.execute(_QUEUES.where(*is_ours))
    return [str(queue) for (queue,) in found]


async def sent_messages(connection: Connection) -> list[StoredMessage]:
    """Return all messages that were sent to workflows, the oldest first.

    A message without a key is deleted some time after its receiver has got it; the step that received it has it.
    """
    kept: Any = (await connection.execute(_MESSAGES)).all()
    received: Any = (await connection.execute(_RECEIVED)).all()
    taken = Counter((address, payload) for _, address, _, payload, is_taken in kept if is_taken)
    deleted: list[StoredMessage] = []
    for workflow_id, address, payload in received:
        if taken[address, payload]:
            taken[address, payload] -= 1
        else:
            deleted.append(StoredMessage(workflow_id, address, None, payload, is_received=True))
    return deleted + [StoredMessage(*row) for row in kept]


async def emitted_events(connection: Connection) -> dict[str, str]:
    """Return the texts of all events of the schema by their names, the oldest first."""
    found: Any = await connection.execute(_EVENTS)
    return {name_in(address): payload for address, payload in found}


_TO_TOPIC, _TO_EVENT = "m/%", f"{EVENT}%"

_MESSAGES: Any = (
    select(
        Message.workflow_id,
        Message.address,
        case((Message.is_kept, Message.key)),
        text_of(Message.payload),
        Message.taken_at.is_not(None),
    )
    .where(Message.address.like(_TO_TOPIC))
    .order_by(Message.id)
)

_RECEIVED: Any = (
    select(Step.workflow_id, Step.address, text_of(Step.output))
    .where(Step.address.like(_TO_TOPIC))
    .order_by(Step.completed_at, Step.workflow_id)
)

_EVENTS: Any = (
    select(Message.address, text_of(Message.payload)).where(Message.address.like(_TO_EVENT)).order_by(Message.id)
)

_HAS_MESSAGE = exists().where(
    Wait.workflow_id == Workflow.id, Message.address == Wait.address, Message.taken_at.is_(None)
)

_OF_QUEUE, _OF_KEY = aliased(StartRate), aliased(StartRate)

_OUTLOOK: Any = (
    select(
        Workflow.id,
        Workflow.epoch,
        Workflow.executor,
        Workflow.ready_at.is_not(None) | _HAS_MESSAGE,
        Workflow.started_at.is_(None),
        seconds_of(func.least(Workflow.due_at, Workflow.deadline) - func.now()),
        text_of(Queue.rate),
        seconds_of(_OF_QUEUE.free_at - func.now()),
        text_of(Queue.partition_rate),
        seconds_of(_OF_KEY.free_at - func.now()),
    )
    .outerjoin(Queue, Queue.name == Workflow.queue)
    .outerjoin(_OF_QUEUE, (_OF_QUEUE.queue == Workflow.queue) & (_OF_QUEUE.partition_key == ""))
    .outerjoin(_OF_KEY, (_OF_KEY.queue == Workflow.queue) & (_OF_KEY.partition_key == Workflow.partition_key))
    .where(Workflow.status.in_(_LIVE))
)

_QUEUES: Any = (
    select(Workflow.queue)
    .distinct()
    .where(
        Workflow.status.in_(_LIVE),
        Workflow.queue.is_not(None),
        ~exists().where(Queue.name == Workflow.queue, Queue.paused_at.is_not(None)),
        Workflow.ready_at.is_not(None)
        | Workflow.due_at.is_not(None)
        | ((Workflow.status == WorkflowStatus.WAITING) & Workflow.deadline.is_not(None)),
    )
)


_OWN_SCHEMAS = """
    SELECT nspname::text FROM pg_catalog.pg_namespace
    WHERE pg_catalog.obj_description(oid, 'pg_namespace') = $1
        AND nspowner = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)"""


def _quoted(schema: str) -> str:
    return '"{}"'.format(schema.replace('"', '""'))


async def _measure(driver: asyncpg.Connection[Any], schema: str) -> tuple[int, int]:
    row = await driver.fetchrow(
        """
        SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(oid)), 0)::bigint
        FROM pg_catalog.pg_class
        WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)
        """,
        schema,
    )
    assert row is not None  # noqa: S101  # an aggregate has a row
    return row[0], row[1]
