"""The connection of a worker: receives notifications, claims workflows, and maintains the queues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from pgqrs.clock import MAX_SECONDS, Clock, ClockReading, MonotonicClock
from pgqrs.codecs.failures import dump_error
from pgqrs.errors import WorkflowTimeoutError
from pgqrs.observer import Observer, RunOrigin
from pgqrs.storage.batches.forming import NO_BATCHES, BatchedWorkflow, FormedBatches, form_batches
from pgqrs.storage.claim_floor import ClaimFloor
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.dedicated import DedicatedConnection
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.connections.pooler import Driver
from pgqrs.storage.diagnosis import workers
from pgqrs.storage.diagnosis.workers import Registration
from pgqrs.storage.limits.claims import claim_limited, claim_limited_observed, forget_starts
from pgqrs.storage.queries import children, claims, delivery, executors, maintenance
from pgqrs.storage.queue_claims import QueueClaims
from pgqrs.storage.records import ClaimedRun, EndedWorkflow, from_row
from pgqrs.storage.schedules.firing import Fired, ScheduleFiring
from pgqrs.storage.sql.channels import parse_payload, queue_channel
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.uniqueness.statements import forget_throttles
from pgqrs.types import WorkflowStatus

MAX_CLAIM_BYTES = 64 * 2**20
"""Maximum bytes of the inputs of claimed workflows that a worker holds; the last workflow may exceed it."""

_UNKNOWN_EVERY = 60
"""Maintenance passes between two searches for runs of unregistered executors and for executors long dead."""

_OTHERS_EVERY = 10
"""Maintenance passes between two searches for workflows that are written with another codec."""

_SLACK = 16
"""Workflows that a claim considers beyond its limit; more while other workers claim the same workflows."""

_MOST_SLACK = 4096

_ATTEMPTS = 4
"""Maximum statements of one claim, while other workers lock the workflows that it considers."""


class MaintenanceResult(NamedTuple):
    """The result of a maintenance pass.

    `ready` says that one of the queues has a workflow to claim. `woken` counts the workflows whose timer was due,
    `recovered` the runs of dead executors, and `timed_out` the workflows that were ended at their deadline.
    `suspects` counts executors that may be dead. `next_due` is the time in seconds until the next timer, deadline
    or time of a schedule, None without one. `has_new` says that `deliver` has something to do, and
    `has_due_schedules` that `fire_schedules` has. `others` has the name and codec of ready workflows with another
    codec. `fired` counts the schedules that were moved to their next times since then.
    """

    ready: bool
    woken: int
    recovered: int
    timed_out: int
    suspects: int
    next_due: float | None
    has_new: bool = False
    others: tuple[tuple[str, str | None], ...] = ()
    has_due_schedules: bool = False
    fired: int = 0


class Delivered(NamedTuple):
    """The result of a delivery: the number of workflows that a message has made ready, and their queues.

    `lowest` is the lowest id of these workflows, 0 without one. `again` says that more messages may be left, and
    `has_ended_parents` that `cancel_children` has something to do.
    """

    woken: int
    lowest: int
    queues: tuple[str, ...]
    again: bool
    has_ended_parents: bool


class ClaimConnection:
    """One worker's connection outside of the pool, replaced when it is lost; it claims workflows of one `codec`.

    `on_notify` is called in the event loop with the mark of a queue (`channels.mark_of`) for each notification.
    `on_time` is called with the server's time for each claim that returns it. With an
    `observer`, claims have the facts that it needs. The methods raise
    `DatabaseUnavailableError` while the server is away; call them again later.
    """

    def __init__(
        self,
        database: Database,
        executor_id: UUID,
        on_notify: Callable[[str], object],
        codec: str | None = None,
        *,
        on_time: Callable[[ClockReading], None] | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._database = database
        self._own: dict[str, Any] = {"executor": executor_id, "codec": codec}
        self._tells = _Listeners(on_notify, on_time, observer)
        self._dedicated = DedicatedConnection(database, self._listen, sorting=False)
        self._one_at_a_time = asyncio.Lock()
        self._unanswered: list[int] = []
        self._settled_at = 0.0
        self._ticks = 0
        self._slack = _SLACK
        self._may_delete_more = False
        self._floor = ClaimFloor((MonotonicClock() if clock is None else clock).time)
        self._claims = _PLAIN if observer is None else _OBSERVED
        self.queues = QueueClaims(
            database.schema, self._claim, self._claimed, self._unanswered, limited=self._claims.limited
        )
        """The queues with limits, as the last claims have found them."""
        self.statements = 0
        """The number of statements that were sent."""

    async def claim(
        self,
        names: Sequence[str],
        queues: Sequence[str],
        limit: int,
        budget: int = MAX_CLAIM_BYTES,
        avoid: Sequence[int] = (),
        *,
        rooms: Mapping[str, int] | None = None,
    ) -> list[ClaimedRun]:
        """Claim up to `limit` workflows of these names and queues, by priority, then by age.

        The inputs take about `budget` bytes; the last one may exceed it. Workflows of `avoid` are excluded.
        `rooms` has the maximum for each queue. If the answer to an earlier call was lost, the workflows of that
        call are returned instead. Of a queue with limits, workflows are claimed as `limits.claims` describes.
        """
        names, queues = list(dict.fromkeys(names)), list(dict.fromkeys(queues))
        values = self._own | {"names": names, "queues": queues, "budget": budget, "avoid": avoid}
        async with self._one_at_a_time:
            rows: list[Any] = []
            if self._unanswered:
                rows = await self._claimed(self._claims.by_tokens, values | {"tokens": self._unanswered})
            if not rows:
                # What a search of all the queues has found holds for each of them.
                values["floor"] = self._floor.of((names, queues))
                rows = await self.queues.claim(values, limit, rooms)
            self._unanswered.clear()
        self._floor.claimed(row["workflow_id"] for row in rows)
        return _in_order(rows, observed=self._claims is _OBSERVED)

    async def _claim(self, values: dict[str, Any], limit: int) -> list[Any]:
        """Claim, and repeat while other workers hold considered workflows and there may be more."""
        rows: list[Any] = []
        budget: int = values["budget"]
        for _ in range(_ATTEMPTS):
            token, wanted = new_token(), limit - len(rows)
            window = wanted + self._slack
            self._unanswered.append(token)
            own = {"token": token, "limit": wanted, "window": window, "budget": budget}
            found = await self._claimed(self._claims.claim, values | own)
            self.queues.learn(values["queues"], found[0]["limited"])
            taken = [row for row in found if row["workflow_id"] is not None]
            rows += taken
            budget -= sum(len(row["input"]) for row in taken)
            if len(taken) >= wanted or found[0]["seen"] < window or budget <= 0:
                self._slack = max(_SLACK, self._slack // 2)
                break
            self._slack = min(2 * self._slack, _MOST_SLACK)
        return rows

    async def _claimed(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        asked = monotonic()
        rows = await self._fetch(statement, values)
        if rows and rows[0]["told"] is not None and self._tells.on_time is not None:
            self._tells.on_time(ClockReading.between(rows[0]["told"], asked))
        return rows

    @property
    def unanswered(self) -> tuple[int, ...]:
        """The tokens of claims whose answers are outstanding or were lost."""
        return tuple(self._unanswered)

    def lower(self, first: int) -> None:
        """Consider ids from `first` on again: the workflow `first` is ready, and perhaps workflows above it."""
        self._floor.lower(first)

    async def run_maintenance(
        self,
        names: Sequence[str],
        queues: Sequence[str],
        submitted: Sequence[str] = (),
        registration: Registration | None = None,
    ) -> MaintenanceResult:
        """Wake due workflows, recover the runs of dead executors, end overdue workflows, and return a summary.

        `submitted` has the names of the workflows that the worker runs in batches, and does not claim. The row of
        the worker, `registration`, is written now and then.
        """
        async with self._one_at_a_time:
            unknown_too = self._ticks % _UNKNOWN_EVERY == 0
            asked = list(dict.fromkeys(names)), list(dict.fromkeys(queues))
            known = self._own | {"names": list(dict.fromkeys([*names, *submitted])), "queues": asked[1]}
            found = await self._look(known | {"unknown_too": unknown_too}, asked)
            ready = found["lowest"] is not None
            others: list[Any] = []
            if not ready and self._ticks % _OTHERS_EVERY == 0:
                others = await self._fetch(maintenance.codecs_of_others, known)
            self._ticks += 1
            timed_out = await self._time_out(found["expired"]) if found["expired"] else 0
            if unknown_too and registration is not None:
                await self._fetch(workers.register, self._own | registration.values())
            if unknown_too:
                await self._fetch(executors.forget_the_dead, {})
                await self._fetch(forget_starts, {})
                await self._fetch(forget_throttles, {})
            if unknown_too or self._may_delete_more:
                deleted = await self._fetch(delivery.delete_received, {})
                self._may_delete_more = len(deleted) >= delivery.MAX_DELETED
        next_schedule = found["next_schedule"]
        has_due = next_schedule is not None and next_schedule <= 0
        upcoming = [each for each in (found["next_due"], None if has_due else next_schedule) if each is not None]
        return MaintenanceResult(
            ready,
            found["woken"],
            found["recovered"],
            timed_out,
            found["suspects"],
            min(upcoming, default=None),
            found["has_new"],
            tuple((row["name"], row["codec"]) for row in others),
            has_due,
        )

    async def fire_schedules(self, firing: ScheduleFiring, names: Sequence[str], queues: Sequence[str]) -> Fired:
        """Start the workflows of schedules of these names and queues that are due."""
        async with self._one_at_a_time:
            fired = await firing.fire(self._fetch, list(dict.fromkeys(names)), list(dict.fromkeys(queues)))
            if fired.lowest:
                self._floor.lower(fired.lowest)
        return fired

    async def form_batches(
        self,
        workflows: Sequence[BatchedWorkflow],
        queues: Sequence[str],
        is_wanted: Callable[[], bool] | None = None,
    ) -> FormedBatches:
        """Make batches of the submissions of these workflows and queues that are ready.

        `is_wanted` is asked once no claim is in progress; by default batches are wanted.
        """
        async with self._one_at_a_time:
            if is_wanted is not None and not is_wanted():
                return NO_BATCHES
            formed = await form_batches(
                self._fetch,
                workflows,
                list(dict.fromkeys(queues)),
                sequence=self._database.workflow_ids,
                codec=self._own["codec"],
            )
            if formed.lowest:
                self._floor.lower(formed.lowest)
        return formed

    async def deliver(self) -> Delivered:
        """Give parked workflows the messages for which they wait."""
        async with self._one_at_a_time:
            (found,) = await self._fetch(delivery.deliver, {})
            if found["lowest"] is not None:
                self._floor.lower(found["lowest"])
        again = max(found["seen"], found["woken"]) >= delivery.MAX_SEEN
        queues = tuple(found["queues"] or ())
        return Delivered(found["woken"], found["lowest"] or 0, queues, again, found["has_ended_parents"])

    async def cancel_children(self) -> bool:
        """Cancel children of ended parents, and return whether more may be left."""
        async with self._one_at_a_time:
            (found,) = await self._fetch(children.cancel_children, {})
        for name, queue in zip(found["names"] or (), found["queues"] or (), strict=True):
            self._tell(EndedWorkflow(name, queue, WorkflowStatus.CANCELLED))
        return bool(found["cancelled"] and found["left"])

    def _tell(self, ended: EndedWorkflow) -> None:
        if self._tells.observer is not None:
            self._tells.observer.workflow_ended(*ended)

    async def _look(self, values: dict[str, Any], asked: object) -> Any:
        """Run a full search if it is due, otherwise a search within the bounds of the floor of `asked`."""
        floor = self._floor.of(asked)
        is_full = self._floor.is_due
        bounds = {"floor": 0, "past": MAX_SECONDS} if is_full else {"floor": floor, "past": self._floor.past}
        if is_full:
            self._floor.look()
        (found,) = await self._fetch(maintenance.maintain, values | bounds)
        if is_full:
            lowest = 1 if found["levels"] >= maintenance.MAX_PRIORITIES else found["lowest"]
            did_most = max(found["woken"], found["recovered"], len(found["expired"] or ())) >= maintenance.MAX_ROWS
            self._floor.looked(lowest, found["took"], again=did_most)
        if found["lowest_again"] is not None:
            self._floor.lower(found["lowest_again"])
        return found

    async def _time_out(self, ids: list[int]) -> int:
        given = await self._fetch(maintenance.given_times, {"ids": ids})
        errors = [dump_error(WorkflowTimeoutError(row["id"], row["timeout"]), terminal=True) for row in given]
        expired = {"ids": [row["id"] for row in given], "errors": errors}
        ended = await self._fetch(maintenance.end_past_deadline, expired)
        for row in ended:
            self._tell(EndedWorkflow(row["name"], row["queue"], WorkflowStatus.ERROR))
        return len(ended)

    async def unregister(self, registration: Registration) -> None:
        """Delete the row of the worker, which claims no more."""
        async with self._one_at_a_time:
            await self._fetch(workers.unregister, self._own | {"worker": registration.worker})

    async def close(self) -> None:
        """Close the connection."""
        async with self._one_at_a_time:
            await self._dedicated.close()

    async def _fetch(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        with translated(self._database.schema):
            if not self._dedicated.is_open:
                await self._connect()
            self.statements += 1
            settled = asyncio.get_running_loop().time() >= self._settled_at
            try:
                return await self._dedicated.fetch(statement, values | {"settled": settled})
            except BaseException:
                self._unsettle()
                self._floor.forget()
                raise

    async def _connect(self) -> None:
        is_replacement = self._dedicated.driver is not None
        self._floor.forget()
        try:
            await self._dedicated.open()
        except BaseException:
            self._unsettle()
            raise
        if is_replacement or self._settled_at > 0:
            self._unsettle()

    async def _listen(self, driver: Driver) -> None:
        await driver.add_listener(queue_channel(self._database.schema), self._on_notification)

    def _unsettle(self) -> None:
        """Trust no sign of death for a while: living executors may have lost their connections as well."""
        self._settled_at = asyncio.get_running_loop().time() + executors.SETTLING

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        mark, first = parse_payload(str(payload))
        if first is not None:
            self._floor.lower(first)
        self._tells.on_notify(mark)


class _Listeners(NamedTuple):
    """The listeners of a worker's connection."""

    on_notify: Callable[[str], object]
    on_time: Callable[[ClockReading], None] | None
    observer: Observer | None


class _Statements(NamedTuple):
    """The statements of the claims of a worker."""

    claim: Callable[[], Any]
    by_tokens: Callable[[], Any]
    limited: Callable[[], Any]


_PLAIN = _Statements(claims.claim, claims.claimed_by_tokens, claim_limited)

_OBSERVED = _Statements(claims.claim_observed, claims.claimed_by_tokens_observed, claim_limited_observed)

_COLUMNS = [name for name in ClaimedRun._fields if name != "origin"]


def _in_order(rows: list[Any], *, observed: bool) -> list[ClaimedRun]:
    first = sorted(rows, key=lambda row: (-row["priority"], row["workflow_id"]))
    claimed = [ClaimedRun(*(row[name] for name in _COLUMNS)) for row in first]
    if not observed:
        return claimed
    return [each._replace(origin=from_row(RunOrigin, row)) for each, row in zip(claimed, first, strict=True)]
