"""`Worker`: claims enqueued workflows, runs them, and recovers the workflows of dead executors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

from pgqrs.client.admin import Admin
from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.json import JsonCodec
from pgqrs.decorators import AnyFunction
from pgqrs.errors import ConfigurationError, DatabaseUnavailableError, PgqrsError
from pgqrs.storage.access.id_allocator import MAX_ID
from pgqrs.storage.batches.forming import FormedBatches
from pgqrs.storage.claim_connection import ClaimConnection, MaintenanceResult
from pgqrs.storage.queue_claims import Outlook
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.retention.passes import RetentionPass
from pgqrs.storage.schedules.firing import ScheduleFiring
from pgqrs.storage.sql.channels import MESSAGES, RESULTS, mark_of
from pgqrs.types import DEFAULT_QUEUE, WorkerHealth
from pgqrs.validation import validate_seconds
from pgqrs.worker.batches import Batches, batched_workflows
from pgqrs.worker.blocked_loop import BlockedLoopDetector
from pgqrs.worker.claimer import Claimer
from pgqrs.worker.deliveries import Deliveries
from pgqrs.worker.maintenance import Maintenance
from pgqrs.worker.os_signals import caught_signals
from pgqrs.worker.result_notifier import ResultNotifier
from pgqrs.worker.retention import RetentionService
from pgqrs.worker.runner import WorkflowRunner
from pgqrs.worker.served_queues import ServedQueues
from pgqrs.workflow.batching.items import members_of
from pgqrs.workflow.definition import Definition, definition_of

T = TypeVar("T")

_PATIENCE: Final = 4
"""Multiple of the `Admin`'s `timeout` that one claim may take, including a new connection."""

_MESSAGES_MARK = mark_of(MESSAGES)
_RESULTS_MARK = mark_of(RESULTS)

_logger = logging.getLogger("pgqrs.worker")


