"""Children: workflows that a workflow starts and awaits, and that are cancelled when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    NamedTuple,
    ParamSpec,
    Self,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    cast,
)

from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, codec_at, open_error, stored_name
from pgqrs.codecs.failures import load_error
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.lifecycle import Parked
from pgqrs.engine.message_waits import MessageWait, wait_for_message
from pgqrs.engine.parking import RunWorker
from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import (
    ConfigurationError,
    KeyTakenError,
    PgqrsError,
    RowRefusedError,
    StepFailedError,
    StepMismatchError,
    WorkflowCancelledError,
)
from pgqrs.storage.records import ChildResult, StoredOutcome
from pgqrs.storage.sql.addresses import children_address, in_generation
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.attributes import GivenAttributes
from pgqrs.storage.writes.children import NewChild, StartedChildren
from pgqrs.storage.writes.outbox import SendingStep
from pgqrs.types import Until, WorkflowStatus
from pgqrs.validation import (
    check_name,
    check_until,
    escaped,
    validate_key,
    validate_partition_key,
    validate_priority,
    validate_seconds,
)
from pgqrs.workflow.arguments import check_arguments, check_is_tuple, encode_input
from pgqrs.workflow.definition import Definition, definition_of
from pgqrs.workflow.keyed_children import start_with_key
from pgqrs.workflow.messaging.messages import Current

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

OnEnd: TypeAlias = Literal["cancel", "abandon"]
"""What becomes of a child that lives when its parent ends."""

MAX_STARTED = 1000
"""Maximum children that one statement inserts."""

_FIRST_STARTED = 100
"""Maximum children that the first statement inserts, so that workers begin while the others are started."""

MAX_READ = 1000
"""Maximum results of children that one statement reads."""

CALL_GRACE = 10.0
"""Seconds for which workers leave a called child to the process of its parent."""

CHILD_ERRORS = (StepFailedError, WorkflowCancelledError)
"""The errors in which a child has ended; any other one is of the parent's run, as a lost connection."""


class ChildOptions(NamedTuple):
    """The checked options of children; times are in seconds. See `PyWorkflow.options`."""

    queue: str | None = None
    priority: int = 0
    delay: float | None = None
    timeout: float | None = None
    on_end: OnEnd = "cancel"
    id: str | None = None
    key: str | None = None
    until: Until = "purge"
    partition_key: str | None = None
    attributes: GivenAttributes | None = None


def child_options(
    *,
    queue: str | None,
    priority: int,
    delay: float | None,
    timeout: float | None,
    on_end: OnEnd,
    step_id: str | None,
    key: str | None,
    until: Until,
    partition_key: str | None,
    attributes: GivenAttributes | None,
) -> ChildOptions:
    """Check the options of children and return them; raises as `PyWorkflow.options` does."""
    if on_end not in {"cancel", "abandon"}:
        raise ConfigurationError(f"`on_end` must be 'cancel' or 'abandon', got {on_end!r}.")
    if queue is not None:
        check_name("queue", queue)
    check_until(until)
    if key is None and until == "end":
        raise ConfigurationError("`until='end'` is the time of a key: pass a key with it.")
    return ChildOptions(
        queue,
        validate_priority(priority),
        validate_seconds("delay", delay) or None,
        validate_seconds("timeout", timeout, positive=True),
        on_end,
        step_id,
        None if key is None else validate_key(key),
        until,
        None if partition_key is None else validate_partition_key(partition_key),
        attributes,
    )


