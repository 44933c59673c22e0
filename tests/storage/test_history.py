"""The history of a workflow is read in portions, so that a workflow with a large history can be resumed."""

import asyncio
import json

import pytest
from sqlalchemy import event

from pgqrs import PyWorkflow, step, workflow
from pgqrs.storage.access import histories
from pgqrs.storage.queries import steps as step_queries
from pgqrs.storage.records import StoredOutcome


@step(key=lambda n, size: n)
async def part(ctx: PyWorkflow, n: int, size: int) -> str:
    return f"{n}:" + "x" * size


@workflow
async def parts(ctx: PyWorkflow, sizes: list[int]) -> list[int]:
    return [len(await part(ctx, n, size)) for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "sizes",
    [[10] * 30, [60_000] * 12, [10, 500_000, 10, 10, 300_000, 10], []],
    ids=["small outcomes", "several portions", "larger than a portion", "none"],
)
async def test_history_of_any_size_is_complete(admin, sql, monkeypatch, sizes):
    await sql.execute("ALTER TABLE pgqrs_workflow_steps ALTER output SET STORAGE EXTERNAL")  # not compressed
    monkeypatch.setattr(histories, "HISTORY_BYTES", 100_000)
    monkeypatch.setattr(step_queries, "HISTORY_BYTES", 100_000)
    monkeypatch.setattr(step_queries, "histories", step_queries.histories.__wrapped__)
    assert await admin.run(parts, sizes) == [len(str(n)) + 1 + size for n, size in enumerate(sizes)]
    own = await admin.store()
    read = []
    texts = step_queries.StepRepository.texts

    async def counted(self, workflow_id, step_ids):
        read.append(len(step_ids))
        return await texts(self, workflow_id, step_ids)

    monkeypatch.setattr(step_queries.StepRepository, "texts", counted)
    history = await own.history(1)
    values = {f"part:{n}": f"{n}:" + "x" * size for n, size in enumerate(sizes)}
    assert {step_id: json.loads(each.output) for step_id, each in history.outcomes.items()} == values
    assert all(isinstance(each, StoredOutcome) and each.error is None for each in history.outcomes.values())
    assert (sum(read) > 0) == (sum(sizes) > 100_000)
    assert len(read) <= len(sizes)


def test_portions_of_very_many_small_outcomes_are_formed_at_once():
    """A look at all steps of a portion for each further step would take minutes."""
    later = [(f"part:{n}", 20) for n in range(300_000)]
    portions = list(histories._portions(later))
    assert [each for portion in portions for each in portion] == later
    assert [len(each) for each in portions] == [
        histories.HISTORY_BYTES // 20,
        300_000 - histories.HISTORY_BYTES // 20,
    ]


async def test_small_history_is_read_by_one_statement(admin, monkeypatch):
    await admin.run(parts, [10] * 500)

    async def unwanted(self, workflow_id, step_ids):
        raise AssertionError("one statement is enough")

    monkeypatch.setattr(step_queries.StepRepository, "texts", unwanted)
    assert len((await (await admin.store()).history(1)).outcomes) == 500


async def test_histories_of_one_claim_are_read_by_two_statements(admin):
    count = histories.MAX_HISTORIES
    for _ in range(count + 1):
        await admin.create_workflow("w")
    own = await admin.store()
    read = []
    event.listen(own.database.engine.sync_engine, "before_cursor_execute", lambda *told: read.append(told[2]))
    await asyncio.gather(*(own.history(n) for n in range(1, count + 1)))
    assert len(read) == 2
    await asyncio.gather(*(own.history(n) for n in range(1, count + 2)))
    assert len(read) == 2 + 4
    first, again = await asyncio.gather(own.history(1), own.history(1))
    assert first == again
    assert first.outcomes is not again.outcomes  # each run adds to its own


async def test_histories_that_are_read_together_are_complete(admin, sql, monkeypatch):
    await sql.execute("ALTER TABLE pgqrs_workflow_steps ALTER output SET STORAGE EXTERNAL")
    monkeypatch.setattr(histories, "HISTORY_BYTES", 100_000)
    monkeypatch.setattr(step_queries, "HISTORY_BYTES", 100_000)
    monkeypatch.setattr(step_queries, "histories", step_queries.histories.__wrapped__)
    sizes = [[10], [60_000] * 3, [], [500_000, 10], [10, 10]]
    for each in sizes:
        await admin.run(parts, each)
    own = await admin.store()
    found = await asyncio.gather(*(own.history(n + 1) for n in range(len(sizes))))
    lengths = [[len(json.loads(each.output)) for each in history.outcomes.values()] for history in found]
    assert list(map(sorted, lengths)) == [sorted(2 + size for size in each) for each in sizes]


async def test_cancelled_reader_of_a_history_takes_no_other_along(admin):
    await admin.run(parts, [10])
    own = await admin.store()
    first, second = (asyncio.ensure_future(own.history(1)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert len((await second).outcomes) == 1
