"""The commands `pgqrs schedule ...`."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from pgqrs import Admin, Cron, PyWorkflow, workflow
from pgqrs.cli import main


@workflow
async def report(ctx: PyWorkflow, what: str = "sales") -> str:
    return f"{what} for {ctx.scheduled_for}"


@pytest.fixture
def _scheduled(dsn, sound):
    """A schedule; no event loop runs, because each command has one of its own."""

    async def make():
        async with Admin(dsn, sound) as admin:
            await admin.schedule("s", Cron("0 3 * * *", "Europe/Berlin"), report)

    asyncio.run(make())


@pytest.mark.usefixtures("_scheduled")
def test_commands_control_a_schedule(dsn, schema):
    def run(*arguments):
        result = CliRunner().invoke(main, ["schedule", *arguments, "--dsn", dsn, "--schema", schema])
        assert result.exit_code == 0, result.output
        return result.output

    (listed,) = json.loads(run("list", "--json"))
    assert (listed["name"], listed["rule"], listed["within"]) == ("s", "0 3 * * * (Europe/Berlin)", 86400.0)
    lines = run("list").splitlines()
    assert [lines[0].split(), lines[1].split()[:2]] == [
        ["NAME", "WORKFLOW", "RULE", "NEXT", "LAST", "STATE"],
        ["s", "report"],
    ]
    assert json.loads(run("pause", "s", "--json"))["paused_at"] is not None
    assert "is active; its next time is" in run("resume", "s")
    assert len(json.loads(run("next", "s", "--count", "3", "--json"))) == 3
    assert json.loads(run("trigger", "s", "--json"))["id"] == 1
    period = "2025-03-28T00:00:00+01:00", "2025-03-31T00:00:00Z"
    expected = ["2025-03-28T02:00:00+00:00", "2025-03-29T02:00:00+00:00", "2025-03-30T01:00:00+00:00"]
    assert json.loads(run("backfill", "s", *period, "--dry-run", "--json")) == expected
    assert "has started 3 workflows" in run("backfill", "s", *period)
    assert json.loads(run("backfill", "s", *period, "--json")) == []
    assert "has started 1 workflow." in run("backfill", "s", "2025-03-27T00:00:00Z", "2025-03-28T00:00:00Z")
    assert json.loads(run("list", "--json"))[0]["last_at"] is None
    assert run("delete", "s") == "The schedule 's' is deleted.\n"
    assert json.loads(run("list", "--json")) == []


@pytest.mark.usefixtures("_scheduled")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pause", "t"], "there is no schedule 't'"),
        (["delete", "t\x1b[31m"], r"there is no schedule 't\x1b[31m'"),
        (["trigger", "\udcff"], "lone surrogate"),
        (["next", "n" * 9000], "at most 512 bytes"),
        (["next", "s", "--count", "0"], "x>=1"),
        (
            ["backfill", "s", "2025-03-28", "2025-03-31"],
            "SINCE needs an offset, as 2026-11-27T00:00:00+01:00 has one",
        ),
        (["backfill", "s", "x", "y"], "SINCE must be a time"),
        (["backfill", "s", "0001-01-01T00:00:00+01:00", "2025-01-01T00:00:00Z"], "at most 10,000 times"),
        (["backfill", "s", "2025-01-02T00:00:00Z", "2025-01-01T00:00:00Z"], "must not be before"),
        (["backfill", "s", "2025-01-02T00:00:00Z", "9999-12-31T23:59:59-10:00"], "must not be later than now"),
    ],
    ids=lambda each: " ".join(map(ascii, each))[:40] if isinstance(each, list) else "",
)
def test_wrong_input_is_refused_without_a_traceback(dsn, schema, arguments, message):
    result = CliRunner().invoke(main, ["schedule", *arguments, "--dsn", dsn, "--schema", schema])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {1, 2}
    assert message in result.output
