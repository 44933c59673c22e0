"""The snippets of the specification, if the specification is beside the checkout.

Every Python snippet must compile; every one must run, to exit code 0 and with nothing on stderr, with the DSN
put in and with the names that it leaves open supplied (`PRELUDE`). What a snippet defines is called (`CALLS`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_GIVEN = os.environ.get("PGQRS_SPEC")
SPEC = Path(_GIVEN) if _GIVEN else Path(__file__).parents[2] / ".." / "shared" / "spec"
DOCUMENT = SPEC / "python-workflow-api.md" if SPEC.is_dir() else SPEC
TEXT = DOCUMENT.read_text() if DOCUMENT.is_file() else ""
SNIPPETS = [
    (TEXT.count("\n", 0, found.start()) + 2, found[1])
    for found in re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]
PROGRAMS = [(line, source) for line, source in SNIPPETS if "asyncio.run(" in source]
TESTS = [(line, source) for line, source in SNIPPETS if "import pytest" in source]
FRAGMENTS = [snippet for snippet in SNIPPETS if snippet not in PROGRAMS + TESTS]

pytestmark = pytest.mark.skipif(not SNIPPETS, reason="the specification is not beside the checkout (PGQRS_SPEC)")

PRELUDE = """
import asyncio, os, types
from datetime import datetime
from pgqrs import Admin, PyWorkflow, TransientError
from pgqrs.decorators import step, workflow

ReturnType = object

class PermanentError(Exception): pass

class http_client:
    @staticmethod
    async def get(path):
        return types.SimpleNamespace(json=lambda: {"id": 1, "name": "ann", "path": path})

class notification_service:
    @staticmethod
    async def send(**what): pass

async def external_call(data):
    if data == "permanent": raise PermanentError(data)
    return data

def process(data): return data.upper()

def process_data(data): return data

expected = "test"

@step
async def _checked(ctx: PyWorkflow, data: str) -> str:
    if data == "bad_data": raise ValueError("bad data")
    return "expected"

@workflow
async def my_workflow(ctx: PyWorkflow, data: str) -> str:
    return await _checked(ctx, data)
"""

# What each snippet defines is called with these, in a workflow of its own; "..." bodies return None.
CALLS = """
CALLS = {
    "my_step": ["x"], "my_workflow": ["x"], "step_name": [], "workflow_name": [], "fetch_user": [1],
    "process_user": [{"id": 1, "name": "ann"}], "transform": ["x"], "step_one": ["x"], "step_two": ["x"],
    "my_pipeline": ["x"], "manual_step": ["x"], "risky_step": ["x"], "error_demo": ["x"], "may_fail": ["x"],
    "crash_demo": ["x"], "fetch_user_profile": [1], "fetch_user_orders": [1], "fetch": [1], "get_data": [],
    "get_timestamp": [], "send_notification": ["u1"], "robust_step": ["permanent"],
    "create_workflow": None, "setup": None,
}
RESULTS = {
    "my_pipeline": "step2_step1_x", "manual_step": "X", "error_demo": "ok_x", "may_fail": "success",
    "process_user": {"id": 1, "name": "ANN", "processed": True}, "send_notification": "sent",
    "robust_step": {"success": False, "error": "permanent"}, "get_data": {"id": 1, "name": "test"},
}
"""

RUNNER = """
import ast, inspect, json, sys

async def call(admin, name, function):
    if CALLS[name] is None:
        made = await function()
        assert isinstance(made, PyWorkflow)
        return
    ctx = await admin.create_workflow(name)
    result = await function(ctx, *CALLS[name])
    assert result == RESULTS.get(name, result), (name, result)

async def run(line, source):
    async with Admin(os.environ["PGQRS_DSN"], None) as admin:
        await admin.install()
        names = dict(globals(), ctx=await admin.create_workflow("snippet"))
        code = compile(source, f"snippet at line {line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.iscoroutine(running):
            await running
        for node in ast.parse(source).body:
            if not isinstance(node, ast.AsyncFunctionDef):
                continue
            defined = names[node.name]
            if node.name == "crash_demo":
                ctx = await admin.create_workflow("crash_demo")
                try:
                    await defined(ctx, "test")
                except RuntimeError as error:
                    print(f"RuntimeError: {error}")
                print("Result:", await defined(ctx, "test"))
            elif not (node.name == "step_two" and "CRASH_ON_STEP_TWO" in names):
                await call(admin, node.name, defined)
    print("done", line, flush=True)

with open(sys.argv[1]) as file:
    snippets = json.load(file)
for line, source in snippets:
    asyncio.run(run(line, source))
"""


def with_dsn(source, dsn):
    return re.sub(r'"postgresql://[^"]*"', lambda _: repr(dsn), source)


def output_shown_after(line):
    """Return the plain block that follows the snippet at `line`: the output that the document shows."""
    rest = "\n".join(TEXT.splitlines()[line - 1 :])
    return re.search(r"^### Output\n+```\n(.*?)^```", rest, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize(("line", "source"), SNIPPETS, ids=[f"line{line}" for line, _ in SNIPPETS])
def test_the_snippet_compiles(line, source):
    compile(source, f"{DOCUMENT}:{line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.without_replay("what the body prints is compared")
def test_programs_print_the_documented_output(run_program, own_database):
    quick_start, complete = PROGRAMS
    ran = run_program(with_dsn(complete[1], own_database), dev=True)
    assert ran == (0, output_shown_after(complete[0]), "")
    ran = run_program(with_dsn(quick_start[1], own_database), dev=True)
    assert ran == (0, "processed_test\n", "")


def test_fragments_run_with_one_mismatch_warning(run_program, own_database, tmp_path):
    snippets = tmp_path / "snippets.json"
    snippets.write_text(json.dumps([(line, with_dsn(source, own_database)) for line, source in FRAGMENTS]))
    code, out, err = run_program(PRELUDE + CALLS + RUNNER, str(snippets), dev=True, PGQRS_DSN=own_database)
    # The specification's own example of a step that is called twice without a key says that the second call is skipped.
    [warning] = err.splitlines()
    assert code == 0, out + err
    assert "'transform' answers a call with different arguments" in warning, err
    assert [int(line.split()[1]) for line in out.splitlines() if line.startswith("done")] == [
        line for line, _ in FRAGMENTS
    ]
    run_1 = "[step_one] Executing\n[step_two] Executing\nRuntimeError: Crash!\n"
    assert f"{run_1}[step_two] Executing\nResult: s2_s1_test\n" in out
    assert "Step is terminal: bad data\n" in out


def test_the_test_snippets_pass(own_database, tmp_path):
    stub = tmp_path / "testcontainers" / "postgres.py"
    stub.parent.mkdir()
    stub.parent.joinpath("__init__.py").touch()
    form = own_database.replace("postgresql://", "postgresql+psycopg2://")
    stub.write_text(
        "class PostgresContainer:\n"
        "    def __init__(self, image): pass\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *error): pass\n"
        f"    def get_connection_url(self): return {form!r}\n"
    )
    for line, source in TESTS:
        tmp_path.joinpath(f"test_line{line}.py").write_text(PRELUDE + source)
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", *options, "-o",
         "asyncio_default_fixture_loop_scope=function", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
