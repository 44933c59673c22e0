"""Schemas with the tables that tests use in turn: creating one takes the server ten times as long as emptying it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import asyncpg

from pgqrs.models import HEAD, OLDEST_SUPPORTED, Base
from pgqrs.storage.schema.migrate import VERSION_TABLE
from tests.support.database import Kept

MAX_GROWTH = 512 * 1024
"""Bytes by which the files of a schema may have grown, with the rows that were deleted, for another test."""

_CATALOGS = {
    "pg_class": "catalog.relnamespace = own.oid",
    "pg_type": "catalog.typnamespace = own.oid",
    "pg_proc": "catalog.pronamespace = own.oid",
    "pg_constraint": "catalog.connamespace = own.oid",
    "pg_default_acl": "catalog.defaclnamespace = own.oid",
    "pg_attribute": "catalog.attrelid IN (SELECT oid FROM relations)",
    "pg_attrdef": "catalog.adrelid IN (SELECT oid FROM relations)",
    "pg_index": "catalog.indrelid IN (SELECT oid FROM relations)",
    "pg_trigger": "catalog.tgrelid IN (SELECT oid FROM relations)",
    "pg_statistic": "catalog.starelid IN (SELECT oid FROM relations)",
}

_STATE = f"""
    WITH own AS (SELECT oid, nspacl FROM pg_namespace WHERE nspname = '%s'),
    relations AS (SELECT pg_class.oid, relname, relkind, reltuples FROM pg_class JOIN own ON relnamespace = own.oid)
    SELECT
        (SELECT nspacl::text FROM own) AS rights,
        (SELECT array_agg(oid::regclass::text) FROM relations WHERE relkind = 'r' AND relname !~ '^pgqrs_') AS others,
        (SELECT count(*) FROM relations WHERE relkind = 'r' AND reltuples >= 0) AS analyzed,
        (SELECT count(*)::text || min(xmin::text) || max(xmin::text)
         FROM ({" UNION ALL ".join(f"SELECT catalog.xmin FROM {name} AS catalog, own WHERE {of}" for name, of in _CATALOGS.items())})
         AS things) AS things,
        (SELECT sum(pg_relation_size(oid)) FROM relations) AS bytes
"""  # constant names
"""What a test can change of a schema beside its rows; each change of a thing gives its row another `xmin`."""


class SchemaPool:
    """Schemas of one process that have the tables and no rows.

    A schema that a test has changed in any other way than by rows and by further tables is left to the test to drop.
    The name of a schema
    is its test's alone: a process that outlives its test finds no tables.
    """

    def __init__(self, kept: Kept, script: Callable[[str], str]) -> None:
        self._kept = kept
        self._script = script
        self._spare: list[str] = []
        self._new: dict[str, asyncpg.Record] = {}

    def take(self, name: str) -> None:
        """Give a schema this name."""
        if self._spare:
            spare = self._spare.pop()
            self._kept.execute(f'ALTER SCHEMA "{spare}" RENAME TO "{name}"')
            self._new[name] = self._new.pop(spare)
        else:
            self._kept.execute(self._script(name))
            self._new[name] = self._state(name)

    def give_back(self, name: str) -> None:
        """Empty a schema for another test, unless the test has changed or dropped it."""
        new, state = self._new.pop(name), self._state(name)
        if state["others"]:
            if not self._try(f"DROP TABLE {', '.join(state['others'])} CASCADE"):
                return
            state = self._state(name)
        is_unchanged = (state["rights"], state["analyzed"], state["things"]) == (None, 0, new["things"])
        if not is_unchanged or state["bytes"] > new["bytes"] + MAX_GROWTH:
            return
        spare = f"test_spare_{uuid.uuid4().hex[:12]}"
        tables = [f'"{name}".{each.name}' for each in Base.metadata.sorted_tables]
        emptied = "".join(f"DELETE FROM {each};" for each in tables)
        version = f'"{name}".{VERSION_TABLE}'
        is_empty = self._try(f"""
            LOCK TABLE {", ".join(tables)} IN ACCESS EXCLUSIVE MODE;
            {emptied}
            DELETE FROM {version};
            INSERT INTO {version} VALUES ('{HEAD}', '{OLDEST_SUPPORTED}');
            SELECT setval(oid::regclass, 1, false) FROM pg_class
            WHERE relkind = 'S' AND relnamespace = '"{name}"'::regnamespace;
            ALTER SCHEMA "{name}" RENAME TO "{spare}";
        """)
        if is_empty:
            self._new[spare] = new
            self._spare.append(spare)

    def close(self) -> None:
        """Drop the schemas."""
        for each in self._spare:
            self._kept.execute(f'DROP SCHEMA "{each}" CASCADE')

    def _try(self, script: str) -> bool:
        """Execute statements in one transaction, unless another session has locked what they change."""
        try:
            self._kept.execute(f"SET LOCAL lock_timeout = '200ms'; {script}")
        except asyncpg.LockNotAvailableError:
            return False
        return True

    def _state(self, name: str) -> asyncpg.Record:
        return self._kept.fetch(_STATE % name)[0]
