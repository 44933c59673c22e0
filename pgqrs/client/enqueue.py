"""The options of a submission, and the `Submitter` that enqueues or runs workflows with these options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import (
    Any,
    Concatenate,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    cast,
    get_args,
)

from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.loop_state import LoopState, LoopStates
from pgqrs.client.misuse import warn_in_body
from pgqrs.client.queues.settings import check_has_partition_key
from pgqrs.client.scheduling.declaration import (
    WITHIN,
    Declaration,
    Target,
    delay_until,
    policy,
    put_schedule,
    timetable,
)
from pgqrs.client.scheduling.handle import ScheduleHandle
from pgqrs.client.uniqueness.options import UniqueOptions, check_use, unique_options
from pgqrs.client.uniqueness.submission import submit_unique
from pgqrs.client.updates import WithStart, ask_workflow
from pgqrs.codecs.base import stored_name
from pgqrs.codecs.records import StoredWorkflow, check_codec
from pgqrs.engine.scope import is_within
from pgqrs.errors import ConfigurationError, KeyConflictError, WorkflowInProgressError, WorkflowLockedError
from pgqrs.schedules import Rule
from pgqrs.storage.access.operations import MessageFor
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.records import KeyOwner, WorkflowIdentity
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.uniqueness.records import UniqueSubmission
from pgqrs.storage.writes.attributes import GivenAttributes, given_attributes
from pgqrs.storage.writes.creation import (
    AnySubmission,
    Submission,
    SubmissionUntilEnd,
    in_partition,
    with_trace,
)
from pgqrs.storage.writes.messages import OVER, SentMessage
from pgqrs.types import DEFAULT_QUEUE, CatchUp, Overlap, Taken, UniqueUntil, Until, WorkflowStatus
from pgqrs.validation import (
    check_aware,
    check_name,
    check_until,
    validate_key,
    validate_partition_key,
    validate_priority,
    validate_seconds,
    validate_unique,
)
from pgqrs.workflow.arguments import are_same_inputs, check_arguments, check_is_tuple, decode_input, encode_input
from pgqrs.workflow.batching.plan import refuse_by_hand
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import Definition, definition_of
from pgqrs.workflow.messaging.messages import Topic, as_topic, emitted, message
from pgqrs.workflow.messaging.updates import Askable

A = TypeVar("A")
P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Written = TypeVar("Written", bound=AnySubmission | UniqueSubmission)

BATCH_SIZE = 5000
"""Maximum workflows that `Submitter.enqueue_many` writes in one statement."""

BATCH_BYTES = 4 * 1024 * 1024
"""Characters of encoded input after which a statement of `Submitter.enqueue_many` takes no further workflow."""

RUN_GRACE = 60.0
"""Seconds for which workers do not claim a workflow that `Submitter.run` has created and is about to start."""

JOINED = 1.0
"""Seconds for which `Submitter.run` waits for another task's run before it tries to run the workflow itself."""

OnConflict: TypeAlias = Literal["raise", "warn", "ignore"]
"""The reaction to a submission whose key belongs to a workflow with other arguments."""
_logger = logging.getLogger("pgqrs.client")


class EnqueueOptions(NamedTuple):
    """The checked options of a submission; times are in seconds. See `Admin.options`."""

    key: str | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    delay: float | None = None
    timeout: float | None = None
    session: SessionOrConnection | None = None
    on_conflict: OnConflict = "raise"
    until: Until | UniqueUntil | None = None
    at: datetime | None = None
    partition_key: str | None = None
    unique: UniqueOptions = UniqueOptions()
    attributes: GivenAttributes | None = None