class Worker:
    """Runs the enqueued workflows of an `Admin` in this process and event loop, until it is stopped.

    ``await worker.run()`` works until SIGTERM or SIGINT. ``async with worker:`` works while the block runs, and
    handles no signals. Both requeue unfinished runs at the end, and another worker resumes them. The `admin` must
    stay open. The application can use it for other calls, and several workers can share it.

    Args:
        admin: The client of the database whose workflows the worker runs.
        workflows: Functions decorated with `@workflow`. The worker claims no workflows of other names.
        queues: The names of the queues that the worker serves; the default queue if omitted. A mapping such as
            ``{"mail": 20, "default": 80}`` also has the maximum number of workflows of each queue that run here at
            once.
        concurrency: Maximum number of workflows that run here at once; by default 100, or the sum of the numbers
            of `queues`. A run that waits for the result of another workflow is not counted.
        grace: Seconds that executing steps have to end when the worker stops, 30 by default.

    Raises:
        ConfigurationError: Two functions have the same name, `workflows` or `queues` is empty, or a number is out
            of range.
        InvalidNameError: A queue's name is invalid.
        TypeError: A function is not a workflow, or an argument has a wrong type.
    """

    def __init__(
        self,
        admin: Admin,
        workflows: Iterable[AnyFunction],
        queues: Iterable[str] | Mapping[str, int] = (DEFAULT_QUEUE,),
        concurrency: int | None = None,
        *,
        grace: float = 30.0,
    ) -> None:
        self._admin = admin
        self._definitions = _definitions_of(workflows)
        self._queues = ServedQueues.of(queues)
        self._concurrency = self._queues.concurrency(concurrency)
        self._grace = validate_seconds("grace", grace) or 0.0
        self._services: _Services | None = None
        self._draining: asyncio.Task[None] | None = None
        self._asked_to_stop = asyncio.Event()
        self._started = False

    def __repr__(self) -> str:
        return f"<Worker of {', '.join(self._definitions)} for {', '.join(self._queues.names)}>"

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT or `drain`, then stop as `drain` does; a second signal stops at once.

        Signals are handled where the event loop supports it, in the main thread. The previous handlers are
        restored at the end. After the start, no error ends the worker.

        Raises:
            ConfigurationError: The worker was started before.
            DatabaseUnavailableError: The server could not be reached at the start.
            NotInstalledError: The schema has no tables of pgqrs.
            SchemaOutOfDateError: The tables are too old or too new for this version of pgqrs.
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
        """Start, and return False if a signal came first: a server that is away can delay the start for long."""
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
            _logger.warning("pgqrs: received a second signal, so the worker stops now")
            if self._services is not None:
                self._services.runs.shorten_grace(0.0)
        else:
            _logger.info("pgqrs: the worker drains, and executing steps have %g s to end", self._grace)
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
        """Start to work, without `run` and without ``async with``; call `drain` at the end.

        Raises:
            ConfigurationError: The worker was started before.
            DatabaseUnavailableError: The server could not be reached.
            NotInstalledError: The schema has no tables of pgqrs.
            SchemaOutOfDateError: The tables are too old or too new for this version of pgqrs.
        """
        if self._started:
            raise ConfigurationError("a Worker runs once; create another Worker to start again.")
        self._started = True
        here = await self._admin.loop_state()
        services = _Services(self._admin, here, self._definitions, self._queues, self._concurrency)
        await services.start()
        self._services = services
        executor = here.store.executor_id
        _logger.info("pgqrs: %r has started, executor %s", self, executor, extra={"executor_id": executor})

    async def drain(self, grace: float | None = None) -> None:
        """Stop: claim no more, give executing steps `grace` seconds to end, and requeue every run.

        A run between two steps is requeued at once. A run that executes steps is requeued when they have ended and
        their outcomes are recorded. Steps that still execute after the grace are interrupted, and another worker
        executes them again. A requeued run counts no attempt. A second call waits for the same end, and a shorter
        grace brings the end nearer. A cancelled call ends the grace.

        Args:
            grace: Seconds that executing steps have to end; the `grace` of the worker if omitted.

        Raises:
            ConfigurationError: `grace` is negative, not finite, or too large.
            TypeError: `grace` is not a number of seconds.
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

    def health(self) -> WorkerHealth:
        """Return the health of the worker, as it is known without asking the database.

        Returns:
            The health at this moment.
        """
        services = self._services
        dead, failing = ([], []) if services is None else services.troubles()
        is_draining = self._asked_to_stop.is_set()
        if services is None:
            state: Literal["new", "working", "draining", "stopped"] = "stopped" if is_draining else "new"
        elif self._draining is not None and self._draining.done():
            state = "stopped"
        else:
            state = "draining" if is_draining else "working"
        return WorkerHealth(
            state=state,
            is_alive=not dead,
            is_ready=state == "working" and not dead and not failing,
            running=0 if services is None else services.runs.held,
            failing=tuple(failing),
        )

    async def _drain(self) -> None:
        if self._services is not None:
            await self._services.stop()
        _logger.info("pgqrs: %r has stopped", self)


class _Services:
    """The background services of a worker, which start and stop in order."""

    def __init__(
        self,
        admin: Admin,
        here: LoopState,
        definitions: Mapping[str, Definition],
        queues: ServedQueues,
        concurrency: int,
    ) -> None:
        self._here = here
        self._definitions = definitions
        self._codec = admin.codec
        self._names = list(definitions)
        self._batched = batched_workflows(definitions.values())
        self._submitted = [each.name for each in self._batched]
        self._queues = queues
        self._registration = queues.registration(self._names, self._submitted, concurrency)
        self._marks = {mark_of(queue) for queue in queues.names}
        self._claim_connection: ClaimConnection | None = None
        self._codecs_told: set[tuple[str, str | None]] = set()
        self.runs = WorkflowRunner(
            admin,
            here.store,
            definitions,
            concurrency,
            self._over,
            waits=here.waits,
            is_behind=lambda claimed: self._claimer.may_be_more or self._is_limited(claimed),
        )
        self._claimer = Claimer(self._claim, self.runs, self._outlook)
        self._maintenance = Maintenance(self._tick, self._nudge, here.store.clock)
        self._batches = Batches(self._form_batches, self._batches_made, here.store.clock)
        self._deliveries = Deliveries(self._deliver)
        self._retention = RetentionService(RetentionPass(here.store.database))
        self._firing = ScheduleFiring()
        self._results = ResultNotifier(here.store.notify_results)
        self._loop_detector = BlockedLoopDetector(here.store.runs, here.store.observer)

    async def start(self) -> None:
        """Connect, start the heartbeat of this executor, and start the services."""
        self._claim_connection = await self._here.store.claim_connection(self._on_notify)
        self._here.notifier.listen(self._on_local_notify)
        self._here.store.arrivals.listen(self._deliveries.wake)
        self._loop_detector.start()
        self._maintenance.start()
        self._deliveries.start()
        self._retention.start()
        if self._batched:
            self._batches.start()
        self._claimer.start()

    async def stop(self) -> None:
        """Stop claiming, requeue the runs (`WorkflowRunner.shorten_grace` sets the grace), and disconnect."""
        self.runs.start_no_more()
        self._here.notifier.unlisten(self._on_local_notify)
        self._here.store.arrivals.unlisten(self._deliveries.wake)
        services = (self._claimer, self._maintenance, self._deliveries, self._batches, self._retention)
        await asyncio.gather(*(each.stop() for each in services))
        with suppress(PgqrsError):
            await self._claimer.take_unanswered()
        if self._claim_connection is not None:
            with suppress(PgqrsError):
                await self._in_time(self._claim_connection.unregister(self._registration))
        await self.runs.drain()
        await self._results.stop()
        await self._loop_detector.stop()
        if self._claim_connection is not None:
            await self._claim_connection.close()

    def troubles(self) -> tuple[list[str], list[str]]:
        """Return the names of the services that have ended by themselves, and of those that fail."""
        services = (self._claimer, self._maintenance, self._deliveries, self._batches)
        return [each.name for each in services if each.has_died], [
            each.name for each in services if each.is_failing
        ]

    async def _claim(self, limit: int, room: int) -> Sequence[ClaimedRun]:
        assert self._claim_connection is not None  # noqa: S101  # connected in `start`
        rooms = self._queues.rooms(self.runs.held_in)
        began = monotonic()
        claimed = await self._in_time(
            self._claim_connection.claim(
                self._names, self._queues.names, limit, room, self.runs.avoided(), rooms=rooms
            )
        )
        if (observer := self._here.store.observer) is not None:
            observer.claim_answered(monotonic() - began)
            if claimed:
                observer.runs_claimed(len(claimed))
        return claimed

    async def _tick(self) -> MaintenanceResult:
        assert self._claim_connection is not None  # noqa: S101  # connected in `start`
        found = await self._in_time(
            self._claim_connection.run_maintenance(
                self._names, self._queues.names, self._submitted, self._registration
            )
        )
        if found.has_new:
            self._deliveries.wake()
        self._batches.wake()  # a notification may have been lost
        if found.has_due_schedules:
            found = found._replace(fired=await self._fire_schedules(self._claim_connection))
        if (observer := self._here.store.observer) is not None:
            if found.recovered:
                observer.runs_recovered(found.recovered)
            if found.woken:
                observer.timers_fired(found.woken)
        for each in set(found.others) - self._codecs_told:
            self._codecs_told.add(each)
            name, codec = each
            _logger.warning(
                "pgqrs: workflows %r are ready, but this worker cannot read them: they are stored with the codec "
                "%r, and the Admin of this worker has %r. Create the Admin with their codec, and name it on the "
                "command line: pgqrs worker ... --admin MODULE:NAME.",
                name,
                codec or JsonCodec.name,
                self._codec.name,
                extra={"workflow_name": name},
            )
        return found

    async def _fire_schedules(self, connection: ClaimConnection) -> int:
        """Start the workflows of schedules that are due, and return the number of schedules."""
        names = [*self._names, *self._submitted]
        fired = await self._in_time(connection.fire_schedules(self._firing, names, self._queues.names))
        fired.announce(self._here.store.observer)
        for queue in fired.queues:
            self._here.notifier.notify(queue, fired.lowest)
        return fired.moved

    async def _form_batches(self) -> FormedBatches:
        """Make batches of ready submissions, unless no slot is free for one: they fill further meanwhile."""
        assert self._claim_connection is not None  # noqa: S101  # connected in `start`
        return await self._in_time(
            self._claim_connection.form_batches(self._batched, self._queues.names, lambda: self.runs.free > 0)
        )

    def _batches_made(self, formed: FormedBatches) -> None:
        """Claim batches here, and tell other workers if there are more of them than free slots."""
        self._claimer.nudge()
        if formed.made > self.runs.free:
            for queue in formed.queues:
                self._here.notifier.notify(queue, formed.lowest)

    async def _deliver(self) -> bool:
        """Deliver messages to parked workflows, and return whether more messages may be left."""
        assert self._claim_connection is not None  # noqa: S101  # connected in `start`
        found = await self._in_time(self._claim_connection.deliver())
        if found.woken:
            if self._here.store.observer is not None:
                self._here.store.observer.messages_delivered(found.woken)
            self._claimer.nudge()
            for queue in set(found.queues).difference(self._queues.names):
                self._here.notifier.notify(queue, found.lowest)
        more = found.has_ended_parents and await self._in_time(self._claim_connection.cancel_children())
        return found.again or more

    async def _in_time(self, asked: Awaitable[T]) -> T:
        # Each statement has its own time limit, and one may wait for another; this limit bounds the rest.
        limit = _PATIENCE * self._here.store.database.limits.timeout
        try:
            async with asyncio.timeout(limit):
                return await asked
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"the server did not answer within {limit:g} s.") from error

    def _on_notify(self, mark: str) -> None:
        if mark == _MESSAGES_MARK:
            self._deliveries.wake()
            self._here.store.arrivals.search()
        elif mark == _RESULTS_MARK:
            self._results.heard()
        elif mark in self._marks:
            if self._here.store.observer is not None:
                self._here.store.observer.worker_notified()
            self._nudge()

    def _on_local_notify(self, queue: str, workflow_id: int) -> None:
        if queue in self._queues.names and self._claim_connection is not None:
            self._claim_connection.lower(workflow_id)
            self._nudge()

    def _nudge(self) -> None:
        """Look for ready workflows and submissions."""
        self._batches.wake()
        self._claimer.nudge()

    def _outlook(self) -> Outlook:
        return Outlook() if self._claim_connection is None else self._claim_connection.queues.outlook

    def _is_limited(self, claimed: ClaimedRun) -> bool:
        connection = self._claim_connection
        return connection is not None and connection.queues.is_limited(claimed.queue)

    def _over(self, claimed: ClaimedRun) -> None:
        is_limited = self._is_limited(claimed)
        if claimed.queue is not None and is_limited:
            # The run has freed a slot of its queue, which any worker may take, for a workflow with any id.
            self._here.notifier.notify(claimed.queue, MAX_ID)
        self._claimer.slot_freed(is_limited=is_limited)
        self._batches.wake()
        definition = self._definitions[claimed.name]
        members = members_of(claimed.input) if definition.batch is not None else ()
        for each in (claimed.workflow_id, *members):
            self._here.notify_finished(each)
            self._results.ended(each)


def _definitions_of(workflows: Iterable[AnyFunction]) -> dict[str, Definition]:
    """Return the definitions by the names that the worker claims."""
    found: dict[str, Definition] = {}
    for each in workflows:
        definition = definition_of(each)
        other = found.setdefault(definition.claimed_name, definition)
        if other.function is not definition.function:
            raise ConfigurationError(
                f"two workflows are named {definition.name!r}: {_shown(other.function)} and "
                f"{_shown(definition.function)}. Rename one of them: @workflow(name=...)."
            )
    if not found:
        raise ConfigurationError(
            "`workflows` must have at least one workflow, got none; pass functions decorated with @workflow."
        )
    return found


def _shown(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"
