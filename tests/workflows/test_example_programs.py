"""The workflows of the example programs, on the server of the tests."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import pytest

from examples import (
    accounts,
    api_rate,
    debounce,
    embeddings,
    prices,
    retention,
    rewind,
    tenants,
    tutorial,
    why,
    withdrawals,
)
from examples.approval import APPROVAL, approve
from examples.fan_out import resize, resize_all
from examples.nightly import HALF_PAST_TWO, report
from pgqrs import Admin, Worker
from pgqrs.testing import run_enqueued
from tests.support.waiting import DEADLINE, no_hang
from tests.support.workflows import Killed

pytest_plugins = ("pytest_pgqrs",)

ROOT = Path(__file__).parents[2]


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


async def test_nightly_report_is_made_once_a_night(kit, clock):
    """In the spring there is no 2:30 in one night, and in the autumn it comes twice in another."""
    year = (await clock.now()).year + 1
    handle = await kit.schedule("nightly", HALF_PAST_TWO, report, "books")
    nights = []
    for month in (3, 10):
        last_sunday = next(
            day
            for day in (datetime(year, month, 31, tzinfo=UTC) - timedelta(days=n) for n in range(7))
            if day.weekday() == 6
        )
        await clock.advance_to(last_sunday - timedelta(hours=2))
        await run_enqueued(kit, [report])  # the newest of the nights before
        nights += (times := await handle.next(2))
        for time in times:
            await clock.advance_to(time)
            assert await run_enqueued(kit, [report]) == 1
    hours = [time.hour + time.minute / 60 for time in nights]
    assert hours == [1.0, 0.5, 0.5, 1.5]  # in UTC: 3:00 and 2:30 in the summer, 2:30 in the summer and the winter
    made = [each.scheduled_for for each in await kit.list_workflows()]
    assert len(made) == len(set(made)) == 6
    assert set(nights) <= set(made)


async def test_operator_learns_why_a_workflow_does_not_run(admin, capsys):
    async with no_hang():
        assert await why.explain(admin) == ["no_worker", "queue_paused", "message", "ended"]
    assert "waits for a message of the topic 'approval', at the latest in 60 min" in capsys.readouterr().out


async def test_order_is_charged_again_from_the_middle(admin, monkeypatch, capsys):
    monkeypatch.setitem(rewind.PRICES, "lamp", 1)
    async with no_hang(), Worker(admin, [rewind.order]):
        wrong, right = await rewind.correct(admin)
    rest = "the lamp is on its way, approved by ada"
    assert (wrong, right) == (f"a lamp is reserved, 1 cents, {rest}", f"a lamp is reserved, 9900 cents, {rest}")
    assert "set aside: charge, which had recorded 1\n" in capsys.readouterr().out


async def test_small_tenant_does_not_wait_for_the_large_one(admin):
    async with no_hang(), Worker(admin, [tenants.report], ["reports"]):
        assert await tenants.render_all(admin, 40) < 20


async def test_calls_of_an_api_keep_to_its_rate(kit, clock):
    """Ten calls at once, then one each 0.6 s; a call that the API refuses is put off by the time that it names."""
    await kit.set_queue(api_rate.QUEUE, rate=api_rate.RATE, concurrency=5)
    handles = await kit.options(queue=api_rate.QUEUE).enqueue_many(
        api_rate.conversion, [(page,) for page in range(15)]
    )
    async with no_hang():
        assert await run_enqueued(kit, [api_rate.conversion]) == 15
    attempts = [2 if page in api_rate.REFUSED_ONCE else 1 for page in range(15)]
    assert [await each.result() for each in handles] == [
        f"page {page} in attempt {attempt}" for page, attempt in enumerate(attempts)
    ]
    found = {each.id: each for each in await kit.list_workflows()}
    starts = sorted(each.started_at for each in found.values())
    for first, last in combinations(range(15), 2):
        least = (last - first + 1 - api_rate.RATE.burst) * 0.6
        assert (starts[last] - starts[first]).total_seconds() > least - 0.01
    refused = found[handles[3].id]
    assert refused.completed_at - refused.started_at >= timedelta(seconds=2)


async def test_document_is_indexed_once_for_many_changes(kit, clock):
    for n in range(1, 31):
        handles = await debounce.change(kit, 1, "word " * n)
        if n == 1:
            assert await run_enqueued(kit, [debounce.summarize]) == 1
    await clock.advance(seconds=1)
    assert await run_enqueued(kit, [debounce.reindex, debounce.summarize]) == 2
    assert await handles[0].result() == "document 1 has 30 words"
    assert await debounce.write(kit, 0) == (set(), set())
    assert len(await kit.list_workflows()) == 3


async def test_texts_are_embedded_in_few_calls(admin):
    async with no_hang(), Worker(admin, [embeddings.embed, embeddings.index]):
        assert await embeddings.embed_all(admin, 30) <= 3


async def test_bookings_of_an_account_are_made_in_their_order(admin):
    await admin.set_queue("accounts", ordered=True)
    async with no_hang(), Worker(admin, [accounts.book], ["accounts"]):
        answers = await accounts.book_all(admin, "ada", [100, -70, -70, 50])
    assert answers[:2] + answers[3:] == ["100", "30", "80"]
    assert "40 more than there is" in answers[2]
    assert await accounts.balance_of(admin, "ada") == 80
    assert await accounts.balance_of(admin, "bob") == 0


async def test_workflows_of_a_customer_are_forgotten(admin):
    await retention.configure(admin)
    async with no_hang(), Worker(admin, [retention.ship]):
        for customer in ("ada", "ada", "bob"):
            await (await admin.options(partition_key=customer).enqueue(retention.ship, "a lamp")).result()
    assert (await retention.forget(admin, "ada")).changed == 2
    assert [each.partition_key for each in await admin.list_workflows()] == ["bob"]


async def test_deliveries_of_withdrawn_orders_are_cancelled(admin, app, sessions):
    async with app.begin() as connection:
        await connection.run_sync(withdrawals.Base.metadata.create_all)
    for number in range(4):
        await withdrawals.place(admin, sessions, customer=number % 2)
    await run_enqueued(admin, [withdrawals.deliver])
    assert len(await withdrawals.packed_for(admin, 1)) == 2
    report = await withdrawals.withdraw(admin, sessions, customer=1)
    assert (report.found, report.changed) == (2, 2)
    assert await withdrawals.packed_for(admin, 1) == []
    left = await withdrawals.packed_for(admin, 0)
    await admin.send_many([each.id for each in left], "picked up", "the post", key="monday")
    await run_enqueued(admin, [withdrawals.deliver])
    shipped = await admin.list_workflows(attributes={"carrier": "the post"}, tags="delivery")
    assert [(each.status, each.attributes["stage"]) for each in shipped] == [("SUCCESS", "shipped")] * 2


async def test_paid_order_is_packed_and_shipped_after_a_fix(admin, monkeypatch):
    async with no_hang(), Worker(admin, [tutorial.fulfil, tutorial.ship]):
        handle = await admin.enqueue(tutorial.fulfil, ["lamp", "globe"])
        for _ in range(2):
            await handle.send(tutorial.PAYMENT, 4200, key="the payment")
        with pytest.raises(LookupError):
            await handle.result()
        monkeypatch.setitem(tutorial.BOXES, "globe", "two boxes")
        await admin.resume_workflow(handle.id)
        shipped = await handle.result()
    assert [each.partition(",")[0] for each in shipped] == ["the lamp in a large box", "the globe in two boxes"]


async def test_unpaid_order_is_released(kit, capsys):
    handle = await kit.enqueue(tutorial.fulfil, ["lamp"])
    assert await run_enqueued(kit, [tutorial.fulfil, tutorial.ship]) == 1
    assert await handle.result() == []
    assert capsys.readouterr().out == "reserve lamp\nrelease lamp\n"


@pytest.mark.slow
async def test_order_outlives_its_worker(own_database, children):
    """The worker of the tutorial kills itself in the middle of a step, and another one ends the order."""
    async with no_hang(), Admin(own_database) as admin:
        await admin.install()
        handle = await admin.enqueue(tutorial.fulfil, ["lamp", "shade"])
        await handle.send(tutorial.PAYMENT, 4200)
        worker = children.start("-m", "examples.tutorial", "work", cwd=ROOT, PGQRS_DSN=own_database, CRASH="1")
        assert await asyncio.to_thread(worker.wait, DEADLINE) == -signal.SIGKILL
        async with Worker(admin, [tutorial.fulfil, tutorial.ship]):
            assert len(await handle.result()) == 2
        assert all(each.status == "SUCCESS" for each in await handle.steps())


async def test_interrupted_import_goes_on_at_its_row(admin, monkeypatch):
    told = []
    file = ("prices.csv", "lamp,12.50\nshade,3.20\nfoot,4\n")

    async def tell_shop(item: str, cents: int) -> int:
        told.append(item)
        if told == ["lamp", "shade"]:
            raise Killed
        return cents

    monkeypatch.setattr(prices, "tell_shop", tell_shop)
    with pytest.raises(Killed):
        await prices.import_file(admin, *file)
    for _ in range(2):
        assert await prices.import_file(admin, *file) == 1970
    assert told == ["lamp", "shade", "shade", "foot"]