class Submitter:
    """An object that enqueues and runs workflows with fixed options; `Admin.options` creates it."""

    __slots__ = ("_loops", "_options")

    def __init__(self, loops: LoopStates, options: EnqueueOptions) -> None:
        self._loops = loops
        self._options = options

    def __repr__(self) -> str:
        return f"<Submitter {self._options}>"

    async def enqueue(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Create a workflow with these arguments and these options for a worker to run.

        Without a `session` the workflow is committed when this method returns. If the key belongs to an existing
        workflow, this method creates none. If a workflow holds the unique value, `taken` decides.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            A handle on the new workflow, or on the existing workflow with the key or the unique value.

        Raises:
            ConfigurationError: The options do not fit together: they are about a key or a unique value that is
                missing, or set two times.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            KeyConflictError: The key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            UniqueTakenError: Another workflow holds the unique value, and `taken` is ``"raise"``, or the holder is
                to take the new arguments and has started.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        definition = definition_of(workflow)
        warn_in_body("enqueue", definition.name, key=self._options.key)
        options, delay = self._options, await self._delay()
        submission = self._submission(definition, args, kwargs, options.key, delay, unique=options.unique.value)
        (identity,) = await self._submit(await self._loops.loop_state(), definition, [submission])
        return self._handle(definition, identity)

    async def enqueue_many(
        self,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        inputs: Iterable[tuple[*Ts]],
        *,
        key: Callable[[*Ts], str] | None = None,
        unique: Callable[[*Ts], str] | None = None,
    ) -> list[WorkflowHandle[R]]:
        """Enqueue one workflow with these options for each tuple of positional arguments.

        One statement writes up to 5,000 workflows, and ends after 4 Mi characters of encoded input. If a statement
        fails, the workflows of the earlier statements stay enqueued, unless they belong to a caller's session.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each workflow, one tuple for each.
            key: A function that returns the key of a workflow from its arguments. By default the workflows have no
                key.
            unique: A function that returns the unique value of a workflow from its arguments; none by default. Of
                the tuples with one value one is submitted, and all get its handle: the first tuple, or the last
                one where a newer submission replaces or cancels an older one.

        Returns:
            The handles, in the order of `inputs`.

        Raises:
            ConfigurationError: The options of this submitter contain a key or a unique value, which have one
                workflow only; or the options do not fit together.
            TypeError: `workflow` is not decorated with `@workflow`, an item of `inputs` is not a tuple, or the
                function does not accept its arguments.
            SerializationError: The codec cannot encode the arguments.
            InvalidNameError: A key or a unique value cannot be stored.
            KeyConflictError: A key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            UniqueTakenError: As for `enqueue`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        if self._options.key is not None:
            raise ConfigurationError(
                "a key identifies one workflow: pass `enqueue_many` a `key` function that returns the key of each "
                "tuple of arguments."
            )
        if self._options.unique.value is not None:
            raise ConfigurationError(
                "a unique value has one workflow: pass `enqueue_many` a `unique` function that returns the value "
                "of each tuple of arguments."
            )
        definition = definition_of(workflow)
        delay = await self._delay()

        def submission(given: tuple[*Ts]) -> AnySubmission | UniqueSubmission:
            check_is_tuple(given)
            own_key = None if key is None else key(*given)
            warn_in_body("enqueue_many", definition.name, key=own_key)
            value = None if unique is None else unique(*given)
            return self._submission(definition, given, {}, own_key, delay, unique=value)

        state = await self._loops.loop_state()
        handles: list[WorkflowHandle[R]] = []
        for portion in _portions(map(submission, inputs)):
            identities = await self._submit(state, definition, portion)
            handles += [self._handle(definition, each) for each in identities]
            await asyncio.sleep(0)  # encoding takes a while: let other tasks of the event loop run
        return handles

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create a workflow with these arguments, run it in this task, and return its result.

        If the key belongs to an existing workflow, this method runs that workflow with its recorded arguments. An
        existing workflow that has succeeded does not run: this method returns its recorded output. If another task
        or process runs the workflow, this method waits for the result, as a handle does, and runs the workflow
        itself if that process dies. With ``until="end"`` a workflow that has ended meanwhile does not run again.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The return value of the function, in its recorded form.

        Raises:
            ConfigurationError: The options contain a `delay`, an `at`, a `session` or a unique value; or `until`
                is ``"end"``, and there is no key.
            TypeError: `workflow` is not decorated with `@workflow`, runs in batches, or does not accept the
                arguments.
            SerializationError: The codec cannot encode the arguments or the return value.
            KeyConflictError: The key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            WorkflowInProgressError: The caller is a step or the function of this workflow itself.
            CodecMismatchError: The existing workflow is written with another codec.
            WorkflowCancelledError: The workflow was cancelled.
            WorkflowTimeoutError: The workflow passed its deadline.
            WorkflowFencedError: Another run of the workflow fenced this run.
            StepFailedError: Another task's run of the workflow ended with an error. The raised error is also an
                instance of the original class.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
            Exception: Any exception that the function raises.
        """
        if self._options.delay is not None or self._options.at is not None:
            raise ConfigurationError(
                "`run` starts a workflow at once and accepts no delay: use `enqueue` instead."
            )
        if self._options.session is not None:
            raise ConfigurationError(
                "`run` starts a workflow at once, outside the caller's transaction: use `enqueue` instead."
            )
        self._refuse_unique("run")
        definition = definition_of(workflow)
        refuse_by_hand(definition, "run")
        warn_in_body("run", definition.name, key=self._options.key)
        # The delay keeps workers from claiming the workflow before this process starts it. If this process dies
        # before the start, a worker claims the workflow after the delay.
        submission = self._plain_submission(definition, args, kwargs, self._options.key, RUN_GRACE)
        state = await self._loops.loop_state()
        (identity,) = await self._submit(state, definition, [submission])
        run = state.store.runs.get(identity.workflow_id)
        if run is not None and is_within(run):
            raise WorkflowInProgressError(identity.workflow_id)
        return await self._run_or_join(state, workflow, identity)

    async def find(
        self, workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[R]], *, key: str
    ) -> WorkflowHandle[R]:
        """Return a handle on the workflow that has a key, as `Admin.find` does.

        With a `session` the workflow is searched in the caller's transaction. The other options do not count.

        Args:
            workflow: A function decorated with `@workflow`.
            key: The key.

        Returns:
            The handle.

        Raises:
            WorkflowNotFoundError: No workflow of this name has the key; the error has `name` and `key`.
            TypeError: `workflow` is not decorated with `@workflow`, or the key is not a string.
            InvalidNameError: The key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        definition = definition_of(workflow)
        operations = await (await self._loops.store()).operations_for(self._options.session)
        return self._handle(definition, await operations.find(definition.name, validate_key(key)))

    async def send(self, workflow_id: int, topic: Topic[T] | str, value: T, *, key: str | None = None) -> None:
        """Send a message to a workflow, as `WorkflowHandle.send` does.

        With a `session` the message is sent when the caller commits, and is gone when the caller rolls back. A
        workflow that ends in between does not receive it.

        Args:
            workflow_id: The id of the workflow.
            topic: The topic, or its name for values of any type.
            value: The value of the message, which the codec of the topic must be able to encode.
            key: An idempotency key of the message; see `WorkflowHandle.send`.

        Raises:
            WorkflowNotFoundError: No workflow has this id.
            WorkflowFinishedError: The workflow has ended; `status` names the end.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic or the key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        warn_in_body("send", as_topic(topic).name, key=key)
        sent = message(self._loops.codec, workflow_id, topic, value, key=key)
        await self._loops.send(sent, self._options.session)

    async def update(
        self,
        workflow_id: int,
        update: Askable[Q, A],
        value: Q,
        *,
        timeout: float | timedelta | None = None,
        key: str | None = None,
    ) -> A:
        """Send a request to a workflow, and return the reply; see `WorkflowHandle.update`.

        Args:
            workflow_id: The id of the workflow.
            update: The update.
            value: The value of the request, which the codec of the update must be able to encode.
            timeout: Seconds, or a `timedelta`, that bound the wait for the reply; None, the default, for no limit.
            key: An idempotency key of the request; see `WorkflowHandle.update`.

        Returns:
            The value of the reply.

        Raises:
            ConfigurationError: The options contain a `session`: a reply cannot come before the caller commits.
            UpdateRefusedError: The workflow has refused the request.
            UpdateTimeoutError: The timeout passed. The request stays there.
            WorkflowFinishedError: The workflow has ended, and has not answered the request.
            WorkflowNotFoundError: No workflow has this id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`, or cannot decode the reply.
            InvalidNameError: The key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        self._refuse_session("update")
        to = WorkflowIdentity(workflow_id, None)
        return await ask_workflow(self._loops, to, update, value, timeout=timeout, key=key)

    def with_start(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WithStart:
        """Return an object whose `update` starts a workflow, unless it is there, and sends a request to it.

        The key of the options identifies the workflow:
        ``await admin.options(key="order 17").with_start(fulfil, order).update(APPROVE, value, key="click 9")``.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The object, with the method `update`.

        Raises:
            ConfigurationError: The options contain no key, or a `session` or a unique value.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
        """
        self._refuse_session("with_start")
        self._refuse_unique("with_start")
        if self._options.key is None:
            raise ConfigurationError(
                "`with_start` needs the key of the workflow, or a repeated call would start a second one: pass "
                "`admin.options(key=...)`."
            )
        definition = definition_of(workflow)
        refuse_by_hand(definition, "with_start")
        submission = self._plain_submission(definition, args, kwargs, self._options.key, self._options.delay)
        return WithStart(self._loops, partial(self._start_and_send, definition, submission))

    async def emit(self, name: str, value: Any = None) -> bool:
        """Emit an event of the schema, for which `PyWorkflow.wait_event` waits; the first value stays for ever.

        Workflows that wait later find the event, too. With a `session` it is emitted when the caller commits.

        Args:
            name: The name of the event.
            value: The value, which the codec must be able to encode; None by default.

        Returns:
            True if the event has this value now; False if it was emitted before with another value.

        Raises:
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._loops.emit(emitted(self._loops.codec, name, value), self._options.session)

    async def schedule(
        self,
        name: str,
        rule: Rule,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        *args: *Ts,
        overlap: Overlap = "skip",
        catchup: CatchUp = "last",
        within: float | timedelta = WITHIN,
        jitter: float | timedelta = 0.0,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> ScheduleHandle[R]:
        """Make a schedule whose workflows have these options, as `Admin.schedule` does.

        The options are `queue`, `partition_key`, `priority`, `timeout` and `session`. With a `session` the
        schedule exists, or has changed, when the caller commits.

        Args:
            name: The name of the schedule.
            rule: The times: a `Cron` or an `Every`.
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            overlap: The effect of a time while a workflow of the schedule lives; see `Admin.schedule`.
            catchup: The times that are caught up after an outage; see `Admin.schedule`.
            within: Seconds, or a `timedelta`: the age at which a missed time is dropped; a day by default.
            jitter: Seconds, or a `timedelta`: the maximum delay of a start; 0 by default.
            start: The first time that counts, an aware datetime; any time by default.
            end: The time from which on no time counts, an aware datetime; none by default.

        Returns:
            The handle of the schedule.

        Raises:
            ConfigurationError: An option is unknown or out of range, a datetime is naive, or the options contain a
                key, a unique value, a delay, `at` or attributes.
            InvalidNameError: The name cannot be stored.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        own = self._options
        times = (own.key, own.delay, own.at, own.until if own.until != "purge" else None)
        if times != (None,) * len(times) or own.unique != UniqueOptions():
            raise ConfigurationError(
                "a schedule gives its workflows their keys and times: pass no `key`, `unique`, `delay`, `at` or "
                "`until`."
            )
        if own.attributes is not None:
            raise ConfigurationError(
                "a schedule gives its workflows no attributes: call `ctx.set_attributes` in the workflow."
            )
        definition, table = definition_of(workflow), timetable(rule, start, end)
        options = policy(overlap=overlap, catchup=catchup, within=within, jitter=jitter)
        target = Target(definition, args, own.queue, own.priority, own.timeout, own.partition_key)
        await put_schedule(self._loops, Declaration(name, target, table, options), own.session)
        return ScheduleHandle(self._loops, name, definition.returns)

    async def _delay(self) -> float | None:
        """Return the delay of a submission that is written now."""
        own = self._options
        return own.delay if own.at is None else await delay_until(self._loops, own.at, own.session)

    async def _run_or_join(
        self, state: LoopState, workflow: Callable[..., Awaitable[R]], identity: WorkflowIdentity
    ) -> R:
        """Run a workflow in this task, or wait for its result while another task runs it."""
        workflow_id, token = identity
        handle: WorkflowHandle[R] = self._handle(definition_of(workflow), identity)
        while True:
            stored = await state.store.reader.workflow(workflow_id, token)
            if stored.status in OVER and self._options.until == "end":
                return await handle.joined()  # it has released the key, which another workflow may have by now
            if not _runs_elsewhere(state, stored):
                state.running.add(workflow_id)
                try:
                    return await self._run_here(workflow, stored, token)
                except WorkflowLockedError as locked:
                    if locked.workflow_id != workflow_id:
                        raise
                finally:
                    state.running.discard(workflow_id)
            bound = asyncio.timeout(JOINED)
            try:
                async with bound:
                    return await handle.joined()
            except TimeoutError:
                if not bound.expired():
                    raise

    def _refuse_session(self, method: str) -> None:
        if self._options.session is not None:
            raise ConfigurationError(
                f"`{method}` waits for a reply, which cannot come before you commit: send a message in the "
                f"session, or call `{method}` without a session."
            )

    def _refuse_unique(self, method: str) -> None:
        if self._options.unique != UniqueOptions():
            raise ConfigurationError(
                f"`{method}` accepts no unique value, whose holder may have other arguments: use `enqueue`."
            )

    async def _start_and_send(
        self, definition: Definition, submission: AnySubmission, message_for: MessageFor
    ) -> SentMessage:
        """Write a submission, unless there is a workflow with its key, and a message to the workflow."""
        state = await self._loops.loop_state()
        compare, queue = partial(self._compare, definition), self._options.queue
        submission = submission._replace(delay=await self._delay())
        with state.submitting(definition.name, queue) as trace:
            submission = submission if trace is None else with_trace(submission, trace)
            sent = await state.store.operations.submit_and_send(submission, compare, message_for)
        state.enqueued(definition.name, queue, {submission.token} & {sent.token})
        if submission.delay is None:
            self._notify(state, sent.workflow_id)
        state.store.arrivals.sent()
        return sent

    async def _run_here(
        self, workflow: Callable[..., Awaitable[R]], stored: StoredWorkflow, token: int | None
    ) -> R:
        """Run a workflow in this task with its recorded arguments."""
        codec = self._loops.codec
        check_codec(codec, stored.id, stored.codec)
        given, by_name = decode_input(codec, definition_of(workflow), stored.input)
        timeout, planned = self._options.timeout, stored.scheduled_for
        context = PyWorkflow(self._loops, stored.id, stored.name, token, timeout=timeout, scheduled_for=planned)
        return await workflow(context, *given, **by_name)

    async def _submit(
        self, state: LoopState, definition: Definition, submissions: Sequence[AnySubmission | UniqueSubmission]
    ) -> list[WorkflowIdentity]:
        """Write submissions of one delay in one transaction, and notify the workers."""
        if state.store.observer is None:
            return await self._write(state, definition, submissions, None)
        with state.submitting(definition.name, self._options.queue, len(submissions)) as trace:
            identities = await self._write(state, definition, submissions, trace)
        new = {each.token for each in identities}.intersection(each.token for each in submissions)
        state.enqueued(definition.name, self._options.queue, new, self._options.session)
        return identities

    async def _write(
        self,
        state: LoopState,
        definition: Definition,
        submissions: Sequence[AnySubmission | UniqueSubmission],
        trace: str | None,
    ) -> list[WorkflowIdentity]:
        operations = await state.store.operations_for(self._options.session)
        compare = partial(self._compare, definition)
        unique = [each for each in submissions if isinstance(each, UniqueSubmission)]
        if unique:
            placed = await submit_unique(operations, unique, self._options.unique.policy, compare, trace)
            identities = [WorkflowIdentity(each.workflow_id, each.token) for each in placed]
            ready = [each.workflow_id for each in placed if each.is_ready]
        else:
            plain = [each for each in submissions if not isinstance(each, UniqueSubmission)]
            traced = plain if trace is None else [with_trace(each, trace) for each in plain]
            identities = await operations.submit(traced, compare)
            ready = [each.workflow_id for each in identities] if submissions[0].delay is None else []
        if ready:
            self._notify(state, min(ready))
        return identities

    def _handle(self, definition: Definition, identity: WorkflowIdentity) -> WorkflowHandle[Any]:
        is_there = self._options.session is None
        return WorkflowHandle(self._loops, identity, is_there=is_there, returns=definition.returns)

    def _compare(
        self, definition: Definition, submission: AnySubmission | UniqueSubmission, taken: KeyOwner
    ) -> None:
        """Raise `KeyConflictError`, or log a warning, if a key belongs to a workflow with other arguments."""
        codec = self._loops.codec
        if self._options.on_conflict == "ignore" or taken.codec != stored_name(codec):
            return
        if are_same_inputs(codec, definition, submission.input, taken.input):
            return
        conflict = KeyConflictError(taken.workflow_id, definition.name, str(submission.key))
        if self._options.on_conflict == "raise":
            raise conflict
        known = {"workflow_id": taken.workflow_id, "workflow_name": definition.name}
        _logger.warning("%s", conflict, extra=known)

    def _notify(self, state: LoopState, first: int) -> None:
        """Notify the workers of the queue, now or after the commit of the caller's session."""
        queue, session = self._options.queue, self._options.session
        if session is None:
            state.notifier.notify(queue, first)
        else:
            act = partial(state.notifier.notify, queue, first)
            state.store.sessions.callers.after_commit(session, queue, act)

    def _submission(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: object,
        delay: float | None,
        *,
        unique: object,
    ) -> AnySubmission | UniqueSubmission:
        """Return the record of a submission; a unique submission if there is a unique value."""
        options = self._options
        check_has_partition_key(options.queue, options.partition_key, self._loops.ordered_queues)
        has_time = options.delay is not None or options.at is not None
        check_use(options.unique, is_unique=unique is not None, has_key=key is not None, has_time=has_time)
        if unique is None:
            return self._plain_submission(definition, args, kwargs, key, delay)
        until_start = options.unique.holds_until_start(options.until)
        encoded = self._encoded(definition, args, kwargs, key, delay)
        return UniqueSubmission(*encoded, options.partition_key, validate_unique(unique), until_start)

    def _plain_submission(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: object,
        delay: float | None,
    ) -> AnySubmission:
        until, key_of_partition = self._options.until, self._options.partition_key
        if until == "start":
            raise ConfigurationError("`until='start'` is the time of a unique value: pass `unique` with it.")
        if key is None and until == "end":
            raise ConfigurationError("`until='end'` is the time of a key: pass a key with it.")
        submission = self._encoded(definition, args, kwargs, key, delay)
        if until == "end":
            submission = SubmissionUntilEnd(*submission)
        return submission if key_of_partition is None else in_partition(submission, key_of_partition)

    def _encoded(
        self,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: object,
        delay: float | None,
    ) -> Submission:
        check_arguments(definition, args, kwargs)
        codec, options = self._loops.codec, self._options
        return Submission(
            0,  # the id is drawn when the submission is written
            definition.name,
            encode_input(codec, definition, args, kwargs).text,
            options.queue,
            options.priority,
            delay,
            definition.timeout if options.timeout is None else options.timeout,
            None if key is None else validate_key(key),
            stored_name(codec),
            new_token(),
            options.attributes,
        )


def _portions(submissions: Iterable[Written]) -> Generator[list[Written]]:
    """Yield the submissions in portions of one statement each, reading the iterable lazily."""
    portion: list[Written] = []
    size = 0
    for each in submissions:
        portion.append(each)
        size += len(each.input)
        if len(portion) >= BATCH_SIZE or size >= BATCH_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def options(
    *,
    key: object = None,
    queue: object = DEFAULT_QUEUE,
    priority: object = 0,
    delay: object = None,
    timeout: object = None,
    session: SessionOrConnection | None = None,
    on_conflict: OnConflict = "raise",
    until: Until | UniqueUntil | None = None,
    at: datetime | None = None,
    partition_key: object = None,
    unique: object = None,
    taken: Taken = "return",
    debounce: object = None,
    debounce_at_most: object = None,
    throttle: object = None,
    attributes: Mapping[str, Any] | None = None,
    tags: str | Collection[str] = (),
) -> EnqueueOptions:
    """Check the arguments of `Admin.options` and return them as options; raises as `Admin.options` does."""
    if on_conflict not in get_args(OnConflict):
        raise ConfigurationError(f"`on_conflict` must be 'raise', 'warn' or 'ignore', got {on_conflict!r}.")
    check_name("queue", queue)
    check_until(until, get_args(Until) if unique is None and key is not None else (*get_args(Until), "start"))
    if at is not None:
        check_aware("at", at)
        if delay is not None:
            raise ConfigurationError("`delay` and `at` both set the start of a workflow: pass one of them.")
    return EnqueueOptions(
        key=None if key is None else validate_key(key),
        queue=cast(str, queue),
        priority=validate_priority(priority),
        delay=validate_seconds("delay", delay) or None,
        timeout=validate_seconds("timeout", timeout, positive=True),
        session=session,
        on_conflict=on_conflict,
        until=until,
        at=at,
        partition_key=None if partition_key is None else validate_partition_key(partition_key),
        unique=unique_options(
            unique=unique,
            taken=taken,
            debounce=debounce,
            debounce_at_most=debounce_at_most,
            throttle=throttle,
        ),
        attributes=given_attributes(attributes, tags),
    )


def _runs_elsewhere(state: LoopState, stored: StoredWorkflow) -> bool:
    """Return whether another task of this process runs a workflow, in this event loop or another."""
    run = state.store.runs.get(stored.id)
    if stored.id in state.running or (run is not None and run.executes_body):
        return True
    in_process = stored.status == WorkflowStatus.RUNNING and stored.executor_id == state.store.executor_id
    return in_process and run is None
