"""The checks of `Admin.doctor`: each reads some figures and returns findings."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from math import ceil
from time import monotonic
from typing import Any, TypeAlias

from pgqrs.client.doctor.findings import SEVERITIES, Finding, Severity, shown_bytes, shown_seconds
from pgqrs.client.loop_state import LoopStates
from pgqrs.client.retention.settings import RetentionRecord, retention_record
from pgqrs.codecs.failures import shown_error
from pgqrs.errors import ConfigurationError, DatabaseError, PgqrsError, SchemaError
from pgqrs.models import HEAD
from pgqrs.storage.doctor import queries
from pgqrs.storage.doctor.queries import Diagnosis
from pgqrs.storage.schema.grants import rights_of_worker
from pgqrs.storage.store import Store

MANY_DEAD = 0.2, 10_000
"""The part of a table, and the number of rows, from which on dead rows are many."""

LONG_TRANSACTION = 300.0
"""Seconds after which a transaction is long."""

IDLE_IN_TRANSACTION = 60.0
"""Seconds after which a session that is idle in a transaction is a warning."""

OLD_XMIN = 1_000_000
"""Transactions after which the rows that a session, a slot or a standby holds are many."""

FROZEN_SOON = 1_000_000_000
"""Transactions since the last freeze after which the database nears its limit of two thousand million."""

LARGE_INDEX, BLOATED = 64 * 2**20, 3.0
"""The bytes from which on an index is looked at, and the multiple of its expected size that is bloat."""

SKEW = 1.0
"""Seconds by which the clock of this process may differ from the clock of the server."""

LATE_PASS = 2 * 86400.0
"""Seconds after which a pass of the retention that is due and has not begun is late."""

_PAGE, _FILL, _ENTRY = 8192, 0.9, 16

Check: TypeAlias = Callable[[Diagnosis], Awaitable[list[Finding]]]


class Doctor:
    """The checks of one schema; a check that fails is a finding, too, and stops no other."""

    def __init__(self, loops: LoopStates) -> None:
        self._loops = loops
        self._schema = loops.settings.schema

    async def findings(self) -> list[Finding]:
        """Return the findings of all checks, the worst first."""
        store = await self._loops.store()
        tables = await self._installation(store)
        checks: dict[str, Check] = {
            "clock": self._clock,
            "server": self._server,
            "sessions": self._sessions,
            "prepared transactions": self._prepared,
            "replication": self._replication,
            "dead rows": self._tables,
            "indexes": self._indexes,
            "rights": self._rights,
        }
        if tables.severity != "error":
            checks["retention"] = self._retention
        found = [tables]
        for kind, check in checks.items():
            found += await self._checked(store, kind, check)
        return sorted(found, key=lambda each: SEVERITIES.index(each.severity))

    async def _installation(self, store: Store) -> Finding:
        try:
            revision = await store.tables.verify()
        except (SchemaError, ConfigurationError) as error:
            return Finding("tables", "error", str(error))
        facts = {"revision": revision, "newest": HEAD}
        sentence = f"the tables in the schema {self._schema!r} are at revision {revision}"
        if revision < HEAD:
            advice = "Call `install`, or run `pgqrs install`, before the next upgrade of pgqrs."
            told = f"{sentence}, which this version supports; its own is {HEAD}."
            return Finding("tables", "warning", told, facts, advice)
        if revision > HEAD:
            return Finding("tables", "ok", f"{sentence}, of a newer version that supports this one.", facts)
        return Finding("tables", "ok", f"{sentence}, the revision of this version.", facts)

    async def _checked(self, store: Store, kind: str, check: Check) -> list[Finding]:
        try:
            return await store.database.run_with_retries(lambda connection: check(Diagnosis(connection)))
        except PgqrsError as error:
            if isinstance(error, DatabaseError) and error.sqlstate is None:
                raise
            sentence = f"the check failed: {shown_error(error)}"
            return [Finding(kind, "info", sentence, advice="Call the doctor with a role that may see more.")]

    async def _clock(self, ask: Diagnosis) -> list[Finding]:
        await ask.rows(queries.CLOCK)  # the statement is prepared now
        before = monotonic()
        (row,) = await ask.rows(queries.CLOCK)
        took = monotonic() - before
        skew = (datetime.now(UTC) - row["now"]).total_seconds() - took / 2
        facts = {"seconds": round(skew, 3), "round_trip": round(took, 4)}
        sentence = (
            f"the clock of this process is {abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} the server's."
        )
        if abs(skew) - took > SKEW:
            advice = (
                "Synchronize the clocks (NTP). pgqrs uses the server's clock, but logs and applications do not."
            )
            return [Finding("clock", "warning", sentence, facts, advice)]
        return [Finding("clock", "ok", sentence, facts)]

    async def _server(self, ask: Diagnosis) -> list[Finding]:
        (row,) = await ask.rows(queries.SETTINGS)
        found = [
            Finding(
                "autovacuum",
                "error",
                f"the setting {name} is {row[name]}: dead rows stay, and each search becomes slower.",
                {name: row[name]},
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            )
            for name in ("autovacuum", "track_counts")
            if row[name] != "on"
        ]
        if row["frozen_age"] > FROZEN_SOON:
            sentence = (
                f"the oldest row is not frozen for {row['frozen_age']:,} transactions; at 2,000,000,000 the "
            )
            advice = "Find what keeps VACUUM from its work (see the other findings), then VACUUM FREEZE."
            found.append(Finding("wraparound", "error", sentence + "server accepts no writes.", dict(row), advice))
        return found or [Finding("autovacuum", "ok", "autovacuum is on.", dict(row))]

    async def _sessions(self, ask: Diagnosis) -> list[Finding]:
        rows = await ask.rows(queries.SESSIONS)
        hidden = [row for row in rows if row["query"] == queries.HIDDEN]
        seen = [row for row in rows if row not in hidden and row["in_transaction"] is not None]
        found = [each for row in seen if (each := _of_session(row)) is not None]
        if hidden:
            sentence = f"the details of {len(hidden)} sessions of other roles are hidden from this role."
            advice = "Grant pg_read_all_stats to the role, or call the doctor as another one."
            found.append(Finding("sessions", "info", sentence, {"hidden": len(hidden)}, advice))
        if not found:
            found.append(Finding("sessions", "ok", "no session has a long transaction.", {"seen": len(seen)}))
        return found

    async def _prepared(self, ask: Diagnosis) -> list[Finding]:
        found: list[Finding] = []
        for row in await ask.rows(queries.PREPARED):
            age = shown_seconds(row["seconds"])
            sentence = f"the transaction {row['name']!r} of {row['role']} has been prepared for {age}."
            severity: Severity = "warning" if row["seconds"] > LONG_TRANSACTION else "info"
            advice = f"COMMIT PREPARED or ROLLBACK PREPARED '{row['name']}': VACUUM keeps all rows since then."
            found.append(Finding("prepared transaction", severity, sentence, row, advice))
        return found

    async def _replication(self, ask: Diagnosis) -> list[Finding]:
        found: list[Finding] = []
        for row in await ask.rows(queries.SLOTS):
            state = "active" if row["is_active"] else "inactive"
            sentence = (
                f"the {state} replication slot {row['name']!r} keeps {shown_bytes(row['bytes'] or 0)} of WAL, and "
                f"the dead rows of the last {row['xmin_age'] or 0:,} transactions."
            )
            is_bad = not row["is_active"] or (row["xmin_age"] or 0) > OLD_XMIN
            advice = f"If nothing reads it any more: SELECT pg_drop_replication_slot('{row['name']}');"
            found.append(
                Finding("replication slot", "warning" if is_bad else "ok", sentence, row, advice if is_bad else "")
            )
        for row in await ask.rows(queries.STANDBYS):
            sentence = (
                f"the standby {row['name']!r} keeps the dead rows of the last {row['xmin_age']:,} transactions."
            )
            is_old = row["xmin_age"] > OLD_XMIN
            advice = "End the long query there, or set hot_standby_feedback = off on the standby."
            found.append(
                Finding("standby", "warning" if is_old else "ok", sentence, row, advice if is_old else "")
            )
        return found

    async def _tables(self, ask: Diagnosis) -> list[Finding]:
        rows = await ask.rows(queries.TABLES, schema=self._schema)
        found = [each for row in rows for each in _of_table(row, self._schema)]
        dead, total = sum(row["dead"] for row in rows), sum(row["bytes"] for row in rows)
        facts = {"dead": dead, "bytes": total, "tables": {row["name"]: row for row in rows}}
        sentence = f"{dead:,} rows are dead; the tables have {shown_bytes(total)}."
        return found or [Finding("dead rows", "ok", sentence, facts)]

    async def _indexes(self, ask: Diagnosis) -> list[Finding]:
        rows = await ask.rows(queries.INDEXES, schema=self._schema)
        found = [each for row in rows for each in _of_index(row, self._schema)]
        if rows and (missing := sorted(queries.index_names() - {row["name"] for row in rows})):
            sentence = f"the tables lack the indexes {', '.join(missing)}."
            advice = "Create them as `pgqrs sql` prints them, with CREATE INDEX CONCURRENTLY."
            found.append(Finding("missing index", "error", sentence, {"missing": missing}, advice))
        total = sum(row["bytes"] for row in rows)
        sentence = f"{len(rows)} indexes are valid and have {shown_bytes(total)}."
        return found or [Finding("indexes", "ok", sentence, {"count": len(rows), "bytes": total})]

    async def _rights(self, ask: Diagnosis) -> list[Finding]:
        asked = json.dumps([{"name": table, "privilege": each} for table, each in rights_of_worker()])
        rows = await ask.rows(queries.RIGHTS, asked=asked, schema=self._schema)
        if not rows:
            return [Finding("rights", "ok", "this role has the rights of a worker.")]
        listed = "; ".join(f"{row['missing']} on {row['name']}" for row in rows)
        return [
            Finding(
                "rights",
                "warning",
                f"this role lacks rights of a worker: {listed}.",
                {row["name"]: row["missing"] for row in rows},
                "If workers use this role: pgqrs sql --from head --role worker=ROLE | psql",
            )
        ]

    async def _retention(self, ask: Diagnosis) -> list[Finding]:
        record = retention_record(await ask.retention())
        shortest = min((each for each in _times(record) if each is not None), default=None)
        if shortest is None:
            advice = "`await admin.set_retention()` deletes them after 30 days, and failed ones after 90 days."
            return [Finding("retention", "info", "ended workflows are kept for ever.", advice=advice)]
        reasons = await ask.reasons(shortest)
        kept = {reason: count for reason, count in reasons.items() if reason is not None}
        facts = {"kept": kept, "next_at": record.next_at, "deleted": record.deleted, "ended_at": record.ended_at}
        late = 0.0 if record.next_at is None else (datetime.now(UTC) - record.next_at).total_seconds()
        if late > LATE_PASS:
            sentence = f"the pass that deletes old workflows has been due for {shown_seconds(late)}."
            advice = "Start a worker, or look for `retention` in the log of the workers."
            return [Finding("retention", "warning", sentence, facts, advice)]
        listed = "".join(f" {count} of the oldest {reason}." for reason, count in kept.items())
        if record.next_at is None:
            return [Finding("retention", "info", "no worker has begun the retention yet." + listed, facts)]
        sentence = f"the next pass is due at {record.next_at:%Y-%m-%d %H:%M %Z}.{listed}"
        return [Finding("retention", "ok", sentence, facts)]


def _times(record: RetentionRecord) -> Iterable[float | None]:
    for each in (record.kept, record.failed, *record.per.values()):
        yield None if each is None else each.total_seconds()


def _of_session(row: Mapping[str, Any]) -> Finding | None:
    """Return the finding of a session in a transaction, None if the transaction is short."""
    seconds, idle = row["in_transaction"], str(row["state"]).startswith("idle in transaction")
    who = f"session {row['pid']} of {row['role']} ({row['application'] or 'no application name'})"
    held = row["xmin_age"]
    age = "" if held is None else f"; it keeps dead rows of the last {held:,} transactions"
    advice = f"End it: SELECT pg_terminate_backend({row['pid']});"
    if idle and row["in_state"] > IDLE_IN_TRANSACTION:
        sentence = f"{who} has been idle in a transaction for {shown_seconds(row['in_state'])}{age}."
        advice += " Set idle_in_transaction_session_timeout for its role."
        return Finding("idle in transaction", "warning", sentence, row, advice)
    if seconds > LONG_TRANSACTION:
        sentence = f"{who} has a transaction of {shown_seconds(seconds)}{age}."
        return Finding("long transaction", "warning", sentence, row, advice)
    return None


def _of_table(row: Mapping[str, Any], schema: str) -> Iterable[Finding]:
    part, least = MANY_DEAD
    if row["dead"] > max(least, part * row["live"]):
        when = "never" if row["vacuumed"] is None else f"{shown_seconds(row['vacuumed'])} ago"
        sentence = (
            f"{row['name']} has {row['dead']:,} dead rows beside {row['live']:,} live ones; vacuumed {when}."
        )
        advice = f'See the findings about sessions, slots and standbys; then VACUUM "{schema}".{row["name"]};'
        yield Finding("dead rows", "warning", sentence, row, advice)
    if "autovacuum_enabled=false" in row["options"]:
        sentence = f"autovacuum is off for {row['name']}: dead rows stay, and each search becomes slower."
        yield Finding(
            "autovacuum",
            "error",
            sentence,
            row,
            f'ALTER TABLE "{schema}".{row["name"]} RESET (autovacuum_enabled);',
        )


def _of_index(row: Mapping[str, Any], schema: str) -> Iterable[Finding]:
    reindex = f'REINDEX INDEX CONCURRENTLY "{schema}".{row["name"]};'
    if not row["is_valid"]:
        sentence = f"the index {row['name']} is invalid: it is written and never used."
        yield Finding("invalid index", "error", sentence, row, reindex)
    expected = _PAGE * ceil(row["entries"] * (row["width"] + _ENTRY) / (_PAGE * _FILL))
    # The number of entries is not known before the first VACUUM.
    if row["entries"] > 0 and row["bytes"] > max(LARGE_INDEX, BLOATED * expected):
        sentence = (
            f"the index {row['name']} has {shown_bytes(row['bytes'])}, about {row['bytes'] / expected:.0f} times "
            "the size of its entries."
        )
        yield Finding("index bloat", "warning", sentence, {**row, "expected": expected}, reindex)
