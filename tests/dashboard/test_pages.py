"""The pages of the dashboard: their content, large values and ids, a lost database, a pool of one, live changes."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin, Cron, Every, PyWorkflow, Rate, StepRecord, Worker, step, workflow
from pgqrs.dashboard import app, stream
from pgqrs.dashboard.stream import changes
from pgqrs.dashboard.timeline import WIDTH, timeline
from pgqrs.errors import DatabaseUnavailableError
from pgqrs.schedules import in_words
from tests.support.dashboard import browser
from tests.support.waiting import no_hang, until

PAGES = ["/", "/list", "/queues", "/schedules", "/workers", "/doctor"]


@step
async def pay(ctx: PyWorkflow, amount: int) -> int:
    if amount < 0:
        raise ValueError("card declined")
    return amount


@workflow
async def order(ctx: PyWorkflow, amount: int) -> int:
    await ctx.set_event("stage", "paying")
    return await pay(ctx, amount)


@workflow
async def parent(ctx: PyWorkflow) -> int:
    child = await ctx.start(order, 7)
    await ctx.receive("go")
    return await child


async def test_pages_show_the_tables(admin):
    await admin.set_queue("default", concurrency=8, rate=Rate(100, 60, 20))
    await admin.pause_queue("held")
    await admin.schedule("nightly", Cron("0 3 * * *", "Europe/Berlin"), order, 1)
    own = browser(admin)
    async with no_hang(), Worker(admin, [order, parent]):
        failed = await admin.options(tags="eu").enqueue(order, -1)
        with pytest.raises(ValueError, match="declined"):
            await failed.result()
        waiting = await admin.enqueue(parent)

        async def is_waiting():
            return await waiting.status() == "WAITING" and await admin.list_workflows(
                parent=waiting.id, status="SUCCESS"
            )

        await until(is_waiting)
        assert "order, parent" in (await own.get("/workers")).text
        (worker,) = (await own.json("/workers"))["workers"]
        assert worker["names"] == ["order", "parent"]
    text = (await own.get(f"/workflow/{failed.id}")).text
    assert all(each in text for each in ("card declined", "pay", 'class="bar error"', "ended", "Resume", "paying"))
    text = (await own.get(f"/workflow/{waiting.id}")).text
    assert all(each in text for each in ("Children", "topic", "Cancel", "Send a message"))
    (child,) = (await own.json(f"/workflow/{waiting.id}"))["children"]
    assert child["name"] == "order"
    assert (await own.json(f"/workflow/{child['id']}"))["workflow"]["parent_id"] == str(waiting.id)
    assert f'workflow/{waiting.id}">{waiting.id}</a>' in (await own.get(f"/workflow/{child['id']}")).text
    overview = await own.json("/")
    assert (overview["created"], overview["failed"], overview["statuses"]["WAITING"]) == (3, 1, 1)
    assert [each["id"] for each in overview["failures"]] == [str(failed.id)]
    found = await own.json("/list?status=ERROR&tags=eu&since=1h")
    assert ([each["id"] for each in found["workflows"]], found["next"]) == ([str(failed.id)], None)
    assert "100 in 60.0 s, burst 20" in (await own.get("/queues")).text
    await admin.set_queue("mail", partition_concurrency=4)
    await admin.options(queue="mail", partition_key="ada").enqueue(order, 1)
    (partition,) = (await own.json("/queue?name=mail"))["partitions"]
    assert [partition[each] for each in ("partition_key", "ready", "running", "holding")] == ["ada", 1, 0, 0]
    assert "at most 4 runs of each" in (await own.get("/queue?name=mail")).text
    text = (await own.get("/schedules")).text
    assert "At 03:00 every day (Europe/Berlin)" in text
    assert text.count("<time") >= 3
    findings = (await own.json("/doctor"))["findings"]
    assert findings
    text = (await own.get("/doctor")).text
    assert all(each["kind"] in text for each in findings)
    for path, status in (("/workflow/999", 404), (f"/workflow/{2**70}", 404), ("/list?after=x", 400)):
        assert (await own.get(path)).status_code == status
        assert "error" in await own.json(path)


async def test_pages_of_the_list_follow_each_other(admin):
    await admin.enqueue_many(order, [(number,) for number in range(60)])
    own = browser(admin)
    first = await own.json("/list?name=order")
    second = await own.json(f"/list?name=order&after={first['next']}")
    ids = [int(each["id"]) for each in first["workflows"] + second["workflows"]]
    assert (ids, second["next"]) == (list(range(60, 0, -1)), None)
    assert 'rel="next"' in (await own.get("/list?name=order")).text


async def test_large_values_are_cut_and_not_listed(admin):
    @workflow
    async def large(ctx: PyWorkflow, text: str) -> str:
        return text

    await admin.run(large, "x" * 2_000_000)
    own = browser(admin)
    (record,) = await admin.list_workflows(payloads=False)
    assert (record.input, record.output, record.status) == (None, None, "SUCCESS")
    assert len((await own.get("/list")).text) < 20_000
    assert "input" not in (await own.json("/list"))["workflows"][0]
    text = (await own.get(f"/workflow/{record.id}")).text
    assert len(text) < 30_000
    assert "cut after" in text
    assert len((await own.json(f"/workflow/{record.id}"))["workflow"]["output"]) == 2_000_000


async def test_large_whole_numbers_stay_exact(admin, sql):
    handle = await admin.enqueue(order, 2**62 + 1)
    large = 2**62 + 3
    await sql.execute("UPDATE pgqrs_workflows SET id = $1 WHERE id = $2", large, handle.id)
    own = browser(admin)
    assert f'href="./workflow/{large}"' in (await own.get("/list")).text
    assert str(2**62 + 1) in (await own.get(f"/workflow/{large}")).text
    found = (await own.json(f"/workflow/{large}"))["workflow"]
    assert (found["id"], found["input"]["args"]) == (str(large), [str(2**62 + 1)])
    assert (await own.post(f"/workflow/{large}/cancel")).headers["location"].startswith(f"../../workflow/{large}?")


async def test_a_lost_database_is_told(dsn, sound):
    async with Admin("postgresql://nobody@127.0.0.1:9/none", timeout=0.5, outage_timeout=0) as admin:
        own = browser(admin)
        for path in PAGES:
            answer = await own.get(path)
            assert (answer.status_code, "database is unavailable" in answer.text) == (503, True)
        answer = await own.post("/queues/pause", name="mail", do="pause")
        assert answer.status_code == 503
        assert "may have been carried out" in answer.text
    async with Admin(dsn, f"{sound}_none") as admin:
        assert "pgqrs install" in (await browser(admin).get("/")).text


async def test_a_database_that_hangs_is_told(admin, sql, monkeypatch):
    monkeypatch.setattr(app, "READ_TIME", 0.2)
    own = browser(admin)
    assert (await own.get("/queues")).status_code == 200
    async with sql.transaction():
        await sql.execute("LOCK TABLE pgqrs_queues")
        answer = await own.get("/queues")
        assert (answer.status_code, "not answered in time" in answer.text) == (503, True)
        assert (await own.get("/list")).status_code == 200
    await until(_is_well, own)


async def _is_well(own):
    return (await own.get("/queues")).status_code == 200


async def test_a_pool_of_one_suffices(dsn, sound):
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), pool_size=1, max_overflow=0
    )
    taken = 0

    @event.listens_for(engine.sync_engine, "checkout")
    def count(*_args):
        nonlocal taken
        taken += 1

    async with Admin(engine, sound) as admin:
        handle = await admin.enqueue(order, 1)
        own, taken = browser(admin), 0
        async with no_hang():
            answers = await asyncio.gather(*(own.get(each) for each in [*PAGES, f"/workflow/{handle.id}"] * 3))
        assert {each.status_code for each in answers} == {200}
        assert taken > len(answers)
        assert engine.sync_engine.pool.checkedout() == 0
    await engine.dispose()


async def test_changes_of_a_page_are_streamed(admin, monkeypatch):
    monkeypatch.setattr(stream, "LIFETIME", 0.0)
    await admin.pause_queue("mail")
    own = browser(admin)
    answer = await own.get("/queues", accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: live" in answer.text
    assert "<html" not in answer.text
    (seen,) = [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]
    again = await own.get("/queues", accept="text/event-stream", **{"last-event-id": seen})
    assert again.text == "retry: 1000\n\n"


async def test_stream_tells_changes_and_a_lost_database():
    looks = iter(["one", "one", DatabaseUnavailableError("away"), "two\nlines", "two\nlines"])

    async def render():
        look = next(looks)
        if isinstance(look, Exception):
            raise look
        return look

    events = []
    async for each in changes(render, None, interval=0.01, lifetime=60):
        events.append(each)
        if "two" in each:
            break
    kinds = [each.split("event: ")[1].split("\n")[0] for each in events[1:]]
    assert kinds == ["live", "lost", "live"]
    assert "data: two\ndata: lines\n" in events[-1]


def test_timeline_folds_waits():
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def recorded(step_id, first, last):
        times = [None if each is None else began + timedelta(seconds=each) for each in (first, last)]
        return StepRecord(1, step_id, "SUCCESS", None, None, 1, False, *times)

    steps = [
        recorded("a", 0, 10),
        recorded("sleep:1", 10, 86_410),
        recorded("b", 86_410, 86_420),
        recorded("c", 90_000, None),
    ]
    drawn = timeline(steps, began, began + timedelta(seconds=90_010))
    assert [each.length for each in drawn.folds] == ["24.0 h", "59.7 min"]
    a, sleep, b, c = drawn.bars
    assert (a.x, sleep.is_wait, b.is_wait) == (0, True, False)
    assert a.width == pytest.approx(b.width, rel=0.01)
    assert a.width > 5 * sleep.width / 2
    assert c.x + c.width == pytest.approx(WIDTH, abs=1)
    assert timeline([], began, began).bars == []


def test_rules_are_told_in_words():
    assert in_words(Every(300)) == "Every 5 minutes"
    assert in_words(Every(timedelta(days=1))) == "Every day"
    assert in_words(Cron("30 9 * * 1-5")) == "At 09:30 on Monday through Friday (UTC)"
