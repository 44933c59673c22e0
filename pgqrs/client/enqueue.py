"""The options of a submission, and the `Submitter` that enqueues or runs workflows with these options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import (
    Any,
    Concatenate,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    cast,
    get_args,
)

from pgqrs.client.handle import HandleHost, WorkflowHandle
from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.base import stored_name
from pgqrs.codecs.records import as_text, check_codec
from pgqrs.engine.scope import calling_body, is_within
from pgqrs.errors import ConfigurationError, KeyConflictError, WorkflowInProgressError, WorkflowLockedError
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.journal.creation import Submission
from pgqrs.storage.records import KeyOwner
from pgqrs.storage.store import Store
from pgqrs.types import DEFAULT_QUEUE, WorkflowRecord, WorkflowStatus
from pgqrs.validation import check_name, validate_key, validate_priority, validate_seconds
from pgqrs.workflow.arguments import are_same_inputs, check_arguments, decode_input, encode_input
from pgqrs.workflow.context import ContextHost, PyWorkflow
from pgqrs.workflow.definition import Definition, definition_of

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

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


class SubmitterHost(HandleHost, ContextHost, Protocol):
    """The part of an `Admin` that its submitters use."""


class Submitter:
    """An object that enqueues and runs workflows with fixed options; `Admin.options` creates it."""

    __slots__ = ("_host", "_options")

    def __init__(self, host: SubmitterHost, options: EnqueueOptions) -> None:
        self._host = host
        self._options = options

    def __repr__(self) -> str:
        return f"<Submitter {self._options}>"

    async def enqueue(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Create a workflow with these arguments and these options for a worker to run.

        Without a `session` the workflow is committed when this method returns. If the key belongs to an existing
        workflow, this method creates none.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            A handle on the new workflow, or on the existing workflow with the key.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            KeyConflictError: The key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        definition = definition_of(workflow)
        submission = self._submission(definition, args, kwargs, self._options.key)
        workflow_id = await self._submit(definition, submission)
        return WorkflowHandle(
            self._host,
            workflow_id,
            is_there=self._options.session is None,
            returns=definition.returns,
        )

    async def enqueue_many(
        self,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        inputs: Iterable[tuple[*Ts]],
        *,
        key: Callable[[*Ts], str] | None = None,
    ) -> list[WorkflowHandle[R]]:
        """Enqueue one workflow with these options for each tuple of positional arguments.

        One statement writes up to 5,000 workflows, and ends after 4 Mi characters of encoded input. If a statement
        fails, the workflows of the earlier statements stay enqueued, unless they belong to a caller's session.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each workflow, one tuple for each.
            key: A function that returns the key of a workflow from its arguments. By default the workflows have no
                key.

        Returns:
            The handles, in the order of `inputs`.

        Raises:
            ConfigurationError: The options of this submitter contain a key, which identifies one workflow only.
            TypeError: `workflow` is not decorated with `@workflow`, an item of `inputs` is not a tuple, or the
                function does not accept its arguments.
            SerializationError: The codec cannot encode the arguments.
            InvalidNameError: A key cannot be stored.
            KeyConflictError: A key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        if self._options.key is not None:
            raise ConfigurationError(
                "a key identifies one workflow: pass `enqueue_many` a `key` function that returns the key of each "
                "tuple of arguments."
            )
        definition = definition_of(workflow)

        def submission(given: tuple[*Ts]) -> Submission:
            _check_is_tuple(given)
            return self._submission(definition, given, {}, None if key is None else key(*given))

        submissions = map(submission, inputs)
        here = await self._host.loop_state()
        handles: list[WorkflowHandle[R]] = []
        for portion in _portions(submissions):
            ids = await self._submit_many(here.store, definition, portion)
            handles += [
                WorkflowHandle(
                    self._host, workflow_id, is_there=self._options.session is None, returns=definition.returns
                )
                for workflow_id in ids
            ]
            if self._options.delay is None:
                self._ring(here, min(ids))
            await asyncio.sleep(0)  # encoding takes a while: let other tasks of the event loop run
        return handles

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create a workflow with these arguments, run it in this task, and return its result.

        If the key belongs to an existing workflow, this method runs that workflow with its recorded arguments. An
        existing workflow that has succeeded does not run: this method returns its recorded output. If another task
        or process runs the workflow, this method waits for the result, as a handle does, and runs the workflow
        itself if that process dies.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The return value of the function, in its recorded form.

        Raises:
            ConfigurationError: The options contain a `delay` or a `session`.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
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
        if self._options.delay is not None:
            raise ConfigurationError(
                "`run` starts a workflow at once and accepts no delay: use `enqueue` instead."
            )
        if self._options.session is not None:
            raise ConfigurationError(
                "`run` starts a workflow at once, outside the caller's transaction: use `enqueue` instead."
            )
        submission = self._submission(definition_of(workflow), args, kwargs, self._options.key)
        # The delay keeps workers from claiming the workflow before this process starts it. If this process dies
        # before the start, a worker claims the workflow after the delay.
        definition = definition_of(workflow)
        workflow_id = await self._submit(definition, submission._replace(delay=RUN_GRACE))
        here = await self._host.loop_state()
        run = here.store.runs.get(workflow_id)
        if run is not None and is_within(run):
            raise WorkflowInProgressError(workflow_id)
        handle = WorkflowHandle[R](self._host, workflow_id, is_there=True, returns=definition.returns)
        while True:
            record = await here.store.workflow(workflow_id, as_text)
            if not _runs_elsewhere(here, record):
                here.running.add(workflow_id)
                try:
                    return await self._run_here(workflow, record)
                except WorkflowLockedError as locked:
                    if locked.workflow_id != workflow_id:
                        raise
                finally:
                    here.running.discard(workflow_id)
            bound = asyncio.timeout(JOINED)
            try:
                async with bound:
                    return await handle.result()
            except TimeoutError:
                if not bound.expired():
                    raise

    async def _run_here(self, workflow: Callable[..., Awaitable[R]], record: WorkflowRecord) -> R:
        """Run a workflow in this task with its recorded arguments."""
        check_codec(self._host.codec, record.id, record.codec)
        given, by_name = decode_input(self._host.codec, definition_of(workflow), record.input)
        return await workflow(PyWorkflow(self._host, record.id, record.name), *given, **by_name)

    async def _submit(self, definition: Definition, submission: Submission) -> int:
        here = await self._host.loop_state()
        workflow_id = await self._write(here.store, definition, submission)
        if submission.delay is None:
            self._ring(here, workflow_id)
        return workflow_id

    async def _write(self, store: Store, definition: Definition, submission: Submission) -> int:
        if self._options.session is not None:
            (workflow_id,) = await self._submit_many(store, definition, [submission])
            return workflow_id
        return await store.submit(
            submission.name,
            submission.input,
            queue=submission.queue,
            priority=submission.priority,
            delay=submission.delay,
            timeout=submission.timeout,
            key=submission.key,
            taken=partial(self._compare, definition),
        )

    async def _submit_many(self, store: Store, definition: Definition, submissions: list[Submission]) -> list[int]:
        compare = partial(self._compare, definition)
        if self._options.session is not None:
            return await (await store.in_transaction(self._options.session)).submit_many(submissions, compare)
        return await store.submit_many(submissions, compare)

    def _compare(self, definition: Definition, submission: Submission, taken: KeyOwner) -> None:
        """Raise `KeyConflictError`, or log a warning, if a key belongs to a workflow with other arguments."""
        codec = self._host.codec
        if self._options.on_conflict == "ignore" or taken.codec != stored_name(codec):
            return
        if are_same_inputs(codec, definition, submission.input, taken.input):
            return
        conflict = KeyConflictError(taken.workflow_id, definition.name, str(submission.key))
        if self._options.on_conflict == "raise":
            raise conflict
        known = {"workflow_id": taken.workflow_id, "workflow_name": definition.name}
        _logger.warning("%s", conflict, extra=known)

    def _ring(self, here: LoopState, first: int) -> None:
        """Notify the workers of the queue, now or after the commit of the caller's session."""
        queue, session = self._options.queue, self._options.session
        if session is None:
            here.notifier.notify(queue, first)
        else:
            here.store.after_commit(session, queue, partial(here.notifier.notify, queue, first))

    def _submission(
        self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any], key: object
    ) -> Submission:
        if key is None:
            warn_in_body(definition.name)
        check_arguments(definition, args, kwargs)
        text = encode_input(self._host.codec, definition, args, kwargs).text
        options = self._options
        timeout = definition.timeout if options.timeout is None else options.timeout
        return Submission(
            0,  # the store assigns the id
            definition.name,
            text,
            options.queue,
            options.priority,
            options.delay,
            timeout,
            None if key is None else validate_key(key),
        )


