"""The `pgqrs` command, run as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version

import pytest
from click.testing import CliRunner

from pgqrs import cli, embedded
from pgqrs.models import HEAD
from pgqrs.storage.schema.migrate import sql_script

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pgqrs(dsn: str, schema: str) -> Command:
    """Run the command on the schema of the test."""

    def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": schema} | settings
        return subprocess.run(
            [sys.executable, "-m", "pgqrs.cli", *arguments],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return command


def test_install_then_verify(pgqrs, schema):
    before = pgqrs("verify")
    assert (before.returncode, before.stdout) == (1, "")
    assert before.stderr.startswith(f"Error: pgqrs is not installed in the schema '{schema}': ")
    assert "pgqrs install" in before.stderr
    assert before.stderr.count("\n") == 1
    installed = pgqrs("install")
    assert (installed.returncode, installed.stderr) == (0, "")
    assert installed.stdout == f"pgqrs is installed in the schema '{schema}', at revision {HEAD}.\n"
    after = pgqrs("verify", "--schema", schema, PGQRS_SCHEMA="another")
    assert (after.returncode, after.stderr) == (0, "")
    assert after.stdout == f"The schema '{schema}' is up to date, at revision {HEAD}.\n"


@pytest.mark.parametrize("arguments", [["verify"], ["worker", "shop.orders"]])
def test_reading_command_creates_no_embedded_server(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr("pgqrs.cli.run_worker.collected", lambda targets: [])
    dsn = f"embedded://{tmp_path}/typo"
    result = CliRunner().invoke(cli.main, [*arguments, "--dsn", dsn])
    assert result.exit_code == 1
    folder = embedded.data_folder(dsn)
    assert result.output == (
        f"Error: there is no embedded PostgreSQL in {folder}: check the path, or create one with "
        f"`pgqrs install --dsn {dsn}`.\n"
    )
    assert not folder.exists()


REVISIONS = ", ".join(f"{each:04}" for each in range(1, int(HEAD) + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["install", "--dsn", "postgresql://somebody:hunter2@127.0.0.1:1/nowhere"], "could not be reached"),
        (["install", "--dsn", "mysql://somebody:hunter2@host/name"], "PostgreSQL"),
        (["verify", "--dsn", "postgresql://somebody:hunter2@host/name", "--schema", "n" * 64], "63"),
        (["sql", "--schema", "n" * 64], "63"),
        (
            ["sql", "--from", "0000"],
            f"the revision must be one of base, {REVISIONS}, got '0000'",
        ),
    ],
)
def test_bad_input_is_reported_on_one_line(arguments, message):
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert message in result.output
    assert "hunter2" not in result.output


def test_missing_dsn_is_a_usage_error(monkeypatch):
    monkeypatch.delenv("PGQRS_DSN", raising=False)
    result = CliRunner().invoke(cli.main, ["install"])
    assert result.exit_code == 2
    assert "Missing option '--dsn'" in result.output


def test_sql_needs_no_database(monkeypatch):
    monkeypatch.delenv("PGQRS_DSN", raising=False)
    for arguments in (["sql", "--schema", "per%cent"], ["sql", "--schema", "per%cent", "--from", "base"]):
        result = CliRunner().invoke(cli.main, arguments)
        assert (result.exit_code, result.output) == (0, sql_script("per%cent") + "\n")


def test_version_option_prints_the_version():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"pgqrs {version('pgqrs')}\n")


def test_main_is_the_console_script():
    (script,) = entry_points(group="console_scripts", name="pgqrs")
    assert script.load() is cli.main
