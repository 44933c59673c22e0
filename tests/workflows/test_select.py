"""`select`: the first of several branches wins and is recorded; the others leave nothing behind."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from pgqrs import (
    Admin,
    ConfigurationError,
    Event,
    PyWorkflow,
    Receive,
    Sleep,
    StepMismatchError,
    Topic,
    Worker,
    WorkflowCancelledError,
    workflow,
)
from pgqrs.codecs import PydanticCodec
from tests.support.waiting import no_hang, until
from tests.support.workflows import Killed, note

pytest_plugins = ("pytest_pgqrs",)

PAID = Topic("paid", int)
GONE = "order gone"


@workflow
async def ordering(ctx: PyWorkflow) -> list:
    """Wait for a payment, a withdrawal, or the end of an hour."""
    return [*await ctx.select(paid=Receive(PAID), gone=Event(GONE), late=Sleep(3600))]


async def rows(sql, table, condition="true"):
    return await sql.fetchval(f"SELECT count(*) FROM pgqrs_{table} WHERE {condition}")


async def unread(sql):
    """Return the payloads of the messages to workflows that nobody has received."""
    found = await sql.fetch(
        "SELECT payload FROM pgqrs_messages WHERE taken_at IS NULL AND workflow_id IS NOT NULL ORDER BY id"
    )
    return [json.loads(row["payload"]) for row in found]


async def make_due(sql):
    """Let the time of a parked select come."""
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
    await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now() WHERE retry_at IS NOT NULL")


async def has_subscribed(admin):
    return (await admin.store()).arrivals._waiting


async def is_waiting(handle):
    return await handle.status() == "WAITING"


# --- the winner ---

WINNERS = {
    "message": ["paid", 7],
    "event": ["gone", {"by": "customer"}],
    "both, the message first": ["paid", 7],
    "both, the event first": ["gone", {"by": "customer"}],
}


async def happen(name, admin, handle):
    """Let happen what decides a select."""
    for what in {"message": "m", "event": "e", "both, the message first": "me"}.get(name, "em"):
        if what == "m":
            await handle.send(PAID, 7)
        else:
            await admin.emit(GONE, {"by": "customer"})


@pytest.mark.parametrize("name", WINNERS)
async def test_first_branch_of_a_parked_select_wins(admin, claimer, sql, name):
    handle = await admin.enqueue(ordering)
    await claimer.park(ordering)
    assert await rows(sql, "waits") == 2
    await happen(name, admin, handle)
    assert await claimer.run(ordering) == WINNERS[name]
    assert await rows(sql, "waits") == 0
    assert await unread(sql) == ([7] if "event first" in name else [])  # the loser's message stays


@pytest.mark.parametrize("name", WINNERS)
async def test_first_branch_wins_if_it_came_before(admin, sql, name):
    handle = await admin.options(key="o").enqueue(ordering)
    await happen(name, admin, handle)
    assert await admin.options(key="o").run(ordering) == WINNERS[name]
    assert await unread(sql) == ([7] if "event first" in name else [])


@pytest.mark.parametrize("name", ["message", "event"])
async def test_first_branch_wins_in_place(admin, name):
    handle = await admin.options(key="o").enqueue(ordering)
    task = asyncio.create_task(admin.options(key="o").run(ordering))
    await until(has_subscribed, admin)
    await happen(name, admin, handle)
    async with no_hang():
        assert await task == WINNERS[name]
    assert await has_subscribed(admin) == {}


async def test_sleep_branch_wins_in_place(admin):
    @workflow
    async def short(ctx: PyWorkflow) -> list:
        return [*await ctx.select(paid=Receive(PAID), late=Sleep(timedelta(seconds=0.1)))]

    async with no_hang():
        assert await admin.run(short) == ["late", None]


@pytest.mark.parametrize("delay", [0, -5])
async def test_message_that_is_there_wins_over_a_sleep_that_is_over(admin, delay):
    @workflow
    async def over(ctx: PyWorkflow) -> list:
        return [await ctx.select(paid=Receive(PAID), late=Sleep(delay)) for _ in range(2)]

    handle = await admin.options(key="o").enqueue(over)
    await handle.send(PAID, 7)
    assert await admin.options(key="o").run(over) == [["paid", 7], ["late", None]]


async def test_sleep_branch_of_a_parked_select_wins(admin, claimer, sql):
    await admin.enqueue(ordering)
    await claimer.park(ordering)
    await make_due(sql)
    assert await claimer.run(ordering) == ["late", None]
    assert await rows(sql, "waits") == 0


async def test_sleep_branch_counts_from_the_first_call(kit, clock):
    handle = await kit.enqueue(ordering)
    async with no_hang(), Worker(kit, [ordering]):
        await until(is_waiting, handle)
        await clock.advance(minutes=40)
    await handle.cancel()
    await kit.resume_workflow(handle.id)
    async with no_hang(), Worker(kit, [ordering]), clock.skipping():
        assert await handle.result() == ["late", None]
    assert clock.ahead < timedelta(hours=1, minutes=1)
    await kit.verify(deep=True)


async def test_select_in_a_loop_takes_what_comes(admin, claimer, sql):
    @workflow
    async def looping(ctx: PyWorkflow) -> list:
        got = []
        while (got or [("", 0)])[-1][0] != "stop":
            got.append(await ctx.select(number=Receive("number"), word=Receive("word"), stop=Event("stop")))
        return got

    handle = await admin.enqueue(looping)
    for n, (topic, value) in enumerate([("number", 1), ("word", "a"), ("word", "b"), ("number", 2)]):
        await claimer.park(looping)
        await handle.send(topic, value)
        assert await rows(sql, "waits") == 3, n
    await claimer.park(looping)
    await admin.emit("stop", True)
    got = [["number", 1], ["word", "a"], ["word", "b"], ["number", 2], ["stop", True]]
    assert await claimer.run(looping) == got
    assert await rows(sql, "waits") == 0


async def test_oldest_message_of_several_topics_comes_first(admin):
    @workflow
    async def both(ctx: PyWorkflow) -> list:
        return [(await ctx.select(a=Receive("a"), b=Receive("b")))[1] for _ in range(6)]

    handle = await admin.options(key="b").enqueue(both)
    for n, topic in enumerate("abbaba"):
        await handle.send(topic, n)
    assert await admin.options(key="b").run(both) == list(range(6))


async def test_typed_branch_gets_a_value_of_its_type(dsn, admin):
    lasts = Topic("lasts", timedelta)

    @workflow
    async def typed(ctx: PyWorkflow) -> bool:
        who, what = await ctx.select(lasts=Receive(lasts), gone=Event(GONE))
        return who == "lasts" and what == timedelta(hours=1)

    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as own:
        handle = await own.options(key="t").enqueue(typed)
        await handle.send(lasts, timedelta(hours=1))
        assert await own.options(key="t").run(typed)


async def test_select_beside_another_wait(admin, claimer, sql):
    """Two tasks wait; what one of them waits for wakes it alone."""

    @workflow
    async def two(ctx: PyWorkflow) -> list:
        return await asyncio.gather(
            ctx.select(id="first", a=Receive("a"), b=Receive("b")), ctx.receive("c", id="second")
        )

    handle = await admin.enqueue(two)
    await claimer.park(two)
    assert await rows(sql, "waits") == 3
    await handle.send("b", 2)
    await claimer.park(two)
    assert await rows(sql, "waits") == 1
    await handle.send("c", 3)
    assert await claimer.run(two) == [["b", 2], 3]


# --- what is recorded ---


@pytest.mark.parametrize("winner", ["message", "event", "sleep"])
async def test_replay_takes_the_same_branch(admin, claimer, sql, winner):
    """Though the others have come meanwhile."""
    seen = []

    @workflow
    async def replayed(ctx: PyWorkflow) -> None:
        seen.append(await ctx.select(paid=Receive(PAID), gone=Event(GONE), late=Sleep(3600)))
        await ctx.receive("go on")

    handle = await admin.enqueue(replayed)
    await claimer.park(replayed)
    await (make_due(sql) if winner == "sleep" else happen(winner, admin, handle))
    await claimer.park(replayed)
    for name in ("message", "event"):
        await happen(name, admin, handle)
    await handle.send("go on", None)
    await claimer.run(replayed)
    assert len(seen) >= 2
    assert all(each == seen[0] for each in seen)
    assert seen[0][0] == {"message": "paid", "event": "gone", "sleep": "late"}[winner]


async def test_loser_of_a_select_is_received_later(admin):
    @workflow
    async def patient(ctx: PyWorkflow) -> list:
        first = await ctx.select(gone=Event(GONE), paid=Receive(PAID))
        return [*first, await ctx.receive(PAID)]

    handle = await admin.options(key="p").enqueue(patient)
    await admin.emit(GONE)
    await handle.send(PAID, 7)
    assert await admin.options(key="p").run(patient) == ["gone", None, 7]


async def test_cancelled_select_leaves_no_wait(admin, claimer, sql):
    handle = await admin.enqueue(ordering)
    await claimer.park(ordering)
    await handle.cancel()
    assert await rows(sql, "waits") == 0
    with pytest.raises(WorkflowCancelledError):
        await handle.result()


CHANGES = {
    "the winner is gone": {"gone": Event(GONE)},
    "the winner waits for another topic": {"paid": Receive("other"), "gone": Event(GONE)},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_winner_that_is_no_branch_any_more_is_a_mismatch(admin, change):
    branches = [{"paid": Receive(PAID), "gone": Event(GONE)}, CHANGES[change]]

    @workflow
    async def changed(ctx: PyWorkflow) -> None:
        await ctx.select(id="s", **branches[0])
        if len(branches) == 2:
            raise Killed

    ctx = await admin.create_workflow("changed")
    await admin.send(ctx.id(), PAID, 7)
    with pytest.raises(Killed):
        await changed(ctx)
    branches.pop(0)
    with pytest.raises(StepMismatchError):
        await changed(ctx)


async def test_sleep_that_won_and_is_gone_is_a_mismatch(admin):
    branches = [{"paid": Receive(PAID), "late": Sleep(0)}, {"paid": Receive(PAID)}]

    @workflow
    async def changed(ctx: PyWorkflow) -> None:
        await ctx.select(id="s", **branches[0])
        if len(branches) == 2:
            raise Killed

    ctx = await admin.create_workflow("changed")
    with pytest.raises(Killed):
        await changed(ctx)
    branches.pop(0)
    with pytest.raises(StepMismatchError):
        await changed(ctx)


async def test_branch_that_is_renamed_still_wins(admin):
    """What is recorded is the message, not the name of its branch."""
    names = ["paid", "payment"]
    seen = []

    @workflow
    async def renamed(ctx: PyWorkflow) -> None:
        seen.append(await ctx.select(id="s", **{names[0]: Receive(PAID)}))
        if len(names) == 2:
            raise Killed
        await note(ctx, "after")

    ctx = await admin.create_workflow("renamed")
    await admin.send(ctx.id(), PAID, 7)
    with pytest.raises(Killed):
        await renamed(ctx)
    names.pop(0)
    await renamed(ctx)
    assert seen[0] == ("paid", 7)
    assert seen[-1] == ("payment", 7)


# --- branches that are none ---

WRONG = {
    "none": {},
    "a sleep alone": {"late": Sleep(1)},
    "two sleeps": {"paid": Receive(PAID), "late": Sleep(1), "later": Sleep(2)},
    "a topic twice": {"one": Receive(PAID), "two": Receive("paid")},
    "an event twice": {"one": Event(GONE), "two": Event(GONE)},
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_branches_are_refused(admin, name):
    ctx = await admin.create_workflow("ordering")
    with pytest.raises(ConfigurationError, match="`select` needs at least one message or event"):
        await ctx.select(**WRONG[name])
    assert await admin.list_steps(ctx.id()) == []


@pytest.mark.parametrize(
    "branch",
    [
        Receive(""),
        Receive("a\0b"),
        Event(""),
        Event("\ud800"),
        Sleep(float("nan")),
        Sleep("1"),
        "paid",
        PAID,
        None,
    ],
    ids=ascii,
)
async def test_branch_that_cannot_be_is_refused(admin, branch):
    ctx = await admin.create_workflow("ordering")
    with pytest.raises((ValueError, TypeError, ConfigurationError)):
        await ctx.select(paid=Receive(PAID), other=branch)


async def test_branches_are_frozen_values():
    assert Receive(PAID) == Receive(PAID)
    assert {Event(GONE), Event(GONE), Sleep(1)} == {Event(GONE), Sleep(1)}
    with pytest.raises(AttributeError):
        Event(GONE).name = "other"
