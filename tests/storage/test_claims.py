"""Claims: selection of ready workflows, cost, and completeness."""

import asyncio
import time
from uuid import uuid4

import pytest

from pgqrs import Admin, PyWorkflow, Worker, workflow
from pgqrs.storage import claim_connection as watch_module
from pgqrs.storage import claim_floor as floor_module
from pgqrs.storage.claim_floor import EVERY, LONGEST_WITHOUT, ClaimFloor
from pgqrs.storage.sql.channels import payload_of, queue_channel
from pgqrs.worker import runner as runs_module
from pgqrs.worker.claimer import MAX_HINT_PAUSE, MIN_HINT_PAUSE, Claimer
from tests.support.executors import planted_executor, watching
from tests.support.recorded import row_of
from tests.support.waiting import until

NAMES = [f"w{n}" for n in range(6)]


async def planted(sql, count, *, name="w", priority=0, payload="{}"):
    """Enqueue workflows by hand, and return their ids."""
    rows = await sql.fetch(
        "INSERT INTO pgqrs_workflows (name, input, queue, ready_at, priority)"
        " SELECT $1, $2::json, 'default', now(), $3 FROM generate_series(1, $4) RETURNING id",
        name, payload, priority, count,
    )  # fmt: skip
    return [row["id"] for row in rows]


def ids_of(runs):
    return [run.workflow_id for run in runs]


async def test_concurrent_claims_take_the_highest_priority(store, sql):
    high = [each for name in NAMES for each in await planted(sql, 20, name=name, priority=9)]
    low = [each for name in NAMES for each in await planted(sql, 40, name=name)]
    async with watching(store) as one, watching(store) as two, watching(store) as three:
        watches = [one, two, three]
        for each in watches:
            await each.claim(["none"], ["default"], 1)
        for _ in range(4):
            taken = await asyncio.gather(*(each.claim(NAMES, ["default"], 10) for each in watches))
            found = [each for runs in taken for each in ids_of(runs)]
            assert len(found) == 30
            assert set(found) <= set(high)
        assert set(ids_of(await one.claim(NAMES, ["default"], 10))) <= set(low)


async def test_claim_locks_only_the_claimed_rows(watch, sql):
    for name in NAMES:
        await planted(sql, 30, name=name)
    async with sql.transaction():
        assert len(await watch.claim(NAMES, ["default"], 10)) == 10
        locked = "SELECT count(*) FROM pgqrs_workflows WHERE xmax <> 0 AND ready_at IS NOT NULL"
        assert await sql.fetchval(locked) == 0


async def test_claim_skips_many_locked_rows(watch, sql, monkeypatch):
    monkeypatch.setattr(watch_module, "_SLACK", 1)
    watch._slack = 1
    ids = await planted(sql, 12)
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = ANY($1) FOR UPDATE", ids[:6])
        assert ids_of(await watch.claim(["w"], ["default"], 2)) == ids[6:8]
        assert watch.statements > 1
    assert ids_of(await watch.claim(["w"], ["default"], 12)) == [*ids[:6], *ids[8:]]


async def test_interrupted_claim_finds_its_claimed_workflows_again(watch, sql, monkeypatch):
    watch._slack = 1
    ids = await planted(sql, 6)
    fetch, sent = watch._fetch, []

    async def failing(statement, values):
        sent.append(statement)
        if len(sent) == 2:
            raise TimeoutError
        return await fetch(statement, values)

    monkeypatch.setattr(watch, "_fetch", failing)
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", ids[0])
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", ids[1])
        with pytest.raises(TimeoutError):
            await watch.claim(["w"], ["default"], 4)
        assert ids_of(await watch.claim(["w"], ["default"], 4)) == ids[2:5]
    assert ids_of(await watch.claim(["w"], ["default"], 4)) == [*ids[:2], ids[5]]


# The bytes of what is claimed


async def test_claim_bounds_the_bytes_of_its_inputs(watch, sql):
    ids = await planted(sql, 5, payload='"' + "".join(str(uuid4()) for _ in range(28)) + '"')  # a kilobyte
    assert ids_of(await watch.claim(["w"], ["default"], 5, 2500)) == ids[:3]
    assert ids_of(await watch.claim(["w"], ["default"], 5, 1)) == ids[3:4]


