"""What the acceptance tests share: raw SQL beside the library, databases and processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

# `acceptance_helpers` is imported by its plain name: importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))


SLOW_CALLBACK = re.compile(r"^Executing <.* took 0\.[1-4]\d* seconds\n", re.MULTILINE)


@pytest_asyncio.fixture
async def sql(dsn, schema):
    """A raw connection that finds the tables of the test's schema without naming it."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f'"{schema}"'})
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def own_database(dsn):
    """The DSN of an empty database that is the test's own, for programs that use the default schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f'CREATE DATABASE "{name}"')
    yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
def program(dsn, schema, tmp_path):
    """Start Python programs with every warning an error, and in development mode (`dev`), which is slow, if told.

    They find the server in PGQRS_DSN and the schema in PGQRS_SCHEMA. Whatever still runs at the end is killed.
    """
    started = []

    def start(source, *arguments, dev=False, **environment):
        path = tmp_path / f"program_{len(started)}.py"
        path.write_text(source)
        process = subprocess.Popen(
            [sys.executable, *(["-X", "dev"] if dev else []), "-W", "error", str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": schema} | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run_program(program):
    """Run a program to its end and return its exit code, what it printed, and what it complained of.

    asyncio's debug mode complains of callbacks above 0.1 s, which a busy machine makes of shorter ones: only those
    above half a second count.
    """

    def run(source, *arguments, dev=False, **environment):
        process = program(source, *arguments, dev=dev, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, SLOW_CALLBACK.sub("", err)

    return run
