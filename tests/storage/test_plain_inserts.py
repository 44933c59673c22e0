"""Records that are only inserted, since the run knows of no row of theirs; the database may have one."""

import asyncio

import pytest

from pgqrs import PyWorkflow, RetryPolicy, WorkflowFencedError, step, workflow
from pgqrs.observer import Observer
from pgqrs.storage.records import Claim, StoredOutcome
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import NewRun
from pgqrs.storage.writes.operation import ID_TAKEN
from pgqrs.storage.writes.steps import NewOutcome, StepOutcome
from tests.support.journal_records import claimed, offered, submit
from tests.support.waiting import until
from tests.support.workflows import numbered


def outcome(workflow_id, output="1"):
    return NewOutcome(workflow_id, 1, "s", output, None, 0.0)


async def begun(admin):
    """Begin a workflow, and return its id."""
    ctx = await admin.create_workflow("w")
    await ctx.start()
    return ctx.id()


@pytest.mark.parametrize("others", [0, 20])
async def test_outcome_sent_again_has_its_first_value(admin, sql, others):
    store = await admin.store()
    first, *new = [await begun(admin) for _ in range(1 + others)]
    assert await offered(store.journal, [outcome(first)]) == [StoredOutcome("1", None)]
    before = store.journal.statements
    results = await offered(store.journal, [outcome(each, "2") for each in (*new, first)])
    assert results == [*[StoredOutcome("2", None)] * others, StoredOutcome("1", None)]
    assert store.journal.statements - before == 3  # refused, sent to replace rows, and asked for
    rows = await sql.fetch("SELECT workflow_id, output FROM pgqrs_workflow_steps ORDER BY 1")
    assert [tuple(each) for each in rows] == [(first, "1"), *((each, "2") for each in new)]


async def test_outcome_replaces_the_mark_that_its_step_runs(admin, sql):
    store = await admin.store()
    workflow_id = await begun(admin)
    await offered(store.journal, [StepOutcome(workflow_id, 1, "s", None, None, 0.0)])
    assert await offered(store.journal, [outcome(workflow_id)]) == [StoredOutcome("1", None)]
    assert await sql.fetchval("SELECT status FROM pgqrs_workflow_steps") == "SUCCESS"


async def test_outcome_of_a_stale_run_is_fenced_alone(admin, sql):
    store = await admin.store()
    stale, current = await begun(admin), await begun(admin)
    records = await claimed(store.database, outcome(stale), outcome(current))
    await (await admin.get_workflow(stale)).start()
    answers = [await submit(store.journal, each) for each in records]
    fenced, written = await asyncio.gather(*answers, return_exceptions=True)
    assert isinstance(fenced, WorkflowFencedError)
    assert written == StoredOutcome("1", None)
    assert await sql.fetchval("SELECT workflow_id FROM pgqrs_workflow_steps") == current


@pytest.mark.plants_rows  # no executor is registered
async def test_workflow_sent_again_has_its_claim(admin, sql):
    store = await admin.store()
    first = NewRun(await store.ids.next(), "w", "{}", store.executor_id, None, token=new_token())
    claim = Claim(1, token=first.token)
    assert await offered(store.journal, [first]) == [claim]
    assert await offered(store.journal, [first, outcome(await begun(admin))]) == [claim, StoredOutcome("1", None)]
    assert await offered(store.journal, [first._replace(token=new_token())]) == [ID_TAKEN]
    assert await sql.fetchval("SELECT token FROM pgqrs_workflows WHERE id = $1", first.workflow_id) == first.token


class Sent(Observer):
    """The records of outcomes, by the ids of their steps."""

    def __init__(self):
        self.kinds = {}

    async def writing(self, records):
        """Note the records."""
        for each in records:
            if isinstance(each, StepOutcome):
                self.kinds.setdefault(each.step_id, []).append(type(each))


async def test_only_a_step_without_a_row_is_plainly_inserted(admin, sql):
    sent = Sent()

    @step
    async def slow(ctx: PyWorkflow) -> None:
        await until(lambda: "slow" in sent.kinds)

    @step(retry=RetryPolicy(2, initial=0.01))
    async def retried(ctx: PyWorkflow) -> None:
        if "retried" not in failed:
            failed.append("retried")
            raise OSError

    @workflow
    async def mixed(ctx: PyWorkflow) -> None:
        await numbered(ctx, 1)
        await slow(ctx)
        await retried(ctx)
        if len(runs) == 0:
            runs.append(ctx.id())
            raise KeyboardInterrupt
        await numbered(ctx, 2)

    failed, runs = [], []
    async with admin.twin(observer=sent) as twin:
        with pytest.raises(KeyboardInterrupt):
            await twin.run(mixed)
        ctx = await twin.get_workflow(runs[0])
        await mixed(ctx)
    first, second = (each for each in sent.kinds if each.startswith("numbered"))
    assert sent.kinds == {
        first: [NewOutcome],
        "slow": [StepOutcome, StepOutcome],
        "retried": [StepOutcome],
        second: [StepOutcome],
    }
