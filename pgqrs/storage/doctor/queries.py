"""The queries of a diagnosis; each is cheap, whatever the tables hold, and needs no more rights than a worker has.

They compare values as text, because the catalogs have types of their own; see `pgqrs.storage.sql.expressions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import bindparam, case, select, text
from sqlalchemy.orm import aliased

from pgqrs.models import Base, Text, Workflow
from pgqrs.storage.retention.purge import HAVE_PARENT
from pgqrs.storage.retention.removal import reasons_to_keep
from pgqrs.storage.retention.settings import RetentionRepository, StoredRetention
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import COUNT, DOUBLE, ONE, is_found, number_literal, seconds_ago, text_literal

HIDDEN: Final = "<insufficient privilege>"
"""The query of a session whose details a role may not see."""

SAMPLE = 10_000
"""Maximum workflows that are examined for the reasons to keep them."""

TABLES = """
SELECT CAST(c.relname AS text) AS name,
    coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
    EXTRACT(epoch FROM pg_catalog.now() - greatest(s.last_autovacuum, s.last_vacuum))::float8 AS vacuumed,
    coalesce(pg_catalog.array_to_string(c.reloptions, ','), '') AS options,
    pg_catalog.pg_table_size(c.oid) AS bytes
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
WHERE CAST(n.nspname AS text) = CAST(:schema AS text) AND CAST(c.relkind AS text) = 'r'
    AND CAST(c.relname AS text) LIKE 'pgqrs%'
ORDER BY name
"""

INDEXES = """
SELECT CAST(i.relname AS text) AS name, CAST(c.relname AS text) AS of_table, x.indisvalid AS is_valid,
    pg_catalog.pg_relation_size(i.oid) AS bytes, i.reltuples::float8 AS entries,
    coalesce((
        SELECT pg_catalog.sum(s.avg_width) FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_stats s ON CAST(s.schemaname AS text) = CAST(n.nspname AS text)
            AND CAST(s.tablename AS text) = CAST(c.relname AS text)
            AND CAST(s.attname AS text) = CAST(a.attname AS text)
        WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey)
    ), 0)::float8 AS width
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE CAST(n.nspname AS text) = CAST(:schema AS text) AND CAST(c.relname AS text) LIKE 'pgqrs%'
ORDER BY name
"""

SESSIONS = """
SELECT a.pid, CAST(a.usename AS text) AS role, a.application_name AS application, a.state,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS in_transaction,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::float8 AS in_state,
    CAST(pg_catalog.age(coalesce(a.backend_xmin, a.backend_xid)) AS bigint) AS xmin_age,
    pg_catalog.left(a.query, 200) AS query
FROM pg_catalog.pg_stat_activity a
WHERE CAST(a.datname AS text) = CAST(pg_catalog.current_database() AS text)
    AND a.pid <> pg_catalog.pg_backend_pid()
    AND (a.query = '<insufficient privilege>' OR a.xact_start IS NOT NULL)
"""

PREPARED = """
SELECT p.gid AS name, CAST(p.owner AS text) AS role, CAST(pg_catalog.age(p.transaction) AS bigint) AS xmin_age,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8 AS seconds
FROM pg_catalog.pg_prepared_xacts p
WHERE CAST(p.database AS text) = CAST(pg_catalog.current_database() AS text)
"""

SLOTS = """
SELECT CAST(s.slot_name AS text) AS name, s.active AS is_active,
    CAST(greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin)) AS bigint) AS xmin_age,
    CAST(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn) AS bigint) AS bytes
FROM pg_catalog.pg_replication_slots s
"""

STANDBYS = """
SELECT r.application_name AS name, CAST(pg_catalog.age(r.backend_xmin) AS bigint) AS xmin_age
FROM pg_catalog.pg_stat_replication r WHERE r.backend_xmin IS NOT NULL
"""

SETTINGS = """
SELECT pg_catalog.current_setting('autovacuum') AS autovacuum,
    pg_catalog.current_setting('track_counts') AS track_counts,
    pg_catalog.current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
    pg_catalog.current_setting('server_version') AS version,
    CAST(pg_catalog.age(d.datfrozenxid) AS bigint) AS frozen_age
FROM pg_catalog.pg_database d
WHERE CAST(d.datname AS text) = CAST(pg_catalog.current_database() AS text)
"""

RIGHTS = """
SELECT g.name AS name, pg_catalog.string_agg(g.privilege, ', ') AS missing
FROM pg_catalog.json_to_recordset(CAST(:asked AS json)) AS g (name text, privilege text)
JOIN pg_catalog.pg_class c ON CAST(c.relname AS text) = g.name
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE CAST(n.nspname AS text) = CAST(:schema AS text) AND NOT pg_catalog.has_table_privilege(c.oid, g.privilege)
GROUP BY g.name ORDER BY g.name
"""

CLOCK = "SELECT pg_catalog.clock_timestamp() AS now"


class Diagnosis:
    """The queries of a diagnosis, each in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, query: str, **values: object) -> list[Mapping[str, Any]]:
        """Return the rows of a query of this module."""
        statement = text(query)
        if values:
            statement = statement.bindparams(*(bindparam(name, type_=Text()) for name in values))
        return [dict(row) for row in (await self._connection.execute(statement, values)).mappings()]

    async def retention(self) -> StoredRetention | None:
        """Return the row of the retention."""
        return await RetentionRepository(self._connection).get()

    async def reasons(self, seconds: float) -> dict[str | None, int]:
        """Return the numbers of old workflows by the reason to keep them, in a sample of the oldest ids."""
        rows: Any = await self._connection.execute(kept_by_reason(), {"seconds": seconds})
        return {reason: int(count) for reason, count in rows}


def kept_by_reason() -> Any:
    """Return the query for the numbers of workflows that ended `seconds` ago by the reason to keep them.

    It examines the `SAMPLE` workflows with the lowest ids; the reason is null for a workflow that can be deleted.
    """
    sample = select(Workflow).order_by(Workflow.id).limit(number_literal(SAMPLE)).subquery("sample")
    own, parent = aliased(Workflow, sample, name="own"), aliased(Workflow, name="parent")
    has_parent = is_found(select(ONE).where(parent.id == own.parent_id), parent)
    reasons = {**reasons_to_keep(own), HAVE_PARENT: has_parent}
    reason: Any = case(*((condition, text_literal(name)) for name, condition in reasons.items())).label("reason")
    is_old = own.completed_at < seconds_ago(bindparam("seconds", type_=DOUBLE))
    judged = select(reason).where(is_old).subquery("judged")
    return select(judged.c.reason, COUNT).group_by(judged.c.reason)


def index_names() -> set[str]:
    """Return the names of the indexes that the tables must have."""
    return {str(each.name) for table in Base.metadata.sorted_tables for each in table.indexes}
