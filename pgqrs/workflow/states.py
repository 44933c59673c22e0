"""`WorkflowState`, the values that the workflows of one name share by their partition key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, overload

from pgqrs.codecs.base import Codec, codec_at, codec_for, stored_name
from pgqrs.codecs.records import ValueContext
from pgqrs.codecs.states import decode_state, state_codec
from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution, ancestors
from pgqrs.errors import ConfigurationError, StepMismatchError
from pgqrs.storage.states.repository import StateOwner, StateRepository
from pgqrs.storage.writes.states import StateChange
from pgqrs.validation import check_name, escaped
from pgqrs.workflow.messaging.messages import Current

D = TypeVar("D")
T = TypeVar("T")


class _Call(NamedTuple):
    """A call: its run, the owner of the state, the name of the value, and the scope of the step that calls."""

    run: Run
    owner: tuple[str, str]
    name: str
    step: StepExecution | None


class WorkflowState:
    """The state of the partition key of a workflow, as `ctx.state`: values by name that outlive the workflow.

    The workflows of one name and one partition key share a state. In the function of a workflow each call is
    recorded like a step, so a replay returns the same values and writes nothing again. In a step a read is
    direct, and a write is committed with the outcome of the step: a step that fails, or that is not recorded, has
    written nothing.
    """

    __slots__ = ("_current", "_partition_key")

    def __init__(self, current: Current, partition_key: Callable[[Run], Awaitable[str | None]]) -> None:
        """Use the run of the calling task, and the function that returns the partition key of its workflow."""
        self._current = current
        self._partition_key = partition_key

    @overload
    async def get(self, name: str, default: object = None, *, id: str | None = None) -> Any: ...

    @overload
    async def get(self, name: str, *, type: type[T], id: str | None = None) -> T | None: ...

    @overload
    async def get(self, name: str, default: D, *, type: type[T], id: str | None = None) -> T | D: ...

    async def get(
        self,
        name: str,
        default: object = None,
        *,
        type: object = Any,  # noqa: A002
        id: str | None = None,  # noqa: A002  # the usual word for a step's id
    ) -> Any:
        """Return a value of the state.

        Args:
            name: The name of the value.
            default: The result if there is no such value; None by default.
            type: The type with which a typed codec decodes the value; any value by default.
            id: A name, which makes the step id of a call in the workflow's function ``get_state/ID``. By default
                the step ids are ``get_state/NAME:1``, ``get_state/NAME:2``, ... in the order of the calls.
                Concurrent tasks need an `id`.

        Returns:
            The newest value, in a step also one that the step has just set; in the workflow's function the value
            at the first call.

        Raises:
            ConfigurationError: The workflow has no partition key.
            SerializationError: The value is written with another codec, or the codec cannot decode it.
            InvalidNameError: The name or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        call = await self._call(name)
        if call.step is not None:
            found = await _read(call, type)
        else:
            found = await _recorded_read(call, type, _step_id(call, "get_state", id))
        return found[0] if found else default

    async def set(self, name: str, value: Any, *, id: str | None = None) -> None:  # noqa: A002
        """Set a value of the state.

        Args:
            name: The name of the value.
            value: The value, which the codec must be able to encode.
            id: A name, which makes the step id of a call in the workflow's function ``set_state/ID``; see `get`.

        Raises:
            ConfigurationError: The workflow has no partition key.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The name or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        call = await self._call(name)
        with ValueContext(call.run.workflow_id):
            text = state_codec(call.run.codec, call.owner, name).encode(value).text
        await _change(call, text, "set_state", id)

    async def delete(self, name: str, *, id: str | None = None) -> None:  # noqa: A002
        """Delete a value of the state; a value that is not there stays so.

        Args:
            name: The name of the value.
            id: A name, which makes the step id of a call in the workflow's function ``delete_state/ID``; see
                `get`.

        Raises:
            ConfigurationError: The workflow has no partition key.
            InvalidNameError: The name or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        await _change(await self._call(name), None, "delete_state", id)

    async def _call(self, name: str) -> _Call:
        check_name("state", name)
        run = await self._current()
        run.check()
        key = await self._partition_key(run)
        if key is None:
            raise ConfigurationError(
                f"workflow {run.workflow_id} has no partition key, and so no state: enqueue it with "
                "`options(partition_key=...)`."
            )
        step = next(ancestors(run.place), None)
        return _Call(run, (run.name, key), name, step)


def _step_id(call: _Call, kind: str, name: str | None) -> str:
    if name is None:
        return call.run.steps.next_id(call.run.place, f"{kind}/{escaped(call.name)}")
    check_name("step id", name)
    step_id = f"{kind}/{escaped(name)}"
    check_name("step id", step_id)
    return step_id


async def _read(call: _Call, type_: object) -> list[Any]:
    """Return a list with the value; an empty list without one. The changes of the steps around the call count."""
    run, codec = call.run, call.run.codec
    for step in ancestors(call.step):
        if step.states is not None and call.name in step.states:
            text = step.states[call.name].value
            return [] if text is None else [state_codec(codec, call.owner, call.name, type_).decode(text)]
    owner = StateOwner(*call.owner)
    found = await run.read_here(lambda connection: StateRepository(connection).value(owner, call.name))
    run.check()
    if found is None:
        return []
    with ValueContext(run.workflow_id):
        return [decode_state(codec, call.owner, call.name, found, type_)]


async def _recorded_read(call: _Call, type_: object, step_id: str) -> list[Any]:
    """Return the recorded result of `_read`, or record it."""
    steps = call.run.steps
    found = await steps.acquire(call.run.place, step_id)
    codec = codec_at(codec_for(call.run.codec, _list_of(type_)), "output", call.run.workflow_id, step_id)
    if isinstance(found, StepExecution):
        found = await steps.record(found, await _encoded_read(call, type_, codec, found))
    values = steps.value_of(step_id, found, codec)
    if not isinstance(values, list):
        raise StepMismatchError(call.run.workflow_id, step_id)
    return values  # pyright: ignore[reportUnknownVariableType]


async def _encoded_read(call: _Call, type_: object, codec: Codec, execution: StepExecution) -> str:
    try:
        return codec.encode(await _read(call, type_)).text
    except BaseException:
        call.run.steps.abandon(execution)
        raise


async def _change(call: _Call, text: str | None, kind: str, name: str | None) -> None:
    """Change a value with the outcome of the executing step, or by a step of its own."""
    run, step = call.run, call.step
    if step is None:
        step_id = _step_id(call, kind, name)
        found = await run.steps.acquire(run.place, step_id)
        if not isinstance(found, StepExecution):
            return
        _note(call, found, text)
        output = codec_at(run.codec, "output", run.workflow_id, step_id).encode(None).text
        await run.steps.record(found, output)
    else:
        _note(call, step, text)


def _note(call: _Call, execution: StepExecution, text: str | None) -> None:
    if execution.states is None:
        execution.states = {}
    written = stored_name(call.run.codec)
    change = StateChange(call.run.workflow_id, execution.step_id, call.name, text, written)
    execution.states[call.name] = change


@lru_cache(maxsize=256)
def _list_of(type_: Any) -> Any:
    """Return the type of a list with values of a type, the same object again: a codec keeps its work for it."""
    return list[type_]
