"""Reads and changes the limits of queues, and notifies the workers of a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from typing import get_args

from pgqrs.client.loop_state import LoopStates
from pgqrs.errors import ConfigurationError
from pgqrs.storage.access.id_allocator import MAX_ID
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.limits.holders import UNTIL_END
from pgqrs.storage.limits.settings import QueueLimits, QueueRepository
from pgqrs.types import Holds, QueueRecord, Rate
from pgqrs.validation import check_name, validate_partition_key, validate_positive_int, validate_seconds

MAX_NUMBER = 1_000_000_000
"""Maximum of each number of a limit."""

MIN_PACE = 1e-6
"""Seconds, minimum time between two starts at a rate: the database counts in microseconds."""

WEIGHTS = 1e-6, 1e6
"""The least and the greatest weight, so that sums of their inverses stay exact enough."""


def queue_limits(
    *,
    concurrency: object,
    partition_concurrency: object,
    rate: Rate | None,
    partition_rate: Rate | None,
    weights: Mapping[str, float] | None,
    holds: Holds,
    ordered: bool,
    fair: bool,
) -> QueueLimits:
    """Check the arguments of `Admin.set_queue` and return them as limits; raises as `Admin.set_queue` does."""
    limits = QueueLimits(
        _limit("concurrency", concurrency),
        _limit("partition_concurrency", partition_concurrency),
        _rate("rate", rate),
        _rate("partition_rate", partition_rate),
        {validate_partition_key(key): _weight(key, each) for key, each in (weights or {}).items()} or None,
        _holds(holds),
        fair=fair,
    )
    if weights and not fair:
        raise ConfigurationError(
            "`weights` are shares of the partition keys, which `fair=False` ignores: omit one."
        )
    if ordered:
        return _ordered(limits)
    if limits.holds == UNTIL_END and limits.concurrency is None and limits.partition_concurrency is None:
        raise ConfigurationError(
            "`holds` is 'until_end', but the queue has no limit of runs; pass `concurrency` or "
            "`partition_concurrency`, too."
        )
    return limits


def _ordered(limits: QueueLimits) -> QueueLimits:
    if limits.partition_concurrency not in {None, 1}:
        raise ConfigurationError(
            f"`partition_concurrency` must be 1 in an ordered queue, got {limits.partition_concurrency}: one "
            "workflow of each key runs at a time. Omit it."
        )
    return limits._replace(partition_concurrency=1, holds=UNTIL_END, ordered=True)


def _holds(given: Holds) -> Holds:
    if given not in get_args(Holds):
        raise ConfigurationError(f"`holds` must be 'running' or 'until_end', got {given!r}.")
    return given


def _limit(what: str, given: object) -> int | None:
    advice = "; pass None for no limit, and pause the queue to stop it"
    return None if given is None else _number(what, given, advice)


def _number(what: str, given: object, advice: str = "") -> int:
    number = validate_positive_int(what, given, advice)
    if number > MAX_NUMBER:
        raise ConfigurationError(f"`{what}` must be at most {MAX_NUMBER:,}, got {number}{advice}.")
    return number


def _rate(what: str, given: object) -> Rate | None:
    if given is None:
        return None
    if not isinstance(given, Rate):
        raise TypeError(f"`{what}` must be a Rate, as in Rate(100, per=60), got {type(given).__name__}.")
    limit, burst = _number(f"{what}.limit", given.limit), _number(f"{what}.burst", given.burst)
    per = validate_seconds(f"{what}.per", given.per, positive=True) or 0.0
    if per / limit < MIN_PACE:
        raise ConfigurationError(
            f"`{what}` must be at most a million starts in a second, got {limit} in {per:g} s; pass None for none."
        )
    return Rate(limit, per, burst)


def _weight(key: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"the weight of {key!r} must be a number, got {type(given).__name__}.")
    least, greatest = WEIGHTS
    if not least <= given <= greatest:
        raise ConfigurationError(
            f"the weight of {key!r} must be at least {least:f} and at most {greatest:,.0f}, got {given}."
        )
    return float(given)


class QueueSettings:
    """The limits of the queues of a schema; a change takes effect when it is committed."""

    def __init__(self, loops: LoopStates, session: SessionOrConnection | None = None) -> None:
        self._loops = loops
        self._session = session

    async def set(self, name: str, limits: QueueLimits) -> None:
        """Replace the limits of a queue."""
        await self._change(name, lambda queues: queues.set(name, limits), is_ordered=limits.ordered)

    async def pause(self, name: str) -> None:
        """Pause a queue."""
        await self._change(name, lambda queues: queues.pause(name))

    async def resume(self, name: str) -> None:
        """End the pause of a queue."""
        await self._change(name, lambda queues: queues.resume(name))

    async def delete(self, name: str) -> None:
        """Delete the limits and the pause of a queue."""
        await self._change(name, lambda queues: queues.delete(name), is_ordered=False)

    async def list(self) -> list[QueueRecord]:
        """Return the records of the queues."""
        operations = await (await self._loops.store()).operations_for(self._session)
        return await operations.run(lambda connection: QueueRepository(connection).list())

    async def _change(
        self,
        name: str,
        change: Callable[[QueueRepository], Awaitable[None]],
        *,
        is_ordered: bool | None = None,
    ) -> None:
        check_name("queue", name)
        state = await self._loops.loop_state()
        operations = await state.store.operations_for(self._session)
        await operations.run(lambda connection: change(QueueRepository(connection)))

        def committed() -> None:
            if is_ordered is not None:
                ordered = self._loops.ordered_queues
                (ordered.add if is_ordered else ordered.discard)(name)
            state.notifier.notify(name, MAX_ID)  # the highest id: the workflows that can start now are not new

        if self._session is None:
            committed()
        else:
            state.store.sessions.callers.after_commit(self._session, f"limits of {name}", committed)


def check_has_partition_key(queue: str, partition_key: str | None, ordered: Container[str]) -> None:
    """Raise `ConfigurationError` for a submission without a partition key to one of the `ordered` queues."""
    if partition_key is None and queue in ordered:
        raise ConfigurationError(
            f"the queue {queue!r} is ordered: its workflows run in the order of their partition key; pass "
            "`partition_key` to `options`."
        )
