"""`Worker`: finds workflows that were enqueued, runs them, and takes over what died elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from pgqrs.client.admin import Admin
from pgqrs.client.enqueue import validate_seconds
from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.json import JsonCodec
from pgqrs.decorators import AnyFunction
from pgqrs.errors import ConfigurationError, DatabaseUnavailableError, PgqrsError
from pgqrs.storage.claim_connection import ClaimConnection, MaintenanceResult
from pgqrs.storage.queries.channels import mark_of
from pgqrs.storage.records import ClaimedRun
from pgqrs.types import DEFAULT_QUEUE
from pgqrs.validation import check_name
from pgqrs.worker.blocked_loop import BlockedLoopDetector
from pgqrs.worker.claimer import Claimer
from pgqrs.worker.maintenance import Maintenance
from pgqrs.worker.os_signals import caught_signals
from pgqrs.worker.runner import WorkflowRunner
from pgqrs.workflow.definition import Definition, definition_of

T = TypeVar("T")

_PATIENCE: Final = 4
"""How many times the `timeout` of the `Admin` a claim may take, the making of a connection included."""

_logger = logging.getLogger("pgqrs")


class Worker:
    """Runs the workflows of `admin` that are enqueued, in this process and event loop, until it is told to stop.

    `workflows` are functions decorated with `@workflow`; workflows of other names are left to other workers.
    `queues` are those that it serves. `concurrency` is how many workflows run here at once; it claims no more.
    `grace` is how long, in seconds, steps that execute may go on when it stops.

    ``await worker.run()`` works until SIGTERM or SIGINT. ``async with worker:`` works while the block runs and
    leaves signals alone. Either way what has not ended is handed back, for another worker to go on with. The
    `admin` must stay open, and can be used for other things; several workers may share it.

    Raises `ConfigurationError` for two functions of one name, for none, and for a number out of range; `TypeError`
    for what is no workflow.
    """

    def __init__(
        self,
        admin: Admin,
        workflows: Iterable[AnyFunction],
        queues: Iterable[str] = (DEFAULT_QUEUE,),
        concurrency: int = 100,
        *,
        grace: float = 30.0,
    ) -> None:
        self._admin = admin
        self._definitions = _definitions_of(workflows)
        self._queues = _checked_queues(queues)
        self._concurrency = _checked_concurrency(concurrency)
        self._grace = validate_seconds("grace", grace) or 0.0
        self._services: _Services | None = None
        self._draining: asyncio.Task[None] | None = None
        self._asked_to_stop = asyncio.Event()
        self._started = False

    def __repr__(self) -> str:
        return f"<Worker of {', '.join(self._definitions)} for {', '.join(self._queues)}>"

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT or `drain`, then stop as `drain` does; a second signal stops at once.

        Signals are caught where the event loop can do that, in the main thread; afterwards the handlers are as
        they were. Raises what keeps the worker from starting, `NotInstalledError` say; afterwards no error ends
        it.
        """
        with caught_signals(self._signalled):
            if not await self._start_unless_stopped():
                return
            try:
                await self._asked_to_stop.wait()
            except BaseException:
                await self.drain(0.0)
                raise
            await self.drain()

    async def _start_unless_stopped(self) -> bool:
        """Start, and tell whether that came before a signal: a server that is away can keep it for long."""
        starting = asyncio.ensure_future(self.start())
        stopped = asyncio.ensure_future(self._asked_to_stop.wait())
        try:
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait([starting])
        if starting.cancelled():
            return False
        await starting
        return True

    def _signalled(self) -> None:
        if self._asked_to_stop.is_set():
            _logger.warning("pgqrs: a second signal: the worker stops now")
            if self._services is not None:
                self._services.runs.shorten_grace(0.0)
        else:
            _logger.info("pgqrs: the worker drains, and steps have %g s to end", self._grace)
            self._asked_to_stop.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.drain(self._grace if exc_type is None else 0.0)

    async def start(self) -> None:
        """Begin to work; for those who want neither `run` nor ``async with``: call `drain` in the end.

        Raises `NotInstalledError`, `SchemaOutOfDateError`, `DatabaseUnavailableError`, and `ConfigurationError`
        for a worker that was started before.
        """
        if self._started:
            raise ConfigurationError("a Worker works once: make another one.")
        self._started = True
        here = await self._admin.loop_state()
        services = _Services(self._admin, here, self._definitions, self._queues, self._concurrency)
        await services.start()
        self._services = services
        _logger.info("pgqrs: %r has started, executor %s", self, here.store.executor_id)

    async def drain(self, grace: float | None = None) -> None:
        """Stop: claim no more, give the steps that execute `grace` seconds to end, and hand every run back.

        A run between two steps is handed back at once, one that executes steps when these have ended and their
        outcomes are recorded; what still executes after the grace is interrupted, and executed again elsewhere. No
        attempt is counted for it. `grace` is that of the worker where it is not given. Called again it waits for
        the same end, which a shorter grace brings nearer; a caller that is cancelled leaves no grace.
        """
        seconds = self._grace if grace is None else validate_seconds("grace", grace) or 0.0
        self._asked_to_stop.set()
        if self._services is None:
            return
        self._services.runs.shorten_grace(seconds)
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="pgqrs-drain")
        try:
            await asyncio.shield(self._draining)
        except asyncio.CancelledError:
            self._services.runs.shorten_grace(0.0)
            await asyncio.wait([self._draining])
            raise

    async def _drain(self) -> None:
        if self._services is not None:
            await self._services.stop()
        _logger.info("pgqrs: %r has stopped", self)


