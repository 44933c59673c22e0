"""The stored records of workflows and steps, and their decoding for readers, after a check of the codec."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from pgqrs.codecs.base import Codec, codec_at, open_error, stored_name
from pgqrs.codecs.failures import shown_error
from pgqrs.codecs.messages import decode_message
from pgqrs.errors import CodecMismatchError, SerializationError
from pgqrs.types import RewindRecord, StepRecord, StepStatus, Unreadable, WorkflowRecord, WorkflowStatus

_MAX_DIGITS = 4000

_Read: TypeAlias = Callable[[Callable[[str], Any], Any], Any]


class StoredWorkflow(NamedTuple):
    """A workflow as its row holds it: `input`, `output`, `error`, `attributes` are texts; see `WorkflowRecord`.

    `token` distinguishes the workflow from another workflow of the same id; None for a row that another program
    wrote.
    """

    id: int
    name: str
    status: WorkflowStatus
    input: str
    output: str | None
    error: str | None
    epoch: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    queue: str | None
    key: str | None
    priority: int
    due_at: datetime | None
    deadline: datetime | None
    executor_id: UUID | None
    attempts: int
    codec: str | None
    schedule: str | None
    scheduled_for: datetime | None
    token: int | None
    partition_key: str | None = None
    unique: str | None = None
    batch_id: int | None = None
    parent_id: int | None = None
    attributes: str | None = None
    tags: Sequence[str] | None = None

    @property
    def is_batch(self) -> bool:
        """True for a batch, whose input is the ids of its submissions, whatever its codec."""
        return self.batch_id == self.id


class StoredStep(NamedTuple):
    """A step as its row holds it: `output` and `error` are texts; see `StepRecord`."""

    workflow_id: int
    step_id: str
    status: StepStatus
    output: str | None
    error: str | None
    epoch: int
    reopened: bool
    started_at: datetime
    completed_at: datetime | None
    failures: int
    address: str | None


class StoredRewind(NamedTuple):
    """A rewind as its row holds it: `output` and `error` are texts; see `RewindRecord`."""

    workflow_id: int
    before: str
    epoch: int
    rewound_at: datetime
    status: WorkflowStatus
    output: str | None
    error: str | None
    completed_at: datetime | None


def check_codec(codec: Codec, workflow_id: int, written: str | None) -> None:
    """Raise `CodecMismatchError` if a workflow was recorded with another codec; `written` is its recorded name."""
    given = stored_name(codec)
    if written != given:
        raise CodecMismatchError(workflow_id, written, given)


class ValueContext:
    """Adds the workflow and the step of a value to a `SerializationError` that is raised inside the context."""

    # A class, because `contextlib.contextmanager` takes as long as the encoding of a small value.

    __slots__ = ("_step_id", "_workflow_id")

    def __init__(self, workflow_id: int, step_id: str | None = None) -> None:
        self._workflow_id = workflow_id
        self._step_id = step_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, SerializationError):
            raise error.of(workflow_id=self._workflow_id, step_id=self._step_id) from error


def decode_workflow(codec: Codec, stored: StoredWorkflow) -> WorkflowRecord:
    """Return the record of a workflow, with its payloads decoded.

    Raises `CodecMismatchError` if another codec wrote them, and `SerializationError` if a text cannot be decoded.
    """
    check_codec(codec, stored.id, stored.codec)
    with ValueContext(stored.id):
        return _workflow(codec, stored, _strictly)


def decode_listed_workflow(codec: Codec, stored: StoredWorkflow) -> WorkflowRecord:
    """Return the record of a workflow, with each payload decoded, or `Unreadable` if that fails."""
    return _workflow(codec, stored, _leniently(codec, stored.codec, stored.id))


def decode_listed_input(codec: Codec, written: str | None, name: str, text: str) -> Any:
    """Return the decoded arguments of a workflow that a schedule starts, or `Unreadable` if that fails."""
    if written != stored_name(codec):
        return Unreadable(f"the arguments are written with the codec {written or 'json'!r}.")
    return _leniently(codec, written, 0)(codec_at(codec, "input", name).decode, text)


def decode_listed_step(codec: Codec, stored: StoredStep, written: str | None) -> StepRecord:
    """Return the record of a step, with each payload decoded, or `Unreadable` if that fails.

    `written` is the recorded name of the codec of the step's workflow.
    """
    where = stored.workflow_id, stored.step_id
    read = _leniently(codec, written, *where)
    fields: dict[str, Any] = stored._asdict()
    if stored.status is StepStatus.RUNNING and not stored.failures:
        fields |= {"output": None, "error": None}  # a wait: this becomes its outcome at the timeout
    elif stored.address is not None:
        fields["output"] = read(partial(decode_message, codec, stored.address), stored.output)
    else:
        fields["output"] = read(codec_at(codec, "output", *where).decode, stored.output)
        fields["error"] = read(partial(_opened, codec, where), stored.error)
    del fields["address"]
    return StepRecord(**fields)


def decode_rewind(
    codec: Codec, stored: StoredRewind, steps: Sequence[StoredStep], written: str | None
) -> RewindRecord:
    """Return the record of a rewind, with each payload decoded, or `Unreadable` if that fails.

    `written` is the recorded name of the codec of the workflow.
    """
    workflow_id = stored.workflow_id
    read = _leniently(codec, written, workflow_id)
    fields: dict[str, Any] = stored._asdict() | {
        "output": read(codec_at(codec, "output", workflow_id).decode, stored.output),
        "error": read(partial(_opened, codec, (workflow_id,)), stored.error),
        "steps": tuple(decode_listed_step(codec, each, written) for each in steps),
    }
    return RewindRecord(**fields)


def _workflow(codec: Codec, stored: StoredWorkflow, read: _Read) -> WorkflowRecord:
    fields: dict[str, Any] = stored._asdict()
    del fields["token"]
    if stored.is_batch:
        fields |= {"input": json.loads(stored.input), "output": None}
    else:
        fields["input"] = read(codec_at(codec, "input", stored.name).decode, stored.input)
        fields["output"] = read(codec_at(codec, "output", stored.id).decode, stored.output)
    fields["error"] = read(partial(_opened, codec, (stored.id,)), stored.error)
    fields["attributes"] = json.loads(stored.attributes or "{}", parse_int=_number)
    fields["tags"] = tuple(stored.tags or ())
    return WorkflowRecord(**fields)


def _number(digits: str) -> int | float:
    """Return a whole number of `jsonb`, which has longer ones than Python reads as an int."""
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def _strictly(decode: Callable[[str], Any], text: Any) -> Any:
    return None if text is None else decode(text)


def _leniently(codec: Codec, written: str | None, workflow_id: int, step_id: str | None = None) -> _Read:
    def read(decode: Callable[[str], Any], text: Any) -> Any:
        try:
            if text is not None:
                check_codec(codec, workflow_id, written)
            with ValueContext(workflow_id, step_id):
                return _strictly(decode, text)
        except Exception as error:  # noqa: BLE001  # a codec may raise any exception; the list needs the other records
            return Unreadable(shown_error(error))

    return read


def _opened(codec: Codec, where: Sequence[str | int], text: str) -> Any:
    return json.loads(open_error(codec, text, *where))