class Child(Generic[R]):
    """A child that a workflow has started: ``await child`` waits for its end and returns its output.

    A child is found by the step that has started it, so a replay awaits the same child.

    Attributes:
        id: The id of the child.
    """

    __slots__ = ("_current", "_returns", "_token", "id", "step_id")

    def __init__(self, current: Current, step_id: str, child_id: int, token: int, returns: ReturnType) -> None:
        self._current = current
        self._token = token
        self._returns = returns
        self.step_id = step_id
        self.id = child_id

    def __repr__(self) -> str:
        return f"<Child {self.id} of step {self.step_id!r}>"

    def __await__(self) -> Generator[Any, None, R]:
        return self._result().__await__()

    async def _result(self) -> R:
        run = await self._current()
        outcome = await wait_for_children(run, (self.step_id,), f"result/{self.step_id}")
        return self.value(run, outcome)

    def value(self, run: Run, outcome: StoredOutcome) -> R:
        """Return the output in the recorded end of the child, or raise its error."""
        ended, value = _ended_in(outcome)
        result = ChildResult(0, ended["id"], WorkflowStatus(ended["status"]), value, value)
        return cast("R", _value(run.codec, self._returns.codec(run.codec), result))

    async def status(self) -> WorkflowStatus:
        """Return the current status of the child.

        Returns:
            The status as recorded in the database; it is not recorded as a step.

        Raises:
            WorkflowNotFoundError: The child was deleted.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await (await self._current()).reader.status(self.id, self._token)

    async def cancel(self, *, interrupt: bool = False) -> None:
        """Request the cancellation of the child; see `Admin.cancel_workflow` for its course.

        Args:
            interrupt: Whether to interrupt the executing steps of the child. False by default.

        Raises:
            WorkflowFinishedError: The child has succeeded or failed; `status` names the end.
            WorkflowNotFoundError: The child was deleted.
            DatabaseUnavailableError: The database is unavailable.
        """
        operations = (await self._current()).operations
        await operations.cancel(self.id, interrupt=interrupt, token=self._token)


class Many(Generic[R]):
    """The children that one step has started; `PyWorkflow.gather` waits for them and returns their results.

    ``len`` returns their number. The object holds no list of them, so their number costs no memory.
    """

    __slots__ = ("_count", "_current", "_has_ended", "_returns", "step_id")

    def __init__(self, current: Current, step_id: str, count: int, returns: ReturnType) -> None:
        self._current = current
        self._count = count
        self._has_ended = False
        self._returns = returns
        self.step_id = step_id

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} children of step {self.step_id!r}>"

    async def results(self) -> AsyncGenerator[R | BaseException]:
        """Wait until all children have ended, and yield their outputs, or the errors of those that have failed.

        The results come in the order of the inputs, in pages, so they need not be in memory at once.

        Yields:
            The output of each child; an exception for a child that has failed or was cancelled.
        """
        if not self._count:
            return
        run = await self._current()
        if not self._has_ended:
            await self._ended(run)
        codec, of_output = run.codec, self._returns.codec(run.codec)
        async with aclosing(self._pages(run)) as pages:
            async for page in pages:
                for each in page:
                    try:
                        yield _value(codec, of_output, each)
                    except CHILD_ERRORS as error:
                        yield error

    async def have_succeeded(self) -> bool:
        """Wait until all children have ended, and return whether all had succeeded then; it reads no results."""
        ended, _ = _ended_in(await self._ended(await self._current()))
        self._has_ended = True
        return not ended.get("failed") and ended.get("status", WorkflowStatus.SUCCESS) == WorkflowStatus.SUCCESS

    async def _ended(self, run: Run) -> StoredOutcome:
        return await wait_for_children(run, (self.step_id,), f"result/{self.step_id}")

    async def _pages(self, run: Run) -> AsyncGenerator[list[ChildResult]]:
        """Yield the ends of the children; the next page is read while the caller uses a page."""
        name = in_generation(run.steps.history.generation, self.step_id)
        read = partial(run.reader.child_results, run.workflow_id, name, count=MAX_READ)
        following = asyncio.create_task(read(first=0))
        try:
            while page := await run.reading(following):
                first = page[-1].place + 1
                if first < self._count:
                    following = asyncio.create_task(read(first=first))
                yield page
                if first >= self._count:
                    return
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


class Children:
    """Starts children with fixed options; `PyWorkflow.options` creates it."""

    __slots__ = ("_context", "_current", "given")

    def __init__(
        self, context: Callable[[int, str, RunWorker | None], Any], current: Current, options: ChildOptions
    ) -> None:
        self._context = context
        self._current = current
        self.given = options

    async def start(
        self, workflow: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Child[R]:
        """Start a child for a worker to run; see `PyWorkflow.start`.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The child, which can be awaited.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            KeyTakenError: Another workflow has the key of the child. The error is recorded.
            RunStopped: The run has stopped; raised within the workflow's function and its steps.
        """
        return await start(self._current, self.given, definition_of(workflow), args, kwargs)

    async def start_many(
        self, workflow: Callable[[Any, *Ts], Awaitable[R]], inputs: Iterable[tuple[*Ts]]
    ) -> Many[R]:
        """Start one child for each tuple of positional arguments; see `PyWorkflow.start_many`.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each child, one tuple for each.

        Returns:
            The children, for `PyWorkflow.gather`.

        Raises:
            ConfigurationError: The options contain a key, which identifies one child only.
            TypeError: `workflow` is not decorated with `@workflow`, an item of `inputs` is not a tuple, or the
                function does not accept its arguments.
            SerializationError: The codec cannot encode the arguments.
            RunStopped: The run has stopped; raised within the workflow's function and its steps.
        """
        return await start_many(self._current, self.given, definition_of(workflow), inputs)

    async def call(
        self, workflow: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Start a child, run it in this task, and return its output; see `PyWorkflow.call`.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The output of the child.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            KeyTakenError: Another workflow has the key of the child. The error is recorded.
            StepFailedError: The child has failed. The raised error is also an instance of the original class.
            WorkflowCancelledError: The child was cancelled.
            RunStopped: The run has stopped; raised within the workflow's function and its steps.
        """
        definition = definition_of(workflow)
        if definition.batch is not None:  # a worker runs it
            return await (await self.start(workflow, *args, **kwargs))
        options = self.given._replace(delay=self.given.delay or CALL_GRACE)
        child: Child[R] = await start(self._current, options, definition, args, kwargs)
        run = await self._current()
        if f"result/{child.step_id}" not in run.steps.history.outcomes and not await _has_failed(run, child):
            run.lifecycle.check_may_begin()
            context = self._context(child.id, definition.name, self._worker_of(run, definition))
            # Its error is recorded, it waits for a worker, or another process runs it: awaiting it tells.
            with suppress(Exception, Parked):
                await definition.function(context, *args, **kwargs)
        return await child

    def _worker_of(self, run: Run, definition: Definition) -> RunWorker | None:
        """Return the worker of a parent's run if it claims the child, too, so that the child may park."""
        worker = run.parking.worker
        is_served = worker is not None and definition.name in worker.served
        return worker if is_served and self.given.queue in {None, run.announcements.queue} else None


