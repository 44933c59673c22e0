"""What is recorded as its readers see it: with the codec checked that it was written with, and decoded by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from pgqrs.codecs.base import Codec, codec_at, open_error, stored_name
from pgqrs.codecs.failures import shown_error
from pgqrs.errors import CodecMismatchError, SerializationError
from pgqrs.types import StepRecord, Unreadable, WorkflowRecord

_Read: TypeAlias = Callable[[Callable[[str], Any], Any], Any]


def as_text(text: str) -> str:
    """Stand for a codec where what is read is decoded later, when it is known what it was written with."""
    return text


def check_codec(codec: Codec, workflow_id: int, written: str | None) -> None:
    """Raise `CodecMismatchError` for a workflow that was written with another codec."""
    given = stored_name(codec)
    if written != given:
        raise CodecMismatchError(workflow_id, written, given)


@contextmanager
def value_context(workflow_id: int, step_id: str | None = None) -> Generator[None]:
    """Have a `SerializationError` say whose value it is about."""
    try:
        yield
    except SerializationError as error:
        raise error.of(workflow_id=workflow_id, step_id=step_id) from error


def decode_workflow(codec: Codec, record: WorkflowRecord) -> WorkflowRecord:
    """Return the record whose payloads are texts with what they stand for.

    Raises `CodecMismatchError` and `SerializationError`.
    """
    check_codec(codec, record.id, record.codec)
    with value_context(record.id):
        return _workflow(codec, record, _strictly)


def decode_listed_workflow(codec: Codec, record: WorkflowRecord) -> WorkflowRecord:
    """Return the record whose payloads are texts with what they stand for, or `Unreadable`."""
    return _workflow(codec, record, _leniently(codec, record.codec, record.id))


def decode_listed_step(codec: Codec, record: StepRecord, written: str | None) -> StepRecord:
    """Return the record whose payloads are texts with what they stand for, or `Unreadable` where that cannot be.

    `written` names the codec that the step's workflow is written with.
    """
    where = record.workflow_id, record.step_id
    read = _leniently(codec, written, *where)
    output = read(codec_at(codec, "output", *where).decode, record.output)
    return replace(record, output=output, error=read(partial(_opened, codec, where), record.error))


def _workflow(codec: Codec, record: WorkflowRecord, read: _Read) -> WorkflowRecord:
    return replace(
        record,
        input=read(codec_at(codec, "input", record.name).decode, record.input),
        output=read(codec_at(codec, "output", record.id).decode, record.output),
        error=read(partial(_opened, codec, (record.id,)), record.error),
    )


def _strictly(decode: Callable[[str], Any], text: Any) -> Any:
    return None if text is None else decode(text)


def _leniently(codec: Codec, written: str | None, workflow_id: int, step_id: str | None = None) -> _Read:
    def read(decode: Callable[[str], Any], text: Any) -> Any:
        try:
            if text is not None:
                check_codec(codec, workflow_id, written)
            with value_context(workflow_id, step_id):
                return _strictly(decode, text)
        except Exception as error:  # noqa: BLE001  # whatever a codec raises: the other records are wanted all the same
            return Unreadable(shown_error(error))

    return read


def _opened(codec: Codec, where: Sequence[str | int], text: str) -> Any:
    return json.loads(open_error(codec, text, *where))
