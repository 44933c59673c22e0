"""`Admin.doctor` names the conditions that slow pgqrs down, and what to do."""

import pytest

from pgqrs import Admin
from pgqrs.client.doctor import checks
from tests.support.database import connected
from tests.support.retention import aged


def named(findings, kind):
    return [each for each in findings if each.kind == kind]


async def test_sound_server_has_no_finding_that_needs_action(admin):
    found = [
        each for each in await admin.doctor() if each.kind not in {"replication slot", "retention", "standby"}
    ]
    own = [each for each in found if each.severity != "ok"]
    assert [each for each in own if each.kind not in {"long transaction", "idle in transaction"}] == []
    assert {"tables", "autovacuum", "dead rows", "indexes", "rights", "clock"} <= {each.kind for each in found}
    assert all(str(each).startswith(each.severity.upper()) for each in found)


async def test_idle_session_is_named(admin, dsn, monkeypatch):
    monkeypatch.setattr(checks, "IDLE_IN_TRANSACTION", 0.0)
    async with connected(dsn) as other:
        pid = other.get_server_pid()
        await other.execute("SET application_name = 'forgetful'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        found = named(await admin.doctor(), "idle in transaction")
        (own,) = [each for each in found if each.facts["pid"] == pid]
        assert own.severity == "warning"
        assert "forgetful" in own.sentence
        assert "keeps dead rows" in own.sentence
        assert f"pg_terminate_backend({pid})" in own.advice
        await other.execute("ROLLBACK")


@pytest.mark.new_tables
async def test_broken_indexes_and_tables_are_named(admin, sql):
    await sql.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_pgqrs_workflows_due'::regclass;"
        "DROP INDEX ix_pgqrs_messages_new;"
        "ALTER TABLE pgqrs_waits SET (autovacuum_enabled = false)"
    )
    found = await admin.doctor()
    assert "ix_pgqrs_workflows_due" in named(found, "invalid index")[0].sentence
    assert named(found, "missing index")[0].facts == {"missing": ["ix_pgqrs_messages_new"]}
    assert "pgqrs_waits" in named(found, "autovacuum")[0].sentence
    assert [each.severity for each in found] == sorted(
        (each.severity for each in found), key=["error", "warning", "info", "ok"].index
    )


@pytest.mark.new_tables
async def test_dead_rows_and_bloat_are_named(admin, sql, monkeypatch):
    monkeypatch.setattr(checks, "MANY_DEAD", (0.0, 10))
    monkeypatch.setattr(checks, "LARGE_INDEX", 0)
    monkeypatch.setattr(checks, "BLOATED", 0.5)
    for _ in range(20):
        await aged(sql)
    await sql.execute("ANALYZE pgqrs_workflow_steps")
    await sql.execute(
        "DELETE FROM pgqrs_workflows; DELETE FROM pgqrs_workflow_steps; DELETE FROM pgqrs_attributes"
    )
    await sql.execute("SELECT pg_stat_force_next_flush()")
    found = await admin.doctor()
    assert any("pgqrs_workflows has" in each.sentence for each in named(found, "dead rows"))
    assert named(found, "index bloat")


async def test_inactive_slot_is_named(admin, sql, schema):
    name = f"s_{schema}"
    await sql.execute("SELECT pg_create_physical_replication_slot($1, true)", name)
    try:
        (own,) = [each for each in named(await admin.doctor(), "replication slot") if each.facts["name"] == name]
        assert own.severity == "warning"
    finally:
        await sql.execute("SELECT pg_drop_replication_slot($1)", name)


async def test_retention_says_what_it_keeps_and_when_it_is_late(admin, sql):
    parent = await aged(sql, 10)
    await aged(sql, 100, parent_id=parent, parent_step="start:1", place=0)
    await admin.set_retention()
    (found,) = named(await admin.doctor(), "retention")
    assert found.facts["kept"] == {"are children of a workflow that stays": 1}
    await sql.execute(
        "UPDATE pgqrs_retention SET starts_at = now() - interval '9 d', next_at = now() - interval '3 d'"
    )
    (late,) = named(await admin.doctor(), "retention")
    assert (late.severity, "3 days" in late.sentence) == ("warning", True)
    await admin.set_retention(None, None)
    assert named(await admin.doctor(), "retention")[0].severity == "info"


async def test_missing_tables_and_rights_are_named(dsn, schema, installed, sql):
    async with Admin(dsn, f"{schema}_none") as without:
        assert named(await without.doctor(), "tables")[0].severity == "error"
    role = f"r_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    await sql.execute(f"GRANT SELECT ON {schema}.pgqrs_version, {schema}.pgqrs_retention TO {role}")
    parts = dsn.rpartition("@")
    try:
        async with Admin(f"postgresql://{role}@{parts[2]}", schema) as admin:
            found = await admin.doctor()
        assert "DELETE" in named(found, "rights")[0].facts["pgqrs_workflows"]
        assert named(found, "sessions")[0].facts["hidden"] >= 1
        assert "failed" in named(found, "retention")[0].sentence  # it may not read the workflows
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