async def _has_failed(run: Run, child: Child[Any]) -> bool:
    """Return whether a child that an earlier run has started has failed: calling it would retry it."""
    return run.steps.history.is_of_earlier_run(child.step_id) and await child.status() == WorkflowStatus.ERROR


class ChildGroup:
    """Starts children that end together: ``async with ctx.children() as group: await group.start(...)``.

    The block ends when all children have ended. If one fails, or the block raises an error, the others are
    cancelled and awaited, and the errors are raised as an `ExceptionGroup`.
    """

    __slots__ = ("_children", "_current", "_options", "results")

    def __init__(self, current: Current, options: ChildOptions) -> None:
        self._current = current
        self._options = options
        self._children: list[Child[Any]] = []
        self.results: list[Any] = []
        """The outputs of the children in the order of their starts, after the block."""

    async def start(
        self, workflow: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Child[R]:
        """Start a child of the group; see `PyWorkflow.start`.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The child, which can be awaited within the block.
        """
        child = await start(self._current, self._options, definition_of(workflow), args, kwargs)
        self._children.append(child)
        return child

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_value is not None and not isinstance(exc_value, Exception):
            return  # the run has stopped: the end of the workflow decides about its children
        errors = [] if exc_value is None else [exc_value]
        if errors:
            await self._cancel()
        cancelled: list[Exception] = []
        results: dict[str, Any] = {}
        async for child in as_completed(self._current, self._children):
            try:
                results[child.step_id] = await child
            except StepFailedError as error:
                if not errors:
                    await self._cancel()
                errors.append(error)
            except WorkflowCancelledError as error:
                cancelled.append(error)
        # After a failure the other children are cancelled by the group; their errors say nothing more.
        if errors or cancelled:
            raise ExceptionGroup("children of a workflow have failed", errors or cancelled) from None
        self.results = [results[each.step_id] for each in self._children]

    async def _cancel(self) -> None:
        for each in self._children:
            try:
                await each.cancel()
            except PgqrsError as error:
                if getattr(error, "workflow_id", None) != each.id:
                    raise


async def start(
    current: Current, options: ChildOptions, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Child[Any]:
    """Start a child in a step: the child and the record of the step are one transaction."""
    run = await current()
    check_arguments(definition, args, kwargs)
    step_id = options.id or run.steps.next_id(run.place, f"start/{escaped(definition.name)}")
    found = await run.steps.acquire(run.place, step_id)
    codec = codec_at(run.codec, "output", run.workflow_id, step_id)
    is_new = isinstance(found, StepExecution)
    if isinstance(found, StepExecution):
        found = await _start_new(_Start(run, step_id, options, definition), found, codec, args, kwargs)
    child_id, token = run.steps.value_of(step_id, found, codec)
    if is_new:
        queue = options.queue or run.announcements.queue
        is_delayed = options.delay is not None
        run.announcements.children_started(definition.name, queue, [child_id], delayed=is_delayed)
    return Child(current, step_id, child_id, token, definition.returns)


async def _start_new(
    of_step: _Start, execution: StepExecution, codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> StoredOutcome:
    """Write a child and the outcome of its step; record and raise `KeyTakenError` for a key that is taken."""
    run, options = of_step.run, of_step.options
    try:
        text = encode_input(run.codec, of_step.definition, args, kwargs).text
        if options.key is None:
            return await _start_one(of_step, execution, codec, text)
        child = _new_child(of_step, 0, await run.next_id(), text)
        started = await _start_keyed(run, execution, options, child, codec)
    except BaseException:
        run.steps.abandon(execution)
        raise
    if isinstance(started, KeyTakenError):
        await run.steps.fail(execution, started, terminal=True)
        raise started
    return started


async def _start_one(of_step: _Start, execution: StepExecution, codec: Codec, input_text: str) -> StoredOutcome:
    """Write a child without a key together with the outcome of its step."""
    run = of_step.run
    while True:
        child = _new_child(of_step, 0, await run.next_id(), input_text)
        try:
            return await _record(run, execution, codec.encode([child.child_id, child.token]).text, (child,))
        except RowRefusedError:
            if not await run.forget_ids_if_taken({child.child_id: child.token}):
                raise


async def _start_keyed(
    run: Run, execution: StepExecution, options: ChildOptions, child: NewChild, codec: Codec
) -> StoredOutcome | KeyTakenError:
    started = await start_with_key(run, execution, child, str(options.key), options.until)
    if isinstance(started, KeyTakenError):
        return started
    return await _record(run, execution, codec.encode([*started]).text, ())


async def start_many(
    current: Current, options: ChildOptions, definition: Definition, inputs: Iterable[tuple[Any, ...]]
) -> Many[Any]:
    """Start children in portions, and record their number as the outcome of one step."""
    if options.key is not None:
        raise ConfigurationError("a key identifies one child: `start_many` accepts no key; use `start`.")
    run = await current()
    step_id = options.id or run.steps.next_id(run.place, f"start_many/{escaped(definition.name)}")
    found = await run.steps.acquire(run.place, step_id)
    codec = codec_at(run.codec, "output", run.workflow_id, step_id)
    if isinstance(found, StepExecution):
        execution = found
        try:
            count = await _start_portions(run, execution, options, definition, inputs)
            found = await _record(run, execution, codec.encode(count).text, ())
        except BaseException:
            run.steps.abandon(execution)
            raise
    return Many(current, step_id, run.steps.value_of(step_id, found, codec), definition.returns)


async def _start_portions(
    run: Run,
    execution: StepExecution,
    options: ChildOptions,
    definition: Definition,
    inputs: Iterable[tuple[Any, ...]],
) -> int:
    of_step = _Start(run, execution.step_id, options, definition)
    count = 0
    rest = iter(inputs)
    while portion := list(islice(rest, MAX_STARTED if count else _FIRST_STARTED)):
        texts = [_input_text(run, definition, each) for each in portion]
        ids = await _start_portion(of_step, execution, count, texts)
        queue = options.queue or run.announcements.queue
        run.announcements.children_started(definition.name, queue, ids, delayed=options.delay is not None)
        count += len(portion)
    return count


async def _start_portion(
    of_step: _Start, execution: StepExecution, first: int, texts: Sequence[str]
) -> Sequence[int]:
    """Write the children at the places from `first` on, and return their ids."""
    run = of_step.run
    while True:
        ids = await run.next_ids(len(texts))
        children = tuple(
            _new_child(of_step, first + place, child_id, text)
            for place, (text, child_id) in enumerate(zip(texts, ids, strict=True))
        )
        workflow_id, epoch, step_id, claim = execution.started
        record = StartedChildren(workflow_id, epoch, step_id, claim, children)
        try:
            await run.steps.write(execution, record)
        except RowRefusedError:
            if not await run.forget_ids_if_taken({each.child_id: each.token for each in children}):
                raise
            continue
        run.check()
        run.lifecycle.raise_if_replaying()
        return ids


def _input_text(run: Run, definition: Definition, given: tuple[Any, ...]) -> str:
    check_is_tuple(given)
    check_arguments(definition, given, {})
    return encode_input(run.codec, definition, given, {}).text


class _Start(NamedTuple):
    """The step that starts children, with their options and their function."""

    run: Run
    step_id: str
    options: ChildOptions
    definition: Definition


def _new_child(of_step: _Start, place: int, child_id: int, text: str) -> NewChild:
    run, step_id, options, definition = of_step
    return NewChild(
        run.workflow_id,
        step_id,
        place,
        child_id,
        definition.name,
        text,
        options.queue or run.announcements.queue,
        options.priority,
        options.delay,
        definition.timeout if options.timeout is None else options.timeout,
        stored_name(run.codec),
        new_token(),
        options.on_end == "cancel",
        options.partition_key,
        run.announcements.trace(),
        options.attributes,
    )


async def _record(
    run: Run, execution: StepExecution, output: str, children: tuple[NewChild, ...]
) -> StoredOutcome:
    workflow_id, epoch, step_id, claim = execution.started
    record = SendingStep(
        workflow_id, epoch, step_id, output, None, execution.began, None, claim, children=children
    )
    outcome = await run.steps.take(execution, record)
    assert outcome is not None  # noqa: S101  # `take` raises the stop of a run that writes nothing more
    return outcome


def address_of(run: Run, step_id: str) -> str:
    """Return the address of the ends of the children that a step of a run has started."""
    return children_address(run.workflow_id, in_generation(run.steps.history.generation, step_id))


def _ended_in(outcome: StoredOutcome) -> tuple[dict[str, Any], str]:
    """Return the recorded end of the children of a step, without the value, and the text of the value, if any.

    The value is not parsed: it has the codec of the children, and may be large.
    """
    head, _, value = (outcome.output or "").partition(',"value":')
    return json.loads(f"{head}}}" if value else head), value[:-1]


async def wait_for_children(run: Run, step_ids: Sequence[str], own_id: str) -> StoredOutcome:
    """Wait until the children of one of several steps have all ended, and return the record of their ends."""
    addresses = tuple(address_of(run, each) for each in step_ids)
    return await wait_for_message(run, MessageWait(own_id, addresses, None, None, lambda: (None, None)))


async def as_completed(current: Current, children: Iterable[Child[Any]]) -> AsyncIterator[Child[Any]]:
    """Yield the children as they end; the order is recorded."""
    run = await current()
    left = {address_of(run, each.step_id): each for each in children}
    while left:
        own_id = run.steps.next_id(run.place, "as_completed/")
        outcome = await wait_for_message(run, MessageWait(own_id, tuple(left), None, None, lambda: (None, None)))
        if outcome.address not in left:
            raise StepMismatchError(run.workflow_id, own_id)
        yield left.pop(outcome.address)


async def gather(children: Sequence[Child[Any] | Many[Any]], *, return_exceptions: bool) -> list[Any]:
    """Wait for all children; return their results in order, or raise the first error by position."""
    results: list[Any] = []
    for each in children:
        if isinstance(each, Many):
            results += [result async for result in each.results()]
        else:
            try:
                results.append(await each)
            except CHILD_ERRORS as error:
                results.append(error)
    first = next((each for each in results if isinstance(each, BaseException)), None)
    if first is not None and not return_exceptions:
        raise first
    return results


def _value(codec: Codec, of_output: Codec, ended: ChildResult) -> Any:
    """Return the output of a child, or raise its error; `of_output` is the codec bound to the output's type."""
    if ended.status is WorkflowStatus.CANCELLED:
        raise WorkflowCancelledError(ended.id)
    with ValueContext(ended.id):
        if ended.status is not WorkflowStatus.SUCCESS:
            raise load_error(open_error(codec, ended.error or "null", ended.id), workflow_id=ended.id, step_id="")
        return codec_at(of_output, "output", ended.id).decode(ended.output or "null")