async def test_claim_estimates_the_size_of_compressed_inputs(watch, sql):
    await planted(sql, 3, payload='"' + "x" * 2_000_000 + '"')  # 23 KB as it is stored
    assert len(await watch.claim(["w"], ["default"], 3, 3_000_000)) == 2
    assert len(await watch.claim(["w"], ["default"], 3, 1_000_000)) == 1


async def test_worker_bounds_the_bytes_of_concurrent_inputs(admin, set_in_statements):
    set_in_statements(runs_module, "MAX_CLAIM_BYTES", 30_000)
    held = asyncio.Semaphore(0)
    inside, most = set(), []

    @workflow
    async def large(ctx: PyWorkflow, page: str) -> int:
        inside.add(ctx.id())
        most.append(len(inside))
        await held.acquire()
        inside.discard(ctx.id())
        return len(page)

    async with asyncio.timeout(30), Worker(admin, [large]):
        page = "".join(str(uuid4()) for _ in range(600))
        handles = await admin.enqueue_many(large, [(page,)] * 6)
        await until(lambda: len(inside) == 2)
        for _ in handles:
            held.release()
        assert [await each.result() for each in handles] == [21_600] * 6
    assert max(most) == 2


# Rows that no pgqrs has written


@pytest.mark.plants_rows
@pytest.mark.parametrize(
    "column",
    ["timeout = 'NaN'", "timeout = 1e300", "timeout = -1e300", "deadline = 'infinity'", "due_at = 'infinity'",
     "attempts = 9223372036854775807", "epoch = 9223372036854775807", "started_at = '-infinity'"],
)  # fmt: skip
async def test_row_with_invalid_numbers_stops_no_worker(admin, watch, sql, column):
    (odd,) = await planted(sql, 1)
    await sql.execute(f"UPDATE pgqrs_workflows SET {column} WHERE id = $1", odd)
    ids = await planted(sql, 2)
    assert set(ids_of(await watch.claim(["w"], ["default"], 10))) | {odd} == {odd, *ids}
    await watch.run_maintenance(["w"], ["default"])


@pytest.mark.plants_rows
@pytest.mark.parametrize("timeout", ["NaN", "1e300", "-1e300"])
async def test_workflow_with_an_invalid_timeout_can_be_claimed_by_id(admin, sql, timeout):
    (odd,) = await planted(sql, 1)
    await sql.execute("UPDATE pgqrs_workflows SET timeout = $2::text::float8 WHERE id = $1", odd, timeout)
    claim = await (await admin.store()).claim(odd)
    assert (claim.epoch, claim.succeeded) == (1, False)


@pytest.mark.plants_rows
async def test_exhausted_epoch_does_not_stop_recovery(watch, sql):
    dead = await planted_executor(sql, expires_in=-1.0)
    ids = await planted(sql, 2)
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'RUNNING', ready_at = NULL, executor = $1, deadline = now() - interval '1 h',"
        " epoch = CASE WHEN id = $2 THEN 9223372036854775807 ELSE 1 END", dead, ids[0],
    )  # fmt: skip

    async def is_taken_over():
        await watch.run_maintenance(["w"], ["default"])
        return (await row_of(sql, ids[1]))["executor"] is None

    await until(is_taken_over)


# The floor


class _Time:
    now = 100.0

    def __call__(self):
        return self.now


def test_claim_floor_lies_below_ready_and_claimed_ids(monkeypatch):
    monkeypatch.setattr(floor_module, "MARGIN", 10)
    floor = ClaimFloor(time := _Time())
    assert floor.is_due
    assert floor.of("a") == 0
    floor.claimed([40, 50])
    floor.look()
    floor.looked(None, 0.001, again=False)
    assert not floor.is_due
    assert floor.of("a") == 40
    floor.lower(30)
    assert floor.of("a") == 29
    time.now += EVERY
    assert floor.is_due
    floor.look()
    floor.lower(20)  # it may have become ready after the look
    floor.looked(38, 1000.0, again=False)
    assert floor.of("a") == 19
    time.now += LONGEST_WITHOUT
    assert floor.is_due
    floor.look()
    floor.looked(38, 0.001, again=True)
    assert floor.of("a") == 37
    assert floor.is_due  # there was more to do
    assert floor.of("b") == 0
    assert floor.is_due


