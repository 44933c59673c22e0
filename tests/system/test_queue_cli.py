"""The commands `pgqrs queue`."""

import asyncio
import json

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
    await admin.delete_queue("rare")
    assert (await command("pause", "mail")).splitlines()[1].split() == [
        "mail",
        "5",
        "2",
        "-",
        "0",
        "0",
        "0",
        "-",
        "paused",
    ]
    assert [each["name"] for each in json.loads(await command("list", "--json"))] == ["mail"]
    assert (await command("resume", "mail")).endswith("active\n")
    assert (await command("set", "mail")).splitlines()[1].split()[1:3] == ["-", "-"]
    assert await admin.list_queues() == []
    held = await command("set", "mail", "--concurrency", "1", "--holds", "until_end")
    assert held.splitlines()[1].split()[3] == "until_end"
    assert [each.holds for each in await admin.list_queues()] == ["until_end"]
    ordered = await command("set", "mail", "--ordered", "--no-fair")
    assert ordered.splitlines()[1].split()[:4] == ["mail", "-", "1", "ordered,not_fair"]
    assert [(each.ordered, each.fair) for each in await admin.list_queues()] == [(True, False)]
    await admin.delete_queue("mail")
    assert json.loads(await command("list", "--json")) == []


async def test_wrong_options_are_refused_in_one_line(command):
    assert "KEY=NUMBER" in await command("set", "mail", "--weight", "gold", code=2)
    assert "NUMBER/SECONDS" in await command("set", "mail", "--rate", "fast", code=2)
    assert "more than 0" in await command("set", "mail", "--weight", "gold=0", code=1)
    await command("set", "mail", "--concurrency", "0", code=2)
