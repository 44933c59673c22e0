"""The workflows of the example programs, on the server of the tests."""

from __future__ import annotations

from examples.approval import APPROVAL, approve
from examples.fan_out import resize, resize_all
from pgqrs import Worker
from tests.support.waiting import no_hang


async def test_order_is_shipped_when_it_is_approved(admin):
    async with no_hang(), Worker(admin, [approve]):
        handle = await admin.enqueue(approve, "a lamp")
        assert await handle.event("status") == "waits for an approval"
        for _ in range(2):
            await handle.send(APPROVAL, value=True, key="click 1")
        assert await handle.result() == "a lamp is on its way"
        assert await handle.events() == {"status": "approved"}


async def test_order_is_not_shipped_when_the_shop_closes(admin):
    async with no_hang(), Worker(admin, [approve]):
        handle = await admin.enqueue(approve, "a lamp")
        await admin.emit("the shop has closed")
        assert await handle.result() == "a lamp is not shipped: closed"


async def test_parent_of_many_children_has_two_steps(admin):
    async with no_hang(), Worker(admin, [resize_all, resize], concurrency=50):
        handle = await admin.enqueue(resize_all, 100)
        assert await handle.result() == sum(page % 7 for page in range(100))
        assert [each.step_id for each in await handle.steps()] == [
            "start_many/resize:1",
            "result/start_many/resize:1",
        ]
