"""Decode recorded values for their readers, after a check of the codec that wrote them."""

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
    """Return `text` itself: a stand-in for `decode` where the value is decoded later, once its codec is known."""
    return text


def check_codec(codec: Codec, workflow_id: int, written: str | None) -> None:
    """Raise `CodecMismatchError` if a workflow was recorded with another codec; `written` is its recorded name."""
    given = stored_name(codec)
    if written != given:
        raise CodecMismatchError(workflow_id, written, given)


@contextmanager
def value_context(workflow_id: int, step_id: str | None = None) -> Generator[None]:
    """Add the workflow and the step of the value to a `SerializationError` that is raised inside the context."""
    try:
        yield
    except SerializationError as error:
        raise error.of(workflow_id=workflow_id, step_id=step_id) from error


def decode_workflow(codec: Codec, record: WorkflowRecord) -> WorkflowRecord:
    """Return a record with its payloads decoded from their texts.

    Raises `CodecMismatchError` if another codec wrote them, and `SerializationError` if a text cannot be decoded.
    """
    check_codec(codec, record.id, record.codec)
    with value_context(record.id):
        return _workflow(codec, record, _strictly)


def decode_listed_workflow(codec: Codec, record: WorkflowRecord) -> WorkflowRecord:
    """Return a record with each payload decoded from its text, or `Unreadable` if that fails."""
    return _workflow(codec, record, _leniently(codec, record.codec, record.id))


def decode_listed_step(codec: Codec, record: StepRecord, written: str | None) -> StepRecord:
    """Return a record with each payload decoded from its text, or `Unreadable` if that fails.

    `written` is the recorded name of the codec of the step's workflow.
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
        except Exception as error:  # noqa: BLE001  # a codec may raise any exception; the list needs the other records
            return Unreadable(shown_error(error))

    return read


def _opened(codec: Codec, where: Sequence[str | int], text: str) -> Any:
    return json.loads(open_error(codec, text, *where))
