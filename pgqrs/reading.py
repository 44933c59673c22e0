"""What is recorded as its readers see it: with the codec checked that it was written with, and decoded by it."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pgqrs.errors import CodecMismatchError, SerializationError
from pgqrs.serialization import Codec, is_sealing, opened, placed, recorded_name
from pgqrs.types import StepRecord, WorkflowRecord


def as_text(text: str) -> str:
    """Stand for a codec where what is read is decoded later, when it is known what it was written with."""
    return text


def check_written(codec: Codec, workflow_id: int, written: str | None) -> None:
    """Raise `CodecMismatchError` for a workflow that was written with another codec."""
    given = recorded_name(codec)
    if written != given:
        raise CodecMismatchError(workflow_id, written, given)


@contextmanager
def naming(workflow_id: int, step_id: str | None = None) -> Generator[None]:
    """Have a `SerializationError` say whose value it is about."""
    try:
        yield
    except SerializationError as error:
        raise error.of(workflow_id=workflow_id, step_id=step_id) from error


def read_workflow(codec: Codec, record: WorkflowRecord) -> WorkflowRecord:
    """Return the record whose input and output are texts with what they stand for, and its error opened.

    Raises `CodecMismatchError` and `SerializationError`.
    """
    check_written(codec, record.id, record.codec)
    with naming(record.id):
        return replace(
            record,
            input=_decoded(placed(codec, "input", record.name), record.input),
            output=_decoded(placed(codec, "output", record.id), record.output),
            error=_opened(codec, record.error, record.id),
        )


def read_step(codec: Codec, record: StepRecord) -> StepRecord:
    """Return the record whose output is a text with what it stands for, and its error opened.

    Raises `SerializationError`; that the workflow was written with this codec is known.
    """
    with naming(record.workflow_id, record.step_id):
        where = record.workflow_id, record.step_id
        output = _decoded(placed(codec, "output", *where), record.output)
        return replace(record, output=output, error=_opened(codec, record.error, *where))


def _decoded(codec: Codec, text: str | None) -> Any:
    return None if text is None else codec.decode(text)


def _opened(codec: Codec, error: Any, *where: str | int) -> Any:
    if error is None or not is_sealing(codec):
        return error
    return json.loads(opened(codec, json.dumps(error), *where))
