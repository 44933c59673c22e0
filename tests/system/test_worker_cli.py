"""`pgqrs worker`, run as a process of its own."""

import asyncio
import json
import logging
import signal
import sys
from datetime import datetime

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet

from pgqrs import Admin, PyWorkflow, cli, workflow
from pgqrs.cli.worker_options import JsonFormatter
from pgqrs.codecs.fernet import FernetCodec
from tests.support.processes import ended, line_of
from tests.support.waiting import DEADLINE, until

KEY = Fernet.generate_key().decode()

MODULE = """
import asyncio, os
from pathlib import Path
from pgqrs import PyWorkflow, step, workflow


@step
async def wait_for(ctx: PyWorkflow, path: str) -> int:
    Path(path + ".began").touch()
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


@step
async def after(ctx: PyWorkflow) -> str:
    return "after"


@workflow
async def patient(ctx: PyWorkflow, path: str) -> list:
    return [await wait_for(ctx, path), await after(ctx)]


@workflow(name="hello")
async def greet(ctx: PyWorkflow, name: str) -> str:
    return f"hello {name}"


alias = greet
not_a_workflow = print
"""

APP = """
import os
from pgqrs import Admin
from pgqrs.codecs.fernet import FernetCodec
from shop.jobs import greet

KEY = {key!r}


def made():
    return Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"], codec=FernetCodec([KEY]))


async def made_later():
    return made()


def with_argument(dsn):
    return made()


def nothing():
    return None


admin = made() if "PGQRS_SCHEMA" in os.environ else None
number = 5
"""


@workflow
async def patient(ctx: PyWorkflow, path: str) -> list: ...


@workflow
async def hello(ctx: PyWorkflow, name: str) -> str: ...


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "jobs.py").write_text(MODULE)
    (tmp_path / "shop" / "app.py").write_text(APP.format(key=KEY))
    (tmp_path / "empty.py").touch()
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "copy_of_jobs.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def pgqrs_worker(dsn, schema, folder, children, forkery):
    """Run the command in a fork; `test_cli.py` starts it as a shell does."""
    command = folder / "command.py"
    command.write_text("from pgqrs.cli import main\nmain()\n")
    environment = {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": schema}
    return lambda *arguments: children.adopt(
        forkery.start(command, "worker", *arguments, cwd=folder, **environment)
    )


async def test_sigterm_drains_the_worker_and_exits_with_zero(admin, pgqrs_worker, folder):
    process = pgqrs_worker("shop.jobs", "--queue", "default=5", "--queue", "mail=2")
    greeted = await admin.options(queue="mail").enqueue(hello, "ann")
    assert await greeted.result(timeout=DEADLINE) == "hello ann"
    handle = await admin.enqueue(patient, str(folder / "go"))
    await until((folder / "go.began").exists)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.5)
    assert process.poll() is None
    (folder / "go").touch()
    code, out, err = await asyncio.to_thread(ended, process)
    assert (code, out) == (0, "")
    assert "has started" in err
    assert "Traceback" not in err
    assert await handle.status() == "PENDING"
    assert [(each.step_id, each.output) for each in await handle.steps()] == [("wait_for", process.pid)]
    pgqrs_worker("shop.jobs:patient")
    assert await handle.result(timeout=DEADLINE) == [process.pid, "after"]


async def test_second_signal_stops_the_worker_at_once(admin, pgqrs_worker, folder):
    process = pgqrs_worker("shop.jobs", "--grace", "600")
    handle = await admin.enqueue(patient, str(folder / "go"))
    await until((folder / "go.began").exists)
    process.send_signal(signal.SIGINT)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.3)
    process.send_signal(signal.SIGTERM)
    code, _, err = await asyncio.to_thread(ended, process)
    assert (code, "Traceback" in err) == (0, False)
    assert await handle.status() == "PENDING"


async def test_worker_runs_only_the_named_workflows(admin, pgqrs_worker, folder):
    pgqrs_worker("shop.jobs:alias")
    other = await admin.enqueue(patient, str(folder / "go"))
    assert await (await admin.enqueue(hello, "ann")).result(timeout=DEADLINE) == "hello ann"
    assert await other.status() == "PENDING"


async def test_workflows_of_another_codec_are_warned_of(dsn, installed, pgqrs_worker):
    async with Admin(dsn, installed, codec=FernetCodec([KEY])) as sealing:
        await sealing.enqueue(hello, "ann")
    process = pgqrs_worker("shop.jobs")
    warning = await line_of(process.stderr, "cannot read them")
    assert "workflows 'hello' are ready" in warning
    assert "the codec 'fernet+json', and the Admin of this worker has 'json'" in warning
    assert "pgqrs worker ... --admin MODULE:NAME" in warning


