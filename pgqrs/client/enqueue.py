"""How workflows are handed to workers: the options of a submission, and the `Submitter` that has them."""

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
from pgqrs.clock import parse_seconds
from pgqrs.codecs.base import stored_name
from pgqrs.codecs.records import as_text, check_codec
from pgqrs.engine.scope import calling_body, is_within
from pgqrs.errors import ConfigurationError, KeyConflictError, WorkflowInProgressError, WorkflowLockedError
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.records import KeyOwner, Submission
from pgqrs.storage.store import Store
from pgqrs.types import DEFAULT_QUEUE, WorkflowRecord, WorkflowStatus
from pgqrs.validation import check_name
from pgqrs.workflow.arguments import are_same_inputs, check_arguments, decode_input, encode_input
from pgqrs.workflow.context import ContextHost, PyWorkflow
from pgqrs.workflow.definition import Definition, definition_of

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

BATCH_SIZE = 5000
"""How many workflows `Submitter.enqueue_many` writes in one statement."""

BATCH_BYTES = 4 * 1024 * 1024
"""How many characters of input, after which a statement of `Submitter.enqueue_many` takes no further workflow."""

RUN_GRACE = 60.0
"""How long, in seconds, workers leave a workflow alone that `Submitter.run` has created and is about to start."""

_PRIORITIES = range(-(2**63), 2**63)


JOINED = 1.0
"""Seconds for which `Submitter.run` waits for a workflow that runs elsewhere, before it tries to run it again."""

OnConflict: TypeAlias = Literal["raise", "warn", "ignore"]
"""The answer to a submission whose key belongs to a workflow with other arguments."""

_logger = logging.getLogger("pgqrs")


class EnqueueOptions(NamedTuple):
    """How a workflow is submitted; times are in seconds. See `Admin.options`."""

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
    """Enqueues and runs workflows with the options that `Admin.options` was given."""

    __slots__ = ("_host", "_options")

    def __init__(self, host: SubmitterHost, options: EnqueueOptions) -> None:
        self._host = host
        self._options = options

    def __repr__(self) -> str:
        return f"<Submitter {self._options}>"

    async def enqueue(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Enqueue a workflow with these arguments for a worker; see `Admin.enqueue`."""
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
        """Enqueue a workflow for each tuple of arguments; see `Admin.enqueue_many`."""
        if self._options.key is not None:
            raise ConfigurationError(
                "a key is of one workflow: give enqueue_many a function that makes one of each tuple of arguments."
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
            await asyncio.sleep(0)  # a turn for the others: encoding takes a while
        return handles

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create the workflow with these arguments, unless its key is there, run it here, and return its result.

        A workflow of this key that is there is run with the arguments that it was created with; one that has
        succeeded returns its output, and does not run. Where another task or process runs it, this waits for its
        result, and raises its recorded error, as a handle does; if that process dies, this runs it. Raises
        `WorkflowInProgressError` within that workflow itself, `KeyConflictError`, and as `Admin.run` does. A
        `delay` has no meaning here and raises `ConfigurationError`.
        """
        if self._options.delay is not None:
            raise ConfigurationError("a workflow that is run at once has no delay: enqueue it.")
        if self._options.session is not None:
            raise ConfigurationError("a workflow that is run at once is no part of a transaction: enqueue it.")
        submission = self._submission(definition_of(workflow), args, kwargs, self._options.key)
        # Workers leave it alone for a while, and take it over if this process dies before it starts it.
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
        """Run a workflow here with the arguments that it was created with."""
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
        """Raise `KeyConflictError`, or warn, where a key belongs to a workflow with other arguments."""
        codec = self._host.codec
        if self._options.on_conflict == "ignore" or taken.codec != stored_name(codec):
            return
        if are_same_inputs(codec, definition, submission.input, taken.input):
            return
        conflict = KeyConflictError(taken.workflow_id, definition.name, str(submission.key))
        if self._options.on_conflict == "raise":
            raise conflict
        _logger.warning("%s", conflict)

    def _ring(self, here: LoopState, first: int) -> None:
        """Ring the queue's doorbell, for what is written or will be with the session's commit."""
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
            0,  # the store gives it its id
            definition.name,
            text,
            options.queue,
            options.priority,
            options.delay,
            timeout,
            None if key is None else validate_key(key),
        )


def _portions(submissions: Iterable[Submission]) -> Generator[list[Submission]]:
    """Cut what is to be written into what one statement takes, which is made as it is asked for."""
    portion: list[Submission] = []
    size = 0
    for each in submissions:
        portion.append(each)
        size += each.size
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
    """Check what was given to `Admin.options` and return it.

    Raises `InvalidNameError` for a key or a queue that cannot be stored, `ConfigurationError` for a number out of
    range or an unknown `on_conflict`, and `TypeError` for what is none.
    """
    if on_conflict not in get_args(OnConflict):
        raise ConfigurationError(f"on_conflict must be 'raise', 'warn' or 'ignore', and is {on_conflict!r}.")
    check_name("queue", queue)
    return EnqueueOptions(
        key=None if key is None else validate_key(key),
        queue=cast(str, queue),
        priority=_checked_priority(priority),
        delay=validate_seconds("delay", delay) or None,
        timeout=validate_seconds("timeout", timeout, positive=True),
        session=session,
        on_conflict=on_conflict,
    )


def _runs_elsewhere(here: LoopState, record: WorkflowRecord) -> bool:
    """Tell whether another task of this process carries a workflow out, in this event loop or another."""
    run = here.store.runs.get(record.id)
    if record.id in here.running or (run is not None and run.is_carried_out):
        return True
    in_process = record.status == WorkflowStatus.RUNNING and record.executor_id == here.store.executor_id
    return in_process and run is None


def warn_in_body(name: str) -> None:
    """Warn of a workflow that another one's body submits without a key: each replay does so again."""
    body = calling_body()
    if body is not None:
        body.steps.warn_of_submission(name)


def validate_key(key: object) -> str:
    """Return the key of a workflow, if it can be one; raises `InvalidNameError`."""
    check_name("key", key)
    return cast(str, key)


def validate_seconds(what: str, given: object, *, positive: bool = False) -> float | None:
    """Return a time in seconds that was given as a number or a `timedelta`; None stays None.

    Raises `ConfigurationError` for a time that cannot be, and `TypeError` for what is none.
    """
    if given is None:
        return None
    seconds = parse_seconds(what, given)
    if seconds < 0 or (positive and not seconds):
        raise ConfigurationError(f"a {what} is {'more than' if positive else 'at least'} 0, not {given} s.")
    return seconds


def _checked_priority(priority: object) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"a priority is an int, not {type(priority).__name__}.")
    if priority not in _PRIORITIES:
        raise ConfigurationError(f"a priority is a bigint, which {priority} is not.")
    return priority


def _check_is_tuple(given: object) -> None:
    if not isinstance(given, tuple):
        raise TypeError(f"enqueue_many takes tuples of arguments, not {type(given).__name__}: write `(value,)`.")
