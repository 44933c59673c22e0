"""The commands `pgqrs queue`."""

import asyncio
import json
from datetime import datetime

import pytest
from click.testing import CliRunner

from pgqrs.cli import main


@pytest.fixture
def command(dsn, installed):
    """Run `pgqrs queue` on the schema of the test, and return its output."""

    async def run(*arguments, code=0):
        options = {"env": {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": installed}}
        found = await asyncio.to_thread(CliRunner().invoke, main, ["queue", *arguments], **options)
        assert found.exit_code == code, found.output
        return found.output

    return run


async def test_commands_set_pause_and_list_queues(admin, command):
    (record,) = json.loads(
        await command(
            "set", "mail", "--concurrency", "5", "--partition-concurrency", "2", "--weight", "a=b=4", "--json"
        )
    )
    assert (record["concurrency"], record["partition_concurrency"], record["weights"]) == (5, 2, {"a=b": 4.0})
    (found,) = await admin.list_queues()
    assert (found.name, found.concurrency, found.partition_concurrency) == ("mail", 5, 2)
    (record,) = json.loads(
        await command("set", "rare", "--rate", "100/60:20", "--partition-rate", "1/2.5", "--json")
    )
    assert record["rate"] == {"limit": 100, "per": 60.0, "burst": 20}
    assert record["partition_rate"] == {"limit": 1, "per": 2.5, "burst": 1}
    assert (await command("list")).splitlines()[2].split()[1:5] == ["-", "-", "100/60:20", "1/2.5:1"]
    assert (await command("delete", "rare")).splitlines()[1].split()[1:6] == ["-"] * 5
    paused = "mail 5 2 - - - 0 0 0 - paused"
    assert (await command("pause", "mail")).splitlines()[1].split() == paused.split()
    (record,) = json.loads(await command("list", "--json"))
    assert record["name"] == "mail"
    assert datetime.fromisoformat(record["paused_at"]).isoformat() == record["paused_at"]
    assert (await command("resume", "mail")).endswith("active\n")
    assert (await command("set", "mail")).splitlines()[1].split()[1:3] == ["-", "-"]
    assert await admin.list_queues() == []
    held = await command("set", "mail", "--concurrency", "1", "--holds", "until_end")
    assert held.splitlines()[1].split()[5] == "until_end"
    assert [each.holds for each in await admin.list_queues()] == ["until_end"]
    ordered = await command("set", "mail", "--ordered", "--no-fair")
    assert ordered.splitlines()[1].split()[:6] == ["mail", "-", "1", "-", "-", "ordered,not_fair"]
    assert [(each.ordered, each.fair) for each in await admin.list_queues()] == [(True, False)]
    await admin.delete_queue("mail")
    assert json.loads(await command("list", "--json")) == []


async def test_wrong_options_are_refused_in_one_line(command):
    assert "KEY=NUMBER" in await command("set", "mail", "--weight", "gold", code=2)
    refused = await command("set", "mail", "--partition-rate", "fast", code=2)
    assert "Invalid value for '--partition-rate': a rate is NUMBER/SECONDS[:BURST]" in refused
    assert "at least 0.000001" in await command("set", "mail", "--weight", "gold=0", code=1)
    await command("set", "mail", "--concurrency", "0", code=2)


async def test_name_cannot_command_the_terminal(admin, command):
    """Any producer may name a queue."""
    await admin.set_queue("a\x1b[31m\nb\u202ec", concurrency=1)
    await admin.set_queue("n" * 300, concurrency=1)
    lines = (await command("list")).splitlines()
    assert lines[1].split()[:2] == [r"a\x1b[31m\nb\u202ec", "1"]
    assert (len(lines), len(lines[1]) < 150) == (3, True)
    assert lines[2].startswith("n" * 300 + "  1")
    assert json.loads(await command("list", "--json"))[0]["name"] == "a\x1b[31m\nb\u202ec"
