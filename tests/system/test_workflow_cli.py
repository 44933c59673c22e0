"""The commands that list, show, explain and change workflows."""

import asyncio
import json
import os
import sys

import pytest
from click.testing import CliRunner

from pgqrs import PyWorkflow, Topic, Worker, step, workflow
from pgqrs.cli import main
from tests.support.queues import QUEUE, planted
from tests.support.waiting import until

PAID = Topic("paid", int)


@pytest.fixture
def command(dsn, installed):
    """Run `pgqrs` on the schema of the test, and return its output."""

    async def run(*arguments, code=0, given=None):
        options = {"env": {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": installed}, "input": given}
        found = await asyncio.to_thread(CliRunner().invoke, main, arguments, **options)
        assert found.exit_code == code, found.output
        return found.stdout

    return run


@step
async def charge(ctx: PyWorkflow, amount: int) -> str:
    if amount < 0:
        raise ValueError("no\nmoney \x1b[31m")
    return "x" * amount


@workflow
async def order(ctx: PyWorkflow, amount: int) -> str:
    await ctx.set_event("stage", "charged")
    return await charge(ctx, amount)


@workflow
async def payment(ctx: PyWorkflow) -> int:
    return await ctx.receive(PAID)


async def failed(admin, amount=-1):
    with pytest.raises(ValueError, match="money"):
        await admin.run(order, amount)
    return (await admin.list_workflows(status="ERROR", limit=1))[0].id


async def test_ls_lists_filters_counts_and_pages(admin, command, sql):
    await planted(sql, "ada", 3)
    broken = await failed(admin)
    found = json.loads(await command("ls", "--json", "--limit", "2", "--queue", QUEUE))
    assert [each["partition_key"] for each in found["workflows"]] == ["ada", "ada"]
    rest = json.loads(await command("ls", "--json", "--queue", QUEUE, "--after", str(found["next"])))
    assert len(rest["workflows"]) == 1
    table = (await command("ls", "--status", "error", "--since", "1h")).splitlines()
    assert table[1].split()[:3] == [str(broken), "order", "ERROR"]
    assert r"ValueError: no\nmoney \x1b[31m" in table[1]
    assert (await command("ls", "--since", "2999-01-01T00:00:00Z")).splitlines()[1:] == []
    assert sorted(each.split()[2] for each in (await command("ls", "--count")).splitlines()[1:]) == ["1", "3"]
    assert (
        "ISO 8601"
        in (await asyncio.to_thread(CliRunner().invoke, main, ["ls", "--dsn", "x", "--since", "soon"])).output
    )


async def test_show_prints_steps_events_and_cut_values(admin, command):
    await admin.run(order, 700)
    (record,) = await admin.list_workflows()
    shown = await command("show", str(record.id))
    assert f"workflow {record.id}: order, SUCCESS" in shown
    assert "event stage: charged" in shown
    assert "x" * 701 not in shown
    assert "x" * 700 in await command("show", str(record.id), "--full")
    values = json.loads(await command("show", str(record.id), "--json"))
    assert values["workflow"]["output"] == "x" * 700
    assert [each["step_id"] for each in values["steps"]][-1:] == ["charge"]
    assert "there is no workflow 999999" in await command_error(command, "show", "999999")


async def command_error(command, *arguments):
    with pytest.raises(AssertionError) as caught:
        await command(*arguments)
    return str(caught.value)


async def test_why_tells_what_a_workflow_waits_for(admin, command, dsn, installed):
    handle = await admin.enqueue(payment)
    async with Worker(admin, [payment]):
        await until(lambda: is_waiting(command, handle.id))
        assert "paid" in await command("why", str(handle.id))
        assert len(json.loads(await command("workers", "--json"))) == 1
        assert "payment" not in (await command("workers")).splitlines()[0]
        followed = await tailing(dsn, installed, handle.id)
        await command("send", str(handle.id), "--topic", "paid", "--value", "5")
        assert await handle.result() == 5
        steps, end = (await followed.communicate())[0].decode().splitlines()
        assert "paid" in steps
        assert end == f"workflow {handle.id} ended: SUCCESS"
        assert followed.returncode == 0


async def test_cancel_and_resume_take_ids_or_filters(admin, command, sql):
    ids = await planted(sql, None, 3)
    report = json.loads(await command("cancel", str(ids[0]), "--json"))
    assert (report["found"], report["changed"]) == (1, 1)
    assert "found 2, would change 2" in await command(
        "cancel", "--queue", QUEUE, "--status", "PENDING", "--dry-run"
    )
    await command("cancel", "--queue", QUEUE, "--status", "PENDING", code=1, given="n\n")
    assert len(await admin.list_workflows(status="PENDING")) == 2
    await command("cancel", "--queue", QUEUE, "--status", "PENDING", given="y\n")
    assert len(await admin.list_workflows(status="CANCELLED")) == 3
    await command("resume", "--queue", QUEUE, "--yes")
    assert len(await admin.list_workflows(status="PENDING")) == 3
    await command("resume", str(ids[0]), code=1)


async def tailing(dsn, schema, workflow_id):
    options = ["tail", str(workflow_id), "--interval", "0.05", "--schema", schema]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pgqrs.cli",
        *options,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PGQRS_DSN": dsn},
    )


async def is_waiting(command, workflow_id):
    reasons = json.loads(await command("why", str(workflow_id), "--json"))["reasons"]
    return "message" in [each["kind"] for each in reasons]


@pytest.mark.parametrize("arguments", [(), ("5", "--name", "order")])
async def test_action_wants_either_ids_or_a_filter(command, arguments):
    await command("cancel", *arguments, code=2)


async def test_condition_that_no_workflow_can_have_is_one_line(command):
    told = await command_error(command, "ls", "--tag", "")
    assert "Error: " in told
    assert "Traceback" not in told


async def test_send_refuses_a_value_that_is_no_json(command):
    await command("send", "5", "--topic", "paid", "--value", "{", code=2)


async def test_dsn_is_read_from_a_file(dsn, installed, tmp_path):
    file = tmp_path / "dsn"
    file.write_text(f"{dsn}\nnot this\n")
    options = ["ls", "--dsn-file", str(file), "--schema", installed]
    found = await asyncio.to_thread(CliRunner().invoke, main, options, env={"PGQRS_DSN": None})
    assert found.exit_code == 0, found.output
    file.write_text("\n")
    found = await asyncio.to_thread(CliRunner().invoke, main, options, env={"PGQRS_DSN": None})
    assert "is empty" in found.output


async def test_commands_use_the_admin_of_an_application(dsn, installed, tmp_path, monkeypatch):
    (tmp_path / "own_shop.py").write_text(f"from pgqrs import Admin\nadmin = Admin({dsn!r}, {installed!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = await asyncio.to_thread(CliRunner().invoke, main, ["ls", "--admin", "own_shop:admin", "--json"])
    assert json.loads(found.stdout) == {"workflows": [], "next": None}


async def test_doctor_prints_findings_as_text_and_json(command):
    found = json.loads(await command("doctor", "--json"))
    assert {"ok", "info", "warning"} >= {each["severity"] for each in found}
    assert found[0]["kind"] in await command("doctor")


async def test_top_shows_queues_workers_and_failures(admin, command, sql):
    await planted(sql, None, 3)
    broken = await failed(admin)
    shown = await command("top", "--once")
    assert QUEUE in shown
    assert str(broken) in shown.partition("Latest failures")[2]


async def test_rewind_purge_export_and_import_a_workflow(admin, command, tmp_path):
    await admin.run(order, 3)
    (record,) = await admin.list_workflows()
    own = str(record.id)
    document = tmp_path / "workflow.json"
    document.write_text(await command("export", own))
    imported = (await command("import", str(document))).strip()
    assert await admin.handle(int(imported)).result() == "xxx"
    assert "found 1, changed 1" in await command("rewind", own, "--before", "charge")
    assert [each.step_id for each in await admin.handle(record.id).steps()] == ["set_event/stage:1"]
    await command("purge", own, code=1)
    assert "found 1, changed 1" in await command("purge", imported)
    await command("show", imported, code=1)
    document.write_text("{")
    await command("import", str(document), code=1)
