"""The actions of the dashboard, on one workflow, on those of a filter, on queues and on schedules."""

import logging

from pgqrs import Every, PyWorkflow, Worker, step, workflow
from tests.support.dashboard import browser
from tests.support.waiting import no_hang


@step
async def pay(ctx: PyWorkflow, amount: int) -> int:
    return amount


@workflow
async def order(ctx: PyWorkflow, amount: int) -> int:
    return await pay(ctx, amount) + await ctx.receive("more", default=0, timeout=3600)


async def test_actions_on_a_workflow(admin, caplog):
    own = browser(admin)
    handle = await admin.enqueue(order, 1)
    path = f"/workflow/{handle.id}"
    with caplog.at_level(logging.INFO, "pgqrs.dashboard"):
        answer = await own.post(f"{path}/cancel")
    assert answer.status_code == 303
    assert caplog.records[-1].action == "cancel"
    assert await handle.status() == "CANCELLED"
    answer = await own.client.get(answer.url.join(answer.headers["location"]))
    assert "The cancellation is requested." in answer.text
    await own.post(f"{path}/resume")
    assert await handle.status() == "PENDING"
    assert (await own.post(f"{path}/send", topic="more", value="{")).status_code == 400
    assert (await own.post(f"{path}/send", topic="more", value="41")).status_code == 303
    async with no_hang(), Worker(admin, [order]):
        assert await handle.result() == 42
        assert (await own.post(f"{path}/cancel")).status_code == 409
        assert (await own.post(f"{path}/rewind", before="no such")).status_code == 409
        assert (await own.post(f"{path}/rewind", before="pay")).status_code == 303
        assert await handle.result() == 42
    assert "Rewound before" in (await own.get(path)).text
    assert (await own.post("/workflow/999/cancel")).status_code == 404


async def test_actions_on_queues_and_schedules(admin):
    own = browser(admin)
    await own.post("/queues/pause", name="a/b", do="pause")
    (queue,) = await admin.list_queues()
    assert (queue.name, queue.paused_at is not None) == ("a/b", True)
    assert "Resume" in (await own.get("/queues")).text
    await own.post("/queues/pause", name="a/b", do="resume")
    assert await admin.list_queues() == []
    schedule = await admin.schedule("often", Every(3600), order, 1)
    await own.post("/schedules/pause", name="often", do="pause")
    assert (await schedule.record()).is_paused
    answer = await own.post("/schedules/trigger", name="often")
    (started,) = await admin.list_workflows()
    assert answer.headers["location"] == f"../workflow/{started.id}?notice=trigger"
    await own.post("/schedules/pause", name="often", do="resume")
    assert not (await schedule.record()).is_paused
    assert (await own.post("/schedules/trigger", name="none")).status_code == 404


async def test_bulk_action_is_counted_before_it_is_done(admin):
    own = browser(admin)
    await admin.options(tags="eu").enqueue_many(order, [(1,), (2,), (3,)])
    other = await admin.enqueue(order, 4)
    assert "Change all workflows" in (await own.get("/list?tags=eu")).text
    assert "Change all workflows" not in (await own.get("/list")).text
    answer = await own.post("/bulk", action="cancel", tags="eu")
    assert "would change 3" in answer.text
    assert 'name="confirmed" value="yes"' in answer.text
    assert len(await admin.list_workflows(status="PENDING")) == 4
    answer = await own.post("/bulk", action="cancel", tags="eu", confirmed="yes")
    assert "changed 3" in answer.text
    assert await other.status() == "PENDING"
    assert (await own.post("/bulk", action="cancel", confirmed="yes")).status_code == 400  # no condition
    assert "changed 3" in (await own.post("/bulk", action="resume", tags="eu", confirmed="yes")).text
    fields = {"topic": "more", "value": "5", "key_of_message": "k", "tags": "eu", "confirmed": "yes"}
    assert "changed 3" in (await own.post("/bulk", action="send", **fields)).text
    assert "changed 0" in (await own.post("/bulk", action="send", **fields)).text
    assert (await own.post("/bulk", action="send", **{**fields, "key_of_message": ""})).status_code == 400
    text = (await own.post("/bulk", action="rewind", tags="eu", before="pay")).text
    assert "would change 0" in text
    assert "Left as they are" in text
