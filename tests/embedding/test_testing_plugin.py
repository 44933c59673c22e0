"""The pytest plugin `pytest_pgqrs`, in runs of pytest of its own: with pytest-asyncio in its modes, anyio, and xdist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from pgqrs import embedded

pytest_plugins = ("pytester",)

WORKFLOWS = """
from datetime import timedelta

import pytest

from pgqrs import JsonCodec, PyWorkflow, Worker, step, workflow
from pgqrs.testing import assert_enqueued, crash_everywhere, run_enqueued


@step
async def greet(ctx: PyWorkflow, name: str) -> str:
    return f"Hello {name}"


@workflow
async def welcome(ctx: PyWorkflow, name: str) -> str:
    greeting = await greet(ctx, name)
    await ctx.sleep(timedelta(days=30))
    return greeting
"""

TESTS = """
@MARK
async def test_first_id_is_one(pgqrs_admin):
    assert (await pgqrs_admin.create_workflow("welcome")).id() == 1


@MARK
async def test_first_id_is_one_again(pgqrs_admin):
    handle = await pgqrs_admin.enqueue(welcome, "you")
    assert handle.id == 1
    await assert_enqueued(pgqrs_admin, welcome, "you")
    assert await run_enqueued(pgqrs_admin, [welcome]) == 1
    assert await handle.result() == "Hello you"
"""

CRASHES = """
@MARK
async def test_crashes(pgqrs_admin):
    assert await crash_everywhere(welcome, "you", admin=pgqrs_admin) == "Hello you"
"""

ANYIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

IN_FIXTURES = """
FIXTURE
async def worker(pgqrs_admin):
    async with Worker(pgqrs_admin, [welcome]) as worker:
        yield worker


@MARK
async def test_worker_of_a_fixture(worker, pgqrs_admin, pgqrs_clock):
    async with pgqrs_clock.skipping():
        assert await (await pgqrs_admin.enqueue(welcome, "you")).result(20) == "Hello you"


@MARK
async def test_worker_of_a_fixture_again(worker, pgqrs_admin, pgqrs_clock):
    handle = await pgqrs_admin.enqueue(welcome, "you")
    assert handle.id == 1
    async with pgqrs_clock.skipping():
        assert await handle.result(20) == "Hello you"
"""


FUNCTION_LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")
AUTO = ("-p", "no:anyio", "-o", "asyncio_mode=auto")


@pytest.fixture
def run(pytester, dsn, monkeypatch):
    """Run tests with every warning an error, in this process or in another, and return what came of them."""
    monkeypatch.setenv("PGQRS_TEST_DSN", dsn)

    def run(*options, how=pytester.runpytest_inprocess, **sources):
        pytester.makepyfile(**{f"test_{name}": WORKFLOWS + source for name, source in sources.items()})
        return how("-p", "pytest_pgqrs", "-W", "error", *options)

    return run


def marked(source, mark="", fixture="@pytest.fixture"):
    """Return tests with a mark, and a fixture as its plugin declares it."""
    return source.replace("@MARK\n", f"{mark}\n" if mark else "").replace("FIXTURE", fixture)


def test_plugin_works_with_pytest_asyncio_in_auto_mode(run, pytester):
    tests = marked(TESTS + CRASHES + IN_FIXTURES)
    run(*AUTO, *FUNCTION_LOOPS, how=pytester.runpytest_subprocess, it=tests).assert_outcomes(passed=5)


def test_plugin_works_with_a_loop_of_the_session(run):
    loops = [
        option for kind in ("fixture", "test") for option in ("-o", f"asyncio_default_{kind}_loop_scope=session")
    ]
    run(*AUTO, *loops, it=marked(TESTS + IN_FIXTURES)).assert_outcomes(passed=4)


def test_plugin_works_in_strict_mode_and_with_anyio_beside(run, pytester):
    pytester.makeconftest(ANYIO)
    strict = marked(TESTS + IN_FIXTURES, "@pytest.mark.asyncio", "import pytest_asyncio\n@pytest_asyncio.fixture")
    beside = marked(TESTS, "@pytest.mark.anyio")
    run("-o", "asyncio_mode=strict", *FUNCTION_LOOPS, strict=strict, beside=beside).assert_outcomes(passed=6)


def test_plugin_works_with_anyio(run, pytester):
    pytester.makeconftest(ANYIO)
    tests = marked(TESTS + CRASHES + IN_FIXTURES, "@pytest.mark.anyio")
    run("-p", "no:asyncio", it=tests).assert_outcomes(passed=5)


def test_xdist_workers_share_the_server(run, pytester):
    done = run(*AUTO, *FUNCTION_LOOPS, "-n", "2", how=pytester.runpytest_subprocess, it=marked(TESTS))
    done.assert_outcomes(passed=2)


SYNCHRONOUS = """
import asyncio

def test_plain(pgqrs_admin):
    assert asyncio.run(once(pgqrs_admin)) == 1
    assert asyncio.run(once(pgqrs_admin)) == 2

def test_unused(pgqrs_admin):
    pass

async def once(admin):
    return (await admin.create_workflow("welcome")).id()
"""

WITH_OPTIONS = """
@pytest.fixture
def pgqrs_admin_options():
    return {"timeout": 3.0, "codec": Codec()}

class Codec(JsonCodec):
    pass

def test_codec(pgqrs_admin, pgqrs_admin_options):
    assert pgqrs_admin.codec is pgqrs_admin_options["codec"]
"""


def test_synchronous_tests_and_options_of_the_admin_work(run):
    run("-p", "no:asyncio", plain=SYNCHRONOUS, options=WITH_OPTIONS).assert_outcomes(passed=3)


def test_embedded_server_is_the_default(run, pytester, monkeypatch):
    monkeypatch.delenv("PGQRS_TEST_DSN")
    done = run(*AUTO, *FUNCTION_LOOPS, how=pytester.runpytest_subprocess, it=marked(TESTS))
    done.assert_outcomes(passed=2)
    assert embedded.exists(f"embedded://{pytester.path}/.pgqrs/testing")


def test_unused_plugin_imports_nothing():
    code = "import sys, pytest; before = set(sys.modules); import pytest_pgqrs; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pytest_pgqrs"]


def test_pytest_lists_the_fixtures_of_the_plugin(run):
    done = run("--fixtures", "-p", "no:asyncio", it="")
    for line in ("pgqrs_admin*", "pgqrs_clock*", "pgqrs_dsn*"):
        done.stdout.fnmatch_lines([line])


def test_documented_tests_pass(pytester, dsn, monkeypatch):
    monkeypatch.setenv("PGQRS_TEST_DSN", dsn)
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    files = defaultdict(list)
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        files[name].append(code)
    assert sorted(files) == ["conftest.py", "models.py", "orders.py", "test_orders.py"]
    assert page.count("```python") == sum(map(len, files.values()))
    for name, codes in files.items():
        (pytester.path / name).write_text("\n\n".join(codes))
    done = pytester.runpytest_inprocess("-p", "pytest_pgqrs", "-W", "error", *AUTO, *FUNCTION_LOOPS)
    done.assert_outcomes(passed=sum(map("".join(files["test_orders.py"]).count, ["async def test_"])))