def _portions(submissions: Iterable[Submission]) -> Generator[list[Submission]]:
    """Yield the submissions in portions of one statement each, reading the iterable lazily."""
    portion: list[Submission] = []
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
) -> EnqueueOptions:
    """Check the arguments of `Admin.options` and return them as options; raises as `Admin.options` does."""
    if on_conflict not in get_args(OnConflict):
        raise ConfigurationError(f"`on_conflict` must be 'raise', 'warn' or 'ignore', got {on_conflict!r}.")
    check_name("queue", queue)
    return EnqueueOptions(
        key=None if key is None else validate_key(key),
        queue=cast(str, queue),
        priority=validate_priority(priority),
        delay=validate_seconds("delay", delay) or None,
        timeout=validate_seconds("timeout", timeout, positive=True),
        session=session,
        on_conflict=on_conflict,
    )


def _runs_elsewhere(here: LoopState, record: WorkflowRecord) -> bool:
    """Return whether another task of this process runs a workflow, in this event loop or another."""
    run = here.store.runs.get(record.id)
    if record.id in here.running or (run is not None and run.is_carried_out):
        return True
    in_process = record.status == WorkflowStatus.RUNNING and record.executor_id == here.store.executor_id
    return in_process and run is None


def warn_in_body(name: str) -> None:
    """Log a warning if the body of another workflow submits this workflow without a key.

    Each replay of that body submits one more workflow.
    """
    body = calling_body()
    if body is not None:
        body.steps.warn_of_submission(name)


def _check_is_tuple(given: object) -> None:
    if not isinstance(given, tuple):
        raise TypeError(
            f"each item of `inputs` must be a tuple of arguments, got {type(given).__name__}: write `(value,)` "
            "for one argument."
        )
