"""The reasons why a workflow is not running, out of the facts that the tables and the server have about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgqrs.client.diagnosis.times import ago, due, moment
from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.json import JsonCodec
from pgqrs.codecs.messages import CHILDREN, EVENT
from pgqrs.codecs.updates import REQUEST
from pgqrs.storage.diagnosis.facts import SHOWN, Facts
from pgqrs.storage.limits.holders import UNTIL_END
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.records import stored_member
from pgqrs.storage.sql.addresses import name_in
from pgqrs.types import Reason, ReasonKind, SagaState, Why, WorkflowStatus

LOCK_SHOWN = timedelta(seconds=0.2)
"""Minimum age of a transaction that has locked the row: each write of a run locks it for a moment."""


async def why(loops: LoopStates, workflow_id: int) -> Why:
    """Return the reasons why a workflow is not running."""
    facts = await (await loops.store()).reader.facts(workflow_id)
    is_in_batch = facts.batch_id not in {None, facts.id} and facts.completed_at is None
    status = stored_member(WorkflowStatus, (facts.batch_status if is_in_batch else None) or facts.status)
    return Why(facts.id, facts.name, status, facts.now, tuple(reasons(facts)))


def reasons(facts: Facts) -> Iterator[Reason]:
    """Yield the reasons, the most telling ones first."""
    if facts.completed_at is not None:
        text = f"it has ended with {facts.status}, {ago(facts.now, facts.completed_at)}."
        yield Reason(ReasonKind.ENDED, text, since=facts.completed_at)
        return
    yield from _ends(facts)
    yield from _lock(facts)
    if facts.batch_id not in {None, facts.id}:
        text = f"it runs in the batch {facts.batch_id}, which is {facts.batch_status}."
        yield Reason(ReasonKind.IN_BATCH, text, workflow_ids=_ids(facts.batch_id))
    elif facts.executor_id is not None:
        yield from _run(facts)
        yield from _steps(facts)
    elif facts.status == WorkflowStatus.WAITING:
        yield from _waiting(facts)
    elif facts.ready_at is not None:
        yield from _ready(facts)
    elif facts.due_at is not None:
        yield _delay(facts, facts.due_at)
        yield from _overdue(facts)
    else:
        text = "it is in no queue: the application runs it, by the context of `admin.get_workflow`."
        yield Reason(ReasonKind.NOT_ENQUEUED, text)


def _ids(*ids: int | None) -> tuple[int, ...]:
    return tuple(each for each in ids if each is not None)


def _ends(facts: Facts) -> Iterator[Reason]:
    if facts.cancel_interrupts is not None:
        text = "its cancellation is requested, and its executor ends the run."
        yield Reason(ReasonKind.CANCEL_REQUESTED, text)
    if facts.saga_state not in {None, SagaState.OPEN}:
        cause = "it is cancelled" if facts.saga_state == SagaState.CANCELLED else "its deadline has passed"
        yield Reason(ReasonKind.UNWINDS, f"{cause}, and a worker undoes its sagas before it ends.")
    if facts.deadline is not None and facts.deadline < facts.now:
        text = f"its deadline has passed, {ago(facts.now, facts.deadline)}; a live worker ends it."
        yield Reason(ReasonKind.DEADLINE_PASSED, text, since=facts.deadline)


def _lock(facts: Facts) -> Iterator[Reason]:
    if facts.lock_pid is None:
        return
    since = facts.lock_since
    if since is not None and facts.now - since < LOCK_SHOWN:
        return
    # Null where the role of this Admin may not see the sessions of other roles.
    state = f" ({facts.lock_state})" if facts.lock_state else ""
    began = "" if since is None else f", whose transaction began {ago(facts.now, since)}"
    text = f"the session {facts.lock_pid} of the server{state} has locked its row{began}: no worker can claim it."
    yield Reason(ReasonKind.LOCKED, text, since=since, backend_pid=facts.lock_pid)


def _run(facts: Facts) -> Iterator[Reason]:
    executor = facts.executor_id
    if executor == ABANDONED:
        text = "its process has abandoned its run; a worker recovers it within a second or two."
        yield Reason(ReasonKind.ABANDONED, text, executor_id=executor)
    elif facts.host is None:
        text = f"it is run by the executor {executor}, which is not registered; a worker recovers it in a minute."
        yield Reason(ReasonKind.EXECUTOR_SUSPECTED, text, executor_id=executor)
    else:
        where = f"the process {facts.pid} on {facts.host} (executor {executor})"
        heartbeat = f"its last heartbeat came {ago(facts.now, facts.heartbeat_at)}"
        since = facts.updated_at
        if facts.is_alive:
            text = f"{where} runs it since {moment(since)}; {heartbeat}."
            yield Reason(ReasonKind.RUNNING, text, since=since, executor_id=executor)
            return
        sign = "has stopped" if facts.has_stopped else "gives a sign of death"
        text = f"{where} {sign}: {heartbeat}. Other workers recover the run if it does not come back."
        yield Reason(ReasonKind.EXECUTOR_SUSPECTED, text, since=facts.heartbeat_at, executor_id=executor)
    yield from _no_worker(facts)


def _steps(facts: Facts) -> Iterator[Reason]:
    for each in facts.entries("steps")[:SHOWN]:
        if each["failures"]:
            yield _retry(facts, each)
        else:
            since, until = _time(each["since"]), _time(each["until"])
            bound = "" if until is None or until < facts.now else f", and waits until {due(facts.now, until)}"
            text = f"the step {each['step_id']!r} began {ago(facts.now, since)}{bound}."
            yield Reason(ReasonKind.STEP, text, until=until, since=since, step_id=each["step_id"])


def _retry(facts: Facts, step: dict[str, Any]) -> Reason:
    until, failures = _time(step["until"]), step["failures"]
    text = f"the step {step['step_id']!r} has failed {_times(failures)}: its attempt {failures + 1} is due "
    return Reason(ReasonKind.STEP_RETRY, f"{text}{due(facts.now, until)}.", until=until, step_id=step["step_id"])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _waiting(facts: Facts) -> Iterator[Reason]:
    """Yield the conditions for which a parked workflow waits."""
    waits = facts.entries("waits")
    found = [_wait(facts, each) for each in waits[:SHOWN]]
    found += [_retry(facts, each) for each in facts.entries("steps") if each["failures"] and each["until"]]
    if facts.has_error and facts.attempts:
        text = "its arguments did not fit the function of the worker that claimed it: it is tried again "
        found.append(Reason(ReasonKind.MISFIT, f"{text}{due(facts.now, facts.due_at)}.", until=facts.due_at))
    elif facts.has_error:
        text = f"it has failed {_times(facts.retries)}: its attempt {facts.retries + 1} is due "
        text += f"{due(facts.now, facts.due_at)}."
        found.append(Reason(ReasonKind.WORKFLOW_RETRY, text, until=facts.due_at))
    elif facts.due_at is not None and not any(_is_at(facts.due_at, each.until) for each in found):
        text = f"it sleeps; it continues {due(facts.now, facts.due_at)}."
        found.append(Reason(ReasonKind.SLEEP, text, until=facts.due_at))
    yield from found
    yield from _overdue(facts)


def _is_at(time: datetime, until: datetime | None) -> bool:
    """Return whether two times are the same: the statement that parks a workflow rounds each of them."""
    return until is not None and abs(time - until) < timedelta(seconds=1)


def _wait(facts: Facts, wait: dict[str, Any]) -> Reason:
    step_id, address, until = wait["step_id"], wait["address"], _time(wait["until"])
    limit = "" if until is None else f", at the latest {due(facts.now, until)}"
    if address.startswith(CHILDREN):
        ids = tuple(each["id"] for each in facts.entries("children") if each["step_id"] == step_id)
        text = f"the step {step_id!r} waits for the end of {_workflows('children', ids)}{limit}."
        return Reason(ReasonKind.CHILDREN, text, until=until, workflow_ids=ids[:SHOWN], step_id=step_id)
    kind, what = ReasonKind.MESSAGE, "a message of the topic"
    if address.startswith(EVENT):
        kind, what = ReasonKind.EVENT, "the event"
    elif address.startswith(REQUEST):
        kind, what = ReasonKind.UPDATE, "a request of the update"
    text = f"the step {step_id!r} waits for {what} {name_in(address)!r}{limit}."
    return Reason(kind, text, until=until, step_id=step_id, name=name_in(address))


def _workflows(what: str, ids: Sequence[int]) -> str:
    """Return workflows as a text, with up to `SHOWN` of their ids."""
    listed = ", ".join(map(str, ids[:SHOWN]))
    more = ", ..." if len(ids) > SHOWN else ""
    return f"its {what} {listed}{more}" if ids else f"its {what}, which have ended"


def _overdue(facts: Facts) -> Iterator[Reason]:
    """Yield the reason why a workflow whose time has come is not ready."""
    if facts.due_at is None or facts.due_at >= facts.now:
        return
    text = f"its time has come, {ago(facts.now, facts.due_at)}, and a live worker makes it ready."
    yield Reason(ReasonKind.OVERDUE, text, since=facts.due_at)
    yield from _no_worker(facts)


def _no_worker(facts: Facts) -> Iterator[Reason]:
    if not facts.live_workers and not facts.silent_executors:
        yield Reason(ReasonKind.NO_WORKER, "no worker is alive.")


def _delay(facts: Facts, until: datetime) -> Reason:
    start = due(facts.now, until)
    unique = facts.unique_value
    if facts.attempts and facts.has_error:
        text = f"its arguments did not fit the function of the worker that claimed it: it is tried again {start}."
        return Reason(ReasonKind.MISFIT, text, until=until)
    if unique is None:
        return Reason(ReasonKind.DELAYED, f"it was enqueued for a later time: it is due {start}.", until=until)
    if facts.throttled_until is not None:
        text = f"the starts with the unique value {unique!r} are throttled: the next one is due {start}."
        return Reason(ReasonKind.THROTTLED, text, until=until)
    text = f"it is due {start}, and a further submission with the unique value {unique!r} may move that time."
    return Reason(ReasonKind.DEBOUNCED, text, until=until)


def _ready(facts: Facts) -> Iterator[Reason]:
    """Yield the reasons why a ready workflow is not claimed; READY if there is none."""
    found = [*_limits(facts), *_rates(facts), *_workers(facts)]
    # A worker that could claim the workflow is a reason only if nothing holds the workflow back.
    is_held = any(each.kind not in {ReasonKind.READY, ReasonKind.BATCH_FILLS} for each in found)
    if is_held:
        found = [each for each in found if each.kind not in {ReasonKind.READY, ReasonKind.BATCH_FILLS}]
    yield from found


def _limits(facts: Facts) -> Iterator[Reason]:
    queue, key = facts.queue, facts.partition_key
    if facts.paused_at is not None:
        text = f"its queue {queue!r} is paused since {moment(facts.paused_at)}."
        yield Reason(ReasonKind.QUEUE_PAUSED, text, since=facts.paused_at, name=queue)
    holds_slot = facts.has_slot and facts.holds == UNTIL_END
    is_behind = facts.ordered and key is not None and facts.next_id != facts.id
    if is_behind:
        before = "one that the application runs" if facts.next_id is None else f"workflow {facts.next_id}"
        text = f"its queue {queue!r} is ordered: of the partition key {key!r}, {before} is first."
        yield Reason(ReasonKind.BEHIND, text, workflow_ids=_ids(facts.next_id), name=queue)
    if holds_slot:
        return
    if facts.concurrency is not None and facts.holding is not None and facts.holding >= facts.concurrency:
        count = f"its queue {queue!r} has {facts.holding} of at most {facts.concurrency} workflows"
        yield _full(ReasonKind.QUEUE_FULL, count, facts, "holders")
    limit, holding = facts.partition_concurrency, facts.holding_of_key
    if not is_behind and limit is not None and holding is not None and holding >= limit:
        of_key = "workflows without a partition key" if key is None else f"workflows of the partition key {key!r}"
        count = f"its queue {queue!r} has {holding} of at most {limit} {of_key}"
        yield _full(ReasonKind.PARTITION_FULL, count, facts, "holders_of_key")


def _full(kind: ReasonKind, count: str, facts: Facts, holders: str) -> Reason:
    ids = [each["id"] for each in facts.entries(holders)]
    listed = ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
    lasts = "that have started" if facts.holds == UNTIL_END else "that run"
    return Reason(kind, f"{count} {lasts}: {listed}.", workflow_ids=tuple(ids[:SHOWN]), name=facts.queue)


def _rates(facts: Facts) -> Iterator[Reason]:
    """Yield the rates that allow no start yet; only the first start of a workflow counts."""
    if facts.started_at is not None:
        return
    queue = facts.queue
    if (until := _free_from(facts.now, facts.rate, facts.free_at)) is not None:
        text = f"the rate of its queue {queue!r} allows the next start {due(facts.now, until)}."
        yield Reason(ReasonKind.QUEUE_RATE, text, until=until, name=queue)
    if facts.partition_key is None:
        return
    if (until := _free_from(facts.now, facts.partition_rate, facts.free_at_of_key)) is not None:
        where = f"the partition key {facts.partition_key!r} of its queue {queue!r}"
        text = f"the rate of {where} allows the next start {due(facts.now, until)}."
        yield Reason(ReasonKind.PARTITION_RATE, text, until=until, name=queue)


def _free_from(now: datetime, rate: str | None, free_at: datetime | None) -> datetime | None:
    """Return the time of the next start that a rate allows; None if it allows one now."""
    if rate is None or free_at is None:
        return None
    given = json.loads(rate)
    until = free_at - timedelta(seconds=(given["burst"] - 1) * given["per"] / given["limit"])
    return until if until > now else None


def _workers(facts: Facts) -> Iterator[Reason]:
    """Yield the reason why no worker claims a ready workflow, or the workers that can."""
    known = facts.entries("workers")
    of_queue = [each for each in known if each["serves_queue"]]
    able = [each for each in of_queue if each["reads"]]
    if not able:
        yield _unserved(facts, known, of_queue)
        return
    since = facts.ready_at
    count = "a live worker" if len(able) == 1 else f"{len(able)} live workers"
    if all(each["is_batched"] for each in able):
        text = f"it is ready since {moment(since)}, and waits until its batch is full or has waited its time."
        yield Reason(ReasonKind.BATCH_FILLS, text, since=since)
    elif all(_is_full(each) for each in able):
        text = f"{count} can claim it, and each has as many runs as it may have."
        yield Reason(ReasonKind.WORKERS_FULL, text, since=since)
    else:
        text = f"it is ready since {moment(since)}, and {count} can claim it."
        yield Reason(ReasonKind.READY, text, since=since)


def _is_full(worker: dict[str, Any]) -> bool:
    share = worker["share"]
    return worker["running"] >= worker["concurrency"] or (
        share is not None and worker["running_of_queue"] >= share
    )


def _unserved(facts: Facts, known: Sequence[dict[str, Any]], of_queue: Sequence[dict[str, Any]]) -> Reason:
    name, queue, since = facts.name, facts.queue, facts.ready_at
    codec = facts.codec or JsonCodec.name
    if facts.silent_executors:
        text = (
            f"no worker is known that claims {name!r} of the queue {queue!r}; {facts.silent_executors} live "
            "processes do not tell: an older version of pgqrs, or no worker."
        )
        return Reason(ReasonKind.WORKERS_UNKNOWN, text, since=since)
    if of_queue:
        others = ", ".join(sorted({repr(each["codec"] or JsonCodec.name) for each in of_queue}))
        text = f"it is stored with the codec {codec!r}, and the live workers of its queue have {others}."
        return Reason(ReasonKind.OTHER_CODEC, text, since=since, name=codec)
    if known:
        text = f"no live worker that knows {name!r} serves its queue {queue!r}."
        return Reason(ReasonKind.QUEUE_NOT_SERVED, text, since=since, name=queue)
    if facts.live_workers:
        text = f"none of the live workers ({facts.live_workers}) knows {name!r}."
        return Reason(ReasonKind.UNKNOWN_NAME, text, since=since)
    return Reason(ReasonKind.NO_WORKER, "no worker is alive.", since=since)
