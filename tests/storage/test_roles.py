"""Three roles with the rights that `pgqrs sql` prints and docs/production.md lists, and no more."""

import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio
from click.testing import CliRunner

from pgqrs import (
    Admin,
    Batch,
    ConfigurationError,
    DatabaseError,
    PyWorkflow,
    Update,
    Worker,
    WorkflowNotFoundError,
    step,
    workflow,
)
from pgqrs.cli import main
from pgqrs.models import Base
from pgqrs.storage.schema.grants import _OF_WORKER, grants
from pgqrs.storage.schema.migrate import VERSION_TABLE
from tests.support.database import connected
from tests.support.retention import passed, retention_of


@step
async def packed(ctx: PyWorkflow, what: str) -> str:
    return f"packed {what}"


@workflow
async def shipped(ctx: PyWorkflow, what: str) -> str:
    await ctx.sleep(0.01)
    return await packed(ctx, what)


@workflow(batch=Batch(2, within=0))
async def stamped(ctx: PyWorkflow, letters: list[str]) -> list[str]:
    return [f"stamped {each}" for each in letters]


ASK = Update("ask", str, str)


@workflow
async def agreeing(ctx: PyWorkflow) -> None:
    await (await ctx.receive(ASK)).reply("yes")


def as_role(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


@pytest_asyncio.fixture
async def roles(own_database):
    """Make an installer, a worker and a producer, whose names need quotes, in a database that gives PUBLIC nothing."""
    suffix = uuid.uuid4().hex[:8]
    names = [f"{kind}-{suffix}" for kind in ("installer", "worker", "producer")]
    async with connected(own_database) as root:
        database = await root.fetchval("SELECT current_database()")
        await root.execute(
            f'REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE CREATE ON DATABASE "{database}" FROM PUBLIC'
        )
        for name in names:
            await root.execute(f'CREATE ROLE "{name}" LOGIN')
        await root.execute(f'GRANT CREATE ON DATABASE "{database}" TO "{names[0]}"')
        yield names
        for name in names:
            await root.execute(f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


async def test_printed_grants_suffice_for_each_role(own_database, roles):
    installer, worker, producer = roles
    script = CliRunner().invoke(main, ["sql", "--grant-to", worker, "--producer", producer])
    assert script.exit_code == 0, script.output
    async with connected(as_role(own_database, installer)) as owner:
        await owner.execute(script.output)
    async with (
        Admin(as_role(own_database, producer)) as producing,
        Admin(as_role(own_database, worker)) as working,
        Worker(working, [shipped, agreeing, stamped]),
    ):
        await producing.install()  # a read, where the tables are current
        await producing.verify()
        handles = [await producing.options(key="k").enqueue(shipped, "a lamp") for _ in range(2)]
        await producing.options(queue="unserved", attributes={"customer": 7}).enqueue(shipped, "a lamp")
        assert (await producing.list_workflows(attributes={"customer": 7}))[0].queue == "unserved"
        handles += await producing.enqueue_many(shipped, [("a lamp",), ("a foot",)], key=str)
        held = await producing.options(unique="v", queue="unserved").enqueue(shipped, "a lamp")
        for own in (
            {"unique": "v", "throttle": 60.0},
            {"unique": "v", "taken": "replace"},
        ):
            options: Any = own
            with pytest.raises(DatabaseError) as refused:
                await producing.options(**options).enqueue(shipped, "a lamp")
            assert refused.value.sqlstate == "42501"
            assert (await working.options(**options, queue="unserved").enqueue(shipped, "a lamp")).id == held.id
        await working.options(unique="v", taken="replace").enqueue(shipped, "a lamp")
        assert await held.result(timeout=30) == "packed a lamp"
        assert handles[0].id == handles[1].id
        assert {await each.result(timeout=30) for each in handles} == {"packed a lamp", "packed a foot"}
        assert await producing.options(key="a").with_start(agreeing).update(ASK, "well?", timeout=30) == "yes"
        assert await working.run(shipped, "a shade") == "packed a shade"
        with pytest.raises(DatabaseError) as refused:
            await producing.cancel_workflow(handles[0].id)
        assert refused.value.sqlstate == "42501"
        waiting = await working.options(queue="unserved").enqueue(shipped, "a cord")
        await working.cancel_workflow(waiting.id)
        await working.resume_workflow(waiting.id)
        assert len(await working.list_workflows()) == 8
        assert await (await producing.enqueue(stamped, "a letter")).result(timeout=30) == "stamped a letter"
        await working.verify(deep=True)
        result = await handles[1].result()
        async with connected(as_role(own_database, installer)) as owner:
            ago = "now() - interval '99 d'"
            await owner.execute(
                f"UPDATE pgqrs.pgqrs_workflows SET created_at = {ago}, completed_at = {ago} WHERE status = 'SUCCESS'"
            )
        await working.set_retention(archive=timedelta(days=30))
        assert await passed(working) > 3  # the function of the archive has the rights of the installer
        assert await handles[1].result(timeout=30) == result
        async with retention_of(working) as steps:
            await steps.drop_months()
        with pytest.raises(WorkflowNotFoundError):
            await handles[1].result(timeout=30)


def test_sql_from_head_prints_only_grants():
    output = CliRunner().invoke(main, ["sql", "--schema", 'o"dd', "--from", "head", "--grant-to", "app"]).output
    assert output.splitlines()[0] == 'GRANT USAGE ON SCHEMA "o""dd" TO "app";'
    assert all(line.startswith("GRANT ") for line in output.splitlines())


def test_grants_cover_each_table():
    assert set(_OF_WORKER) == {each.name for each in Base.metadata.sorted_tables} | {VERSION_TABLE}


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"], ids=ascii)
def test_invalid_role_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="role"):
        grants("pgqrs", workers=[name])