class _Services:
    """What goes on in the background of a worker, put together: started and stopped in order."""

    def __init__(
        self,
        admin: Admin,
        here: LoopState,
        definitions: Mapping[str, Definition],
        queues: Sequence[str],
        concurrency: int,
    ) -> None:
        self._here = here
        self._codec = admin.codec
        self._names = list(definitions)
        self._queues = queues
        self._marks = {mark_of(queue) for queue in queues}
        self._watch: ClaimConnection | None = None
        self._codecs_told: set[tuple[str, str | None]] = set()
        self.runs = WorkflowRunner(admin, here.store, definitions, concurrency, self._over, waits=here.waits)
        self._claims = Claimer(self._claim, self.runs)
        self._ticks = Maintenance(self._tick, self._claims.nudge, here.store.clock)
        self._lag = BlockedLoopDetector(here.store.runs)

    async def start(self) -> None:
        """Connect, show that this executor lives, and begin."""
        self._watch = await self._here.store.claim_connection(self._rung)
        self._here.notifier.listen(self._rung_here)
        self._lag.start()
        self._ticks.start()
        self._claims.start()

    async def stop(self) -> None:
        """Claim no more, hand back what runs (the grace is set with `Runs.hurry`), and disconnect."""
        self._here.notifier.unlisten(self._rung_here)
        await asyncio.gather(self._claims.stop(), self._ticks.stop())
        with suppress(PgqrsError):
            await self._claims.take_unanswered()
        await self.runs.drain()
        await self._lag.stop()
        if self._watch is not None:
            await self._watch.close()

    async def _claim(self, limit: int, room: int) -> Sequence[ClaimedRun]:
        assert self._watch is not None  # noqa: S101  # connected before
        return await self._in_time(self._watch.claim(self._names, self._queues, limit, room, self.runs.avoided()))

    async def _tick(self) -> MaintenanceResult:
        assert self._watch is not None  # noqa: S101  # connected before
        found = await self._in_time(self._watch.run_maintenance(self._names, self._queues))
        for each in set(found.others) - self._codecs_told:
            self._codecs_told.add(each)
            name, codec = each
            _logger.warning(
                "pgqrs: workflows %r are ready and left alone: they are written with the codec %r, and the Admin "
                "of this worker has %r. Give it that codec; the command takes an Admin of yours: "
                "pgqrs worker ... --admin MODULE:NAME.",
                name,
                codec or JsonCodec.name,
                self._codec.name,
            )
        return found

    async def _in_time(self, asked: Awaitable[T]) -> T:
        # Each statement has a time limit of its own, and one may wait for the other; this is for what has none.
        limit = _PATIENCE * self._here.store.database.limits.timeout
        try:
            async with asyncio.timeout(limit):
                return await asked
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"the server did not answer within {limit:g} s.") from error

    def _rung(self, mark: str) -> None:
        if mark in self._marks:
            self._claims.nudge()

    def _rung_here(self, queue: str, workflow_id: int) -> None:
        if queue in self._queues and self._watch is not None:
            self._watch.lower(workflow_id)
            self._claims.nudge()

    def _over(self, workflow_id: int) -> None:
        self._claims.slot_freed()
        self._here.results.notify_finished(workflow_id)


def _definitions_of(workflows: Iterable[AnyFunction]) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for each in workflows:
        definition = definition_of(each)
        other = found.setdefault(definition.name, definition)
        if other.function is not definition.function:
            raise ConfigurationError(
                f"two workflows are named {definition.name!r}: {_shown(other.function)} and "
                f"{_shown(definition.function)}. Give one another name: @workflow(name=...)."
            )
    if not found:
        raise ConfigurationError("a Worker needs at least one workflow to run.")
    return found


def _shown(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def _checked_queues(queues: object) -> list[str]:
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        raise TypeError(f"queues are several names, as in queues=({str(queues)!r},).")
    names = list(dict.fromkeys(cast("Iterable[str]", queues)))
    for name in names:
        check_name("queue", name)
    if not names:
        raise ConfigurationError("a Worker needs at least one queue to serve.")
    return names


def _checked_concurrency(concurrency: object) -> int:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f"concurrency is an int, not {type(concurrency).__name__}.")
    if concurrency < 1:
        raise ConfigurationError(f"concurrency must be at least 1, and is {concurrency}.")
    return concurrency
