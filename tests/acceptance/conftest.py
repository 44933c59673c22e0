"""What the acceptance tests share: raw SQL beside the library, databases and processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

# The helpers are imported by their plain names: importlib mode adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))

import shop  # found by the line above
from claim_helpers import claims  # likewise
from sqlalchemy.ext.asyncio import async_sessionmaker

SLOW_CALLBACK = re.compile(r"^Executing <.* took 0\.[1-4]\d* seconds\n", re.MULTILINE)


@pytest_asyncio.fixture
async def sql(dsn, schema):
    """A raw connection that finds the tables of the test's schema without naming it."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f'"{schema}"'})
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def claimer(admin):
    """Claims workflows as a worker does, when the test tells it to."""
    async with claims(admin) as claimer:
        yield claimer


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


@pytest_asyncio.fixture
async def app(dsn, schema):
    """The application's engine; its tables are beside ours, in a schema that its connections look into first."""
    engine = shop.engine_in(dsn, schema)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def sessions(app, admin):
    """Makes the application's sessions, on its own engine, with its table."""
    async with app.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
    return async_sessionmaker(app, expire_on_commit=False)
