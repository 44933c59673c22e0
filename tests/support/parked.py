"""Rows of very many parked workflows, as workers leave them."""

from __future__ import annotations

import os

import pytest

MANY = int(os.environ.get("PGQRS_TEST_PARKED", "1000000"))
"""The parked workflows of the slow tests."""

SIZES = [20_000, pytest.param(MANY, marks=pytest.mark.slow)]


async def plant_waiting(sql, count, *, new=False):
    """Fill the tables with workflows that wait, each for a topic of its own and for an event."""
    await sql.execute(
        f"""
        INSERT INTO pgqrs_workflows (name, status, epoch, claim, input)
            SELECT 'w', 'WAITING', 1, 5, '{{}}' FROM generate_series(1, {count});
        INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at)
            SELECT id, 's', 'RUNNING', 1, now() FROM pgqrs_workflows WHERE claim = 5 AND status = 'WAITING'
            ON CONFLICT DO NOTHING;
        INSERT INTO pgqrs_waits (workflow_id, step_id, address, claim, is_new)
            SELECT w.id, 's', address, 5, {new}
            FROM pgqrs_workflows w, LATERAL (VALUES ('m/' || w.id || '/t'), ('e/never')) AS a (address)
            WHERE w.status = 'WAITING' ON CONFLICT DO NOTHING;
        """
    )