async def test_workflow_ready_below_the_claim_floor_is_found(admin, sql, watch, monkeypatch):
    monkeypatch.setattr(floor_module, "MARGIN", 0)
    old, new, last = await planted(sql, 3)
    await sql.execute(
        "UPDATE pgqrs_workflows SET ready_at = NULL, status = 'WAITING', due_at = 'infinity' WHERE id = $1", old
    )

    async def claimed():
        return ids_of(await watch.claim(["w"], ["default"], 1))

    async def made_ready():
        await sql.execute(
            "UPDATE pgqrs_workflows SET ready_at = now(), due_at = NULL, executor = NULL, status = 'PENDING' WHERE id = $1",
            old,
        )

    assert await claimed() == [new]
    await watch.run_maintenance(["w"], ["default"])
    assert watch._floor._floor == new
    await made_ready()
    assert await claimed() == [last]  # bounded
    assert await claimed() == []
    await (await admin.store()).notify_queue("default", old)
    await until(lambda: watch._floor._floor < old)
    assert await claimed() == [old]

    watch._floor.claimed([last])
    await watch.run_maintenance(["w"], ["default"])
    await until(lambda: watch._floor.is_due)
    await watch.run_maintenance(["w"], ["default"])
    await made_ready()
    assert await claimed() == []
    await until(lambda: watch._floor.is_due)  # within a second
    assert (await watch.run_maintenance(["w"], ["default"])).ready
    assert await claimed() == [old]


async def test_worker_finds_a_workflow_resumed_below_its_claim_floor(admin, sql, monkeypatch):
    monkeypatch.setattr(floor_module, "MARGIN", 0)

    @workflow
    async def flow(ctx: PyWorkflow) -> int:
        return 1

    async with asyncio.timeout(30), Worker(admin, [flow]) as worker:
        first = await admin.enqueue(flow)
        await first.result()
        watch = worker._services._claim_connection
        for _ in range(3):
            await (await admin.enqueue(flow)).result()
        await until(lambda: watch._floor._floor > first.id)
        await sql.execute("UPDATE pgqrs_workflows SET status = 'ERROR', error = '{}' WHERE id = $1", first.id)
        began = time.monotonic()
        await admin.resume_workflow(first.id)
        assert await first.result() == 1
        assert time.monotonic() - began < LONGEST_WITHOUT + 2


# Hints


class _Slots:
    free = 10
    room = 1

    def __init__(self):
        self.taken = []

    def run(self, claimed):
        self.taken.append(claimed)


async def test_useless_notifications_are_throttled():
    claimed_at, ready = [], []

    async def claim(limit, room):
        claimed_at.append(time.monotonic())
        await asyncio.sleep(0)
        found, ready[:] = list(ready), []
        return found

    claims = Claimer(claim, slots := _Slots())
    claims.start()
    await until(lambda: claims._rest_when_idle > 1)
    claimed_at.clear()
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        claims.nudge()
        await asyncio.sleep(0.001)
    assert len(claimed_at) <= 2 + 0.5 / MIN_HINT_PAUSE
    before = len(claimed_at)
    await until(lambda: time.monotonic() > claims._paused_until and claims._pause_timer is None)
    ready.append("work")
    claims.nudge()
    await until(lambda: slots.taken)
    ready.append("more")
    claims.nudge()  # the one before was for something: this one is acted upon at once
    await until(lambda: len(slots.taken) == 2)
    assert len(claimed_at) >= before + 2
    assert MIN_HINT_PAUSE < MAX_HINT_PAUSE
    await claims.stop()


async def test_foreign_notifications_cause_few_claims(admin, sql, schema):
    @workflow
    async def idle(ctx: PyWorkflow) -> None: ...

    async with asyncio.timeout(30), Worker(admin, [idle]) as worker:
        watch = worker._services._claim_connection
        await until(lambda: worker._services._claimer._rest_when_idle > 0.1)
        before, began = watch.statements, time.monotonic()
        while time.monotonic() - began < 1:
            await sql.execute("SELECT pg_notify($1, $2)", queue_channel(schema), payload_of("default", 1))
        assert watch.statements - before < 100
        await sql.execute("SELECT pg_notify($1, $2)", queue_channel(schema), payload_of("default", 1) + "x")


async def test_notifications_do_not_reveal_queue_names(schema, admin, dsn, sql):
    assert "salaries" not in payload_of("salaries", 7)
    assert Admin(dsn, schema).schema not in queue_channel(schema)