@pytest.mark.parametrize("name", ["admin", "made", "made_later"])
async def test_application_admin_runs_workflows_of_its_codec(dsn, installed, pgqrs_worker, name):
    process = pgqrs_worker("shop.jobs", "--admin", f"shop.app:{name}")
    async with Admin(dsn, installed, codec=FernetCodec([KEY])) as sealing:
        handle = await sealing.enqueue(hello, "ann")
        assert await handle.result(timeout=DEADLINE) == "hello ann"
    process.send_signal(signal.SIGTERM)
    code, _, err = await asyncio.to_thread(ended, process)
    assert (code, "Traceback" in err) == (0, False), err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop.app", "--admin takes MODULE:NAME"),
        ("shop.app:", "--admin takes MODULE:NAME"),
        ("no_such_module:admin", "there is no module 'no_such_module' here"),
        ("shop.app:no_such_name", "the module 'shop.app' has no 'no_such_name'"),
        ("shop.app:number", "shop.app:number is neither an Admin nor a function without arguments"),
        ("shop.app:with_argument", "is neither an Admin nor a function without arguments"),
        ("shop.app:Admin", "is neither an Admin nor a function without arguments"),
        ("shop.app:nothing", "shop.app:nothing must return an Admin, got an object of the class 'NoneType'"),
    ],
)
def test_invalid_admin_is_reported_on_one_line(folder, monkeypatch, target, message):
    result = _invoked(folder, monkeypatch, "shop.jobs", "--admin", target)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert message in result.output


@pytest.mark.parametrize("option", ["--dsn", "--schema"])
def test_admin_and_dsn_options_exclude_each_other(folder, monkeypatch, option):
    result = _invoked(folder, monkeypatch, "shop.jobs", "--admin", "shop.app:made", option, "other")
    assert result.exit_code == 2
    assert f"leave {option} out" in result.output


def test_missing_database_error_names_both_options(folder, monkeypatch):
    monkeypatch.delenv("PGQRS_DSN", raising=False)
    result = _invoked(folder, monkeypatch, "shop.jobs")
    assert result.exit_code == 2
    assert "Missing option '--dsn' (env var: 'PGQRS_DSN'), '--dsn-file' or '--admin'" in result.output


def _invoked(folder, monkeypatch, *arguments):
    """Call `pgqrs worker` in this process, in the folder of the modules, which it imports afresh."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("shop", "shop.jobs", "shop.app", "empty", "copy_of_jobs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return CliRunner().invoke(cli.main, ["worker", *arguments])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["no_such_module"], "there is no module 'no_such_module' here"),
        (["shop.no_such_module"], "there is no module 'shop.no_such_module' here"),
        (["no_such.module"], "there is no module 'no_such.module' here"),
        ([".jobs"], "'.jobs' is not the name of a module"),
        (["shop/jobs.py"], "is not the name of a module"),
        (["empty"], "no function that is decorated with @workflow"),
        (["shop.jobs:not_a_workflow"], "shop.jobs.not_a_workflow is not a function"),
        (["shop.jobs:nothing"], "shop.jobs.nothing is not a function"),
        (["shop.jobs", "copy_of_jobs"], "two workflows are named 'patient'"),
        (["shop.jobs", "--queue", ""], "invalid queue"),
    ],
)
def test_invalid_targets_are_reported_on_one_line(dsn, folder, monkeypatch, targets, message):
    result = _invoked(folder, monkeypatch, *targets, "--dsn", dsn)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert message in result.output


def test_failing_import_keeps_its_exception(dsn, folder, monkeypatch):
    result = _invoked(folder, monkeypatch, "broken", "--dsn", dsn)
    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exception.name == "no_such_module_anywhere"


async def test_log_may_be_json_with_the_ids(admin, pgqrs_worker):
    process = pgqrs_worker("shop.jobs", "--json")
    line = json.loads(await line_of(process.stderr, "has started"))
    assert (line["level"], line["logger"]) == ("INFO", "pgqrs.worker")
    assert line["message"].endswith(f"has started, executor {line['executor_id']}")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_json_log_has_the_exception_and_keeps_its_own_names():
    record = logging.makeLogRecord(
        {"name": "shop", "levelname": "INFO", "msg": "it %s", "args": ("broke",), "level": 7}
    )
    try:
        raise ValueError("no\nlamp")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    found = json.loads(line)
    assert "\n" not in line
    assert (found["message"], found["level"], found["logger"]) == ("it broke", "INFO", "shop")
    assert "ValueError: no\nlamp" in found["exception"]


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        (["mail=0"], "whole number of at least 1"),
        (["mail="], "whole number of at least 1"),
        (["mail=fast"], "whole number of at least 1"),
        (["mail=2", "default"], "a share once"),
        (["mail=2", "mail=3"], "a share once"),
    ],
)
def test_invalid_shares_are_usage_errors(folder, monkeypatch, queues, message):
    options = [each for queue in queues for each in ("--queue", queue)]
    result = _invoked(folder, monkeypatch, "shop.jobs", *options)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("options", [["--concurrency", "0"], ["--grace", "-1"], []])
def test_invalid_options_are_usage_errors(dsn, options):
    targets = ["shop.jobs"] if options else []
    assert CliRunner().invoke(cli.main, ["worker", *targets, "--dsn", dsn, *options]).exit_code == 2


def test_missing_tables_are_reported(pgqrs_worker, schema):
    code, _, err = ended(pgqrs_worker("shop.jobs"))
    assert code == 1
    assert f"Error: pgqrs is not installed in the schema '{schema}'" in err
    assert "Traceback" not in err
