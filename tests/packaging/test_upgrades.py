"""Two versions of pgqrs on the same tables, with workflows in flight: this one, and that of the previous revision."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgqrs.models import HEAD
from tests.packaging.conftest import ROOT, Environment, environment, uv
from tests.support.database import Kept
from tests.support.waiting import DEADLINE, blocking_until

PROGRAM = Path(__file__).with_name("travelling.py")

WAITS = """name = 'journey' AND status = 'WAITING' AND EXISTS (
    SELECT FROM "{schema}".pgqrs_waits AS wait WHERE wait.workflow_id = w.id AND wait.address LIKE '%{topic}%')"""
"""The condition that a journey waits for a message of a topic."""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def commit_of_previous_revision() -> str:
    """Return the newest commit with another revision, if the tables said by then which versions they support."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git history, as in an sdist: the previous version is built from its commit")
    for commit in git("log", "--format=%H", "--", "pgqrs/models.py").decode().split():
        models = git("show", f"{commit}:pgqrs/models.py").decode()
        if f'\nHEAD = "{HEAD}"' not in models:
            if "\nOLDEST_SUPPORTED = " in models:
                return commit
            break
    pytest.skip("the history has no previous revision whose version knows of newer tables")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel of the commit before the newest revision."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit_of_previous_revision()))) as tree:
        tree.extractall(folder / "tree", filter="data")
    uv("build", "--wheel", "--out-dir", folder, folder / "tree")
    (wheel,) = folder.glob("*.whl")
    return environment(folder, f"pgqrs @ {wheel.as_uri()}")


class Traveller:
    """A worker process of a version."""

    def __init__(self, version: Environment, dsn: str, schema: str) -> None:
        command = [version.folder / "bin" / "python", PROGRAM, dsn, schema, version.folder.parent.name]
        self.process = subprocess.Popen(
            command, cwd=version.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def act(self, command: str) -> None:
        """Execute a command in the process, and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


class Travel:
    """The programs and the tables of one test."""

    def __init__(self, dsn: str, schema: str, kept: Kept) -> None:
        self._dsn, self._schema, self._kept = dsn, schema, kept

    def command(self, version: Environment, *arguments: str) -> str:
        """Run the `pgqrs` command of a version."""
        return version.run("pgqrs", *arguments, "--dsn", self._dsn, "--schema", self._schema).stdout

    @contextmanager
    def worker(self, version: Environment) -> Iterator[Traveller]:
        """Run a worker; kill it at the end."""
        traveller = Traveller(version, self._dsn, self._schema)
        try:
            yield traveller
        finally:
            traveller.process.kill()
            traveller.process.communicate(timeout=DEADLINE)

    def until(self, count: int, condition: str) -> None:
        """Wait until this number of workflows meets a condition."""
        query = f'SELECT count(*) FROM "{self._schema}".pgqrs_workflows AS w WHERE {condition}'
        blocking_until(lambda: self._kept.fetch(query)[0][0] == count)

    def execute(self, script: str) -> None:
        """Execute statements of the test."""
        self._kept.execute(script)

    def fetch(self, query: str) -> list[tuple[object, ...]]:
        """Return the rows of a query on the tables of the test."""
        self._kept.execute(f'SET search_path = "{self._schema}"')
        try:
            return [tuple(row) for row in self._kept.fetch(query)]
        finally:
            self._kept.execute("RESET search_path")


@pytest.fixture
def travel(dsn: str, schema: str, kept: Kept) -> Travel:
    return Travel(dsn, schema, kept)


@pytest.mark.parametrize("first", ["the tables", "the processes"])
def test_workflows_pass_between_two_versions(first, travel, old, bare, schema):
    boarding, leaving = (WAITS.format(schema=schema, topic=topic) for topic in ("board", "leave"))
    travel.command(old, "install")
    travel.execute(f'CREATE TABLE "{schema}".ledger (workflow bigint, place text, version text)')
    with travel.worker(old) as older:
        older.act("submit")
        travel.until(10, boarding)
        if first == "the tables":
            travel.command(bare, "install")
        with travel.worker(bare) as newer:
            newer.act("submit")
            travel.until(20, boarding)
            newer.act("send board")
            travel.command(bare, "install")
            travel.until(20, leaving)
    # Both versions have ended: what they had begun waits for the next worker.
    assert f"revision {HEAD}" in travel.command(old, "verify", "--deep")
    with travel.worker(old) as older:  # back again, on the newer tables
        older.act("submit")
        travel.until(10, boarding)
        older.act("send board")
        travel.until(30, leaving)
    with travel.worker(bare) as newer:  # so both versions have run some of the steps
        newer.act("send leave")
        travel.until(66, "status = 'SUCCESS'")
    assert f"revision {HEAD}" in travel.command(bare, "verify", "--deep")
    assert travel.fetch("SELECT place, count(*) FROM ledger GROUP BY 1 ORDER BY 1") == [
        (place, 30) for place in ("hold", "home", "inn", "junction")
    ]
    versions = {version for (version,) in travel.fetch("SELECT DISTINCT version FROM ledger")}
    assert versions == {each.folder.parent.name for each in (old, bare)}
