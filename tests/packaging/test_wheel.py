"""The wheel and the sdist, tried the way a user gets them: installed, and far from the checkout."""

import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from pgqrs.models import HEAD, Base

OWN_SHARE_OF_IMPORT = 0.55
"""The tables and records of nineteen models take a third of it; 0.42 to 0.45 on a quiet machine."""

END_TO_END = """
import asyncio
from pgqrs import Admin, PyWorkflow, step, workflow

@step
async def double(ctx: PyWorkflow, n: int) -> int:
    print("doubling")
    return 2 * n

@workflow
async def calculate(ctx: PyWorkflow, n: int) -> int:
    return await double(ctx, n) + 1

async def main() -> None:
    async with Admin("embedded://{folder}") as admin:
        await admin.install()
        ctx = await admin.create_workflow("calculate", 20)
        print(await calculate(ctx, 20))
        print(await calculate(await admin.get_workflow(ctx.id()), 20))

asyncio.run(main())
"""


def test_wheel_contains_only_the_package(artifacts):
    names = zipfile.ZipFile(artifacts.wheel).namelist()
    info = f"pgqrs-{version('pgqrs')}.dist-info"
    assert {name.split("/")[0] for name in names} == {"pgqrs", "pytest_pgqrs.py", info}
    assert not {"tests", "__pycache__"} & {part for name in names for part in Path(name).parts}
    assert {
        "pgqrs/py.typed",
        "pgqrs/migrations/env.py",
        "pgqrs/migrations/script.py.mako",
        *(
            f"pgqrs/dashboard/{each}"
            for each in ("templates/base.html", "static/dashboard.css", "static/htmx-LICENSE.txt")
        ),
        "pgqrs/telemetry/grafana/alerts.yaml",
        "pgqrs/telemetry/grafana/dashboard.json",
        f"{info}/licenses/LICENSE",
    } <= set(names)
    assert [name for name in names if name.startswith(f"pgqrs/migrations/versions/{HEAD}")]


def test_sdist_contains_migrations_tests_and_examples(artifacts):
    with tarfile.open(artifacts.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "alembic.ini",
        "migrations/env.py",
        "pgqrs/py.typed",
    } <= names
    assert {"tests/packaging/test_wheel.py", "examples/quickstart.py"} <= names


def test_import_is_light(bare):
    done = bare.python(
        "import sys, pgqrs; print(pgqrs.__file__, [m for m in sys.modules if m.partition('.')[0] == 'alembic'])"
    )
    file, _, alembic = done.stdout.strip().partition(" ")
    assert Path(file).is_relative_to(bare.folder)
    assert alembic == "[]"
    assert done.stderr == ""


def test_import_is_fast(bare):
    # CPU time, against that of what each engine of pgqrs loads: how long it takes depends on the machine and its load.
    timed = """
from time import process_time
start = process_time()
import sqlalchemy.orm, sqlalchemy.ext.asyncio, sqlalchemy.dialects.postgresql.asyncpg, asyncpg
built_on = process_time()
import pgqrs
print((process_time() - built_on) / (built_on - start))
"""
    assert min(float(bare.python(timed).stdout) for _ in range(7)) < OWN_SHARE_OF_IMPORT


def test_command_line_prints_its_version(bare):
    assert version("pgqrs") in bare.run("pgqrs", "--version").stdout


def test_command_line_prints_the_shipped_schema(bare):
    sql = bare.run("pgqrs", "sql").stdout
    assert [table for table in Base.metadata.tables if f"CREATE TABLE {table} " not in sql] == []


def test_embedded_without_its_extra_names_the_command(bare):
    code = "import asyncio, pgqrs\nasyncio.run(pgqrs.Admin('embedded://').install())"
    done = bare.python(code, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "EmbeddedServerError" in last
    assert "pip install 'pgqrs[embedded]'" in last


def test_workflow_runs_end_to_end(embedded, tmp_path):
    done = embedded.python(END_TO_END.format(folder=tmp_path / "data"))
    assert done.stdout.splitlines() == ["doubling", "41", "41"]
    assert done.stderr == ""


def test_quickstart_runs(embedded):
    quickstart = (Path(__file__).parents[2] / "examples" / "quickstart.py").read_text()
    done = embedded.python(quickstart)
    assert "a lamp" in done.stdout
    assert done.stderr == ""


def test_sdist_installs(from_sdist):
    assert version("pgqrs") in from_sdist.run("pgqrs", "--version").stdout
    assert "CREATE TABLE" in from_sdist.run("pgqrs", "sql").stdout
