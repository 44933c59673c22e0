"""Three roles with the rights that `pgqrs sql` prints and docs/production.md lists, and no more."""

import uuid
from collections.abc import Awaitable
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
    Cron,
    DatabaseError,
    PyWorkflow,
    Rate,
    Update,
    Worker,
    WorkflowCancelledError,
    WorkflowFilter,
    WorkflowNotFoundError,
    step,
    workflow,
)
from pgqrs.cli import main
from pgqrs.models import Base
from pgqrs.storage.schema.grants import _OF_WORKER, RoleKind, grants
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


@workflow
async def breaking(ctx: PyWorkflow) -> None:
    raise ValueError("no lamp")


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
    """Make an installer and a role of each kind, whose names need quotes, in a database that gives PUBLIC nothing."""
    suffix = uuid.uuid4().hex[:8]
    names = [f"{kind}-{suffix}" for kind in ("installer", *RoleKind)]
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
    installer, worker, producer, _, _ = roles
    script = CliRunner().invoke(main, ["sql", "--role", f"worker={worker}", "--role", f"producer={producer}"])
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


async def installed(dsn: str, roles: list[str]) -> list[str]:
    """Install the tables with the rights that the command prints; return the DSNs of the kinds of roles."""
    installer, *named = roles
    options = [f"--role={kind}={name}" for kind, name in zip(RoleKind, named, strict=True)]
    script = CliRunner().invoke(main, ["sql", *options])
    async with connected(as_role(dsn, installer)) as owner:
        await owner.execute(script.output)
    return [as_role(dsn, name) for name in named]


async def refused(call: Awaitable[object]) -> None:
    with pytest.raises(DatabaseError) as caught:
        await call
    assert caught.value.sqlstate == "42501", caught.value


async def test_operator_acts_on_everything_and_runs_nothing(own_database, roles):
    worker, _, operator, _ = await installed(own_database, roles)
    async with Admin(operator, outage_timeout=1) as operating, Admin(worker) as working:
        await working.set_queue("mail", concurrency=2, rate=Rate(100, per=1.0), ordered=True)
        mail = working.options(queue="mail", partition_key="ann", unique="letter", attributes={"n": 1})
        letter = await mail.enqueue(shipped, "a letter")
        parcel = await working.options(queue="mail", partition_key="ben").enqueue(agreeing)
        waiting = await working.enqueue(agreeing)
        failing = await working.enqueue(breaking)
        await working.schedule("nightly", Cron("0 3 * * *"), shipped, "a lamp")
        async with Worker(working, [shipped, agreeing, breaking]), Worker(working, [shipped], queues={"mail": 1}):
            with pytest.raises(ValueError, match="no lamp"):
                await failing.result(timeout=30)
            await operating.cancel_workflow(waiting.id)
            with pytest.raises(WorkflowCancelledError):
                await waiting.result(timeout=30)
            assert await letter.result(timeout=30) == "packed a letter"
            assert (await operating.why(parcel.id)).reasons
            assert await operating.list_workers()
        await operating.resume_workflow(failing.id)
        await operating.cancel_workflow(failing.id)
        await operating.rewind(letter.id, before="packed")
        assert await operating.list_rewinds(letter.id)
        assert len(await operating.list_steps(letter.id)) == 1
        assert [each.id for each in await operating.list_workflows(attributes={"n": 1})] == [letter.id]
        await operating.send(parcel.id, "note", "hello")
        await operating.emit("opened", True)
        for act in (operating.cancel_workflows, operating.resume_workflows):
            await act(WorkflowFilter(name="agreeing"))
        await operating.set_queue("mail", concurrency=3)
        await operating.pause_queue("mail")
        await operating.resume_queue("mail")
        assert [each.name for each in await operating.list_queues()] == ["default", "mail"]
        schedule = await operating.find_schedule("nightly")
        await schedule.pause()
        await schedule.resume()
        await schedule.trigger()
        await schedule.delete()
        await operating.set_retention(days=10)
        assert (await operating.retention()).kept == timedelta(days=10)
        assert await operating.doctor()
        await operating.verify(deep=True)
        await operating.export_workflow(letter.id)
        await operating.cancel_workflow(letter.id)
        await operating.cancel_workflow(parcel.id)
        await operating.purge([letter.id, parcel.id, waiting.id, failing.id])
        await operating.delete_queue("mail")
        await refused(operating.run(shipped, "a lamp"))
        async with connected(operator) as direct:
            for table in ("pgqrs_workflow_steps", "pgqrs_executors", "pgqrs_workers"):
                assert not await direct.fetchval("SELECT has_table_privilege($1, 'INSERT')", f"pgqrs.{table}")


async def test_viewer_reads_everything_and_writes_nothing(own_database, roles):
    worker, _, _, viewer = await installed(own_database, roles)
    async with Admin(viewer, outage_timeout=0.1) as viewing, Admin(worker) as working:
        handle = await working.enqueue(agreeing)
        await working.set_queue("mail", concurrency=2)
        await working.schedule("nightly", Cron("0 3 * * *"), shipped, "a lamp")
        await viewing.install()
        await viewing.verify(deep=True)
        assert [each.id for each in await viewing.list_workflows()] == [handle.id]
        assert await viewing.why(handle.id)
        assert await viewing.list_steps(handle.id) == []
        assert [each.name for each in await viewing.list_queues()] == ["default", "mail"]
        assert [each.name for each in await viewing.list_schedules()] == ["nightly"]
        assert await viewing.list_workers() == []
        assert await viewing.doctor()
        assert await viewing.export_workflow(handle.id)
        await viewing.retention()
        await refused(viewing.enqueue(shipped, "a lamp"))
        await refused(viewing.cancel_workflow(handle.id))
        await refused(viewing.set_queue("mail", concurrency=1))
        await refused(viewing.purge([handle.id]))
        await refused((await viewing.find_schedule("nightly")).pause())
        await refused(viewing.set_retention(days=10))
        await refused(viewing.emit("opened", True))
        await refused(viewing.send(handle.id, "note", 1))


def test_sql_from_head_prints_only_grants():
    command = ["sql", "--schema", 'o"dd', "--from", "head", "--role", "worker=app"]
    output = CliRunner().invoke(main, command).output
    assert output.splitlines()[0] == 'GRANT USAGE ON SCHEMA "o""dd" TO "app";'
    assert all(line.startswith("GRANT ") for line in output.splitlines())


def test_grants_cover_each_table():
    assert set(_OF_WORKER) == {each.name for each in Base.metadata.sorted_tables} | {VERSION_TABLE}


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"], ids=ascii)
def test_invalid_role_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="role"):
        grants("pgqrs", [(RoleKind.WORKER, name)])


@pytest.mark.parametrize("value", ["app", "boss=app", "=app", "worker"])
def test_command_names_the_kinds_of_roles(value):
    done = CliRunner().invoke(main, ["sql", "--role", value])
    assert done.exit_code == 2
    assert "worker=NAME, producer=NAME, operator=NAME, viewer=NAME" in " ".join(done.output.split())
