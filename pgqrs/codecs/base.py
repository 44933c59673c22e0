"""The codec protocols, and the functions that validate, select and apply a codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

from pgqrs.errors import SerializationError, WorkflowTimeoutError

__all__ = [
    "FERNET",
    "STRICT_JSON",
    "Codec",
    "Encoded",
    "PlacedCodec",
    "SealingCodec",
    "TypedCodec",
    "as_serialization_error",
    "codec_at",
    "codec_for",
    "cut",
    "is_sealing",
    "is_typed",
    "open_error",
    "seal_error",
    "shortened",
    "stored_name",
    "type_name",
    "validate_codec",
]

STRICT_JSON: Final = "json"
"""Name of the strict JSON codec, which is recorded as NULL."""

FERNET: Final = "fernet+"
"""The beginning of the names of the codecs that refuse plain JSON, as far as their names are known."""

_LONGEST_NAME: Final = 100

_LONGEST_TIMEOUT: Final = 1e12
"""Seconds of the longest timeout; only a row that was written by hand has a longer timeout."""


class Encoded(NamedTuple):
    """A value in its stored form.

    Attributes:
        text: The JSON text that is stored.
        value: The value that `text` decodes to; the first run returns it, as a replay does.
    """

    text: str
    value: Any


class Codec(Protocol):
    """Encodes values as JSON text and decodes them from it.

    All workflows of an `Admin` share one codec, so a codec keeps no state between calls except caches. A codec
    gains further abilities by the methods of `TypedCodec`, `SealingCodec` and `PlacedCodec`.
    """

    @property
    def name(self) -> str:
        """The name that is recorded with each workflow; a workflow recorded under another name is refused.

        It has 1 to 100 printable characters. ``"json"`` names strict JSON, and the codec of every workflow that
        was recorded before codecs had names.
        """
        ...

    def encode(self, value: Any) -> Encoded:
        """Return `value` as JSON text, with the value that a replay returns.

        Args:
            value: The value to store.

        Returns:
            The text and the value that it decodes to. PostgreSQL must be able to store the text: it contains no
            NUL characters and no lone surrogates.

        Raises:
            SerializationError: The codec cannot carry `value`.
        """
        ...

    def decode(self, text: str) -> Any:
        """Return the value that `text` encodes.

        Args:
            text: JSON text that `encode` returned.

        Returns:
            The value.

        Raises:
            SerializationError: `text` does not encode a value.
        """
        ...


class TypedCodec(Codec, Protocol):
    """A codec that encodes and decodes values by the annotations of functions."""

    def of(self, annotation: Any) -> Codec:
        """Return the codec for values of a type.

        The codec itself handles values of unknown type: it decodes every text that a codec returned by `of`
        encoded. pgqrs calls `of` once for the result of a function, and again for every input of a workflow, with
        the same `annotation` object for the same parameters. If building a codec is slow, cache it by
        `annotation`.

        Args:
            annotation: The resolved annotation of a function's result, `Any` if the function has none, or a
                `TypedDict` of the arguments of a workflow.

        Returns:
            A codec of the same name.

        Raises:
            ConfigurationError: The codec cannot carry values of the type.
        """
        ...


class SealingCodec(Codec, Protocol):
    """A codec that hides its texts; recorded errors, which no codec encodes, pass through it too."""

    def seal(self, text: str) -> str:
        """Return JSON text that hides the text of an error.

        Args:
            text: The JSON text of an error.

        Returns:
            JSON text that `open` accepts.
        """
        ...

    def open(self, text: str) -> str:
        """Return the text of an error that was sealed.

        Args:
            text: JSON text that `seal` returned.

        Returns:
            The JSON text of the error.

        Raises:
            SerializationError: `text` was not sealed.
        """
        ...


class PlacedCodec(Codec, Protocol):
    """A codec that refuses text that was moved from one place of the tables to another."""

    def at(self, place: str) -> Codec:
        """Return the codec for the values of one place.

        Args:
            place: A text that names the place: the workflow and the step of an outcome or an error, the name of
                the workflow for an input. Every read of the value passes the same text.

        Returns:
            A codec of the same name, which raises `SerializationError` for text that was written at another place.
            It is a `SealingCodec` if this codec is a `SealingCodec`.
        """
        ...


def validate_codec(codec: object) -> Codec:
    """Return `codec` if it is a valid codec; raise `TypeError` otherwise."""
    if isinstance(codec, type):
        raise TypeError(f"`codec` must be an object, got the class {codec.__name__}: write {codec.__name__}().")
    for method in ("encode", "decode"):
        if not callable(getattr(codec, method, None)):
            raise TypeError(
                f"`codec` must have the method {method!r}, got {type_name(codec)} without it: see pgqrs.Codec."
            )
    name: object = getattr(codec, "name", None)
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise TypeError(
            f"the `name` of a codec must be 1 to {_LONGEST_NAME} printable characters, got {shortened(name)} "
            f"from {type_name(codec)}: give the class a `name`, or 'json' if it must read workflows that it "
            "wrote before codecs had names."
        )
    return cast(Codec, codec)


def as_serialization_error(error: Exception) -> SerializationError:
    """Return an exception that a codec raised while encoding as a `SerializationError`."""
    if isinstance(error, SerializationError):
        return error
    return SerializationError(f"the codec failed with {type(error).__name__}: {error}")


def stored_name(codec: Codec) -> str | None:
    """Return the name that is recorded for a codec: None for strict JSON."""
    return None if codec.name == STRICT_JSON else codec.name


def is_typed(codec: Codec) -> bool:
    """Return True if a codec is a `TypedCodec`; the `is_typed` of a codec that wraps another codec decides."""
    return bool(getattr(codec, "is_typed", hasattr(codec, "of")))


def is_sealing(codec: Codec) -> bool:
    """Return True if a codec is a `SealingCodec`."""
    return hasattr(codec, "seal")


def codec_for(codec: Codec, annotation: Any) -> Codec:
    """Return the codec for values of a type: the codec itself unless it is a `TypedCodec`."""
    return cast(TypedCodec, codec).of(annotation) if is_typed(codec) else codec


def codec_at(codec: Codec, kind: str, *where: str | int) -> Codec:
    """Return the codec for the values of a place: the codec itself unless it is a `PlacedCodec`.

    Args:
        codec: The codec, already bound to a type if it is a `TypedCodec`.
        kind: ``"input"``, ``"output"`` or ``"error"``.
        where: The workflow's name for an input, otherwise the workflow's id, followed by the step's id for an
            outcome or an error of a step.
    """
    at: Callable[[str], Codec] | None = getattr(codec, "at", None)
    return codec if at is None else at(json.dumps([kind, *where]))


def seal_error(codec: Codec, text: str, *where: str | int) -> str:
    """Return the JSON text of an error in its stored form; `where` is as for `codec_at`."""
    return cast(SealingCodec, codec_at(codec, "error", *where)).seal(text) if is_sealing(codec) else text


def open_error(codec: Codec, text: str, *where: str | int) -> str:
    """Return the JSON text of an error that `seal_error` returned as `text`.

    Any worker ends a workflow whose deadline has passed, even a worker that does not know the workflow's codec.
    Only the error of that timeout may be unsealed.
    """
    if not is_sealing(codec):
        return text
    return _time_out(text, *where) or cast(SealingCodec, codec_at(codec, "error", *where)).open(text)


def _time_out(text: str, workflow_id: str | int = 0, *step: str | int) -> str | None:
    """Return the error of a workflow that timed out, built again from its timeout; None for any other error."""
    if step or text.startswith('"'):
        return None
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    recorded = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if recorded.get("type") != WorkflowTimeoutError.__name__:
        return None
    attributes = recorded.get("attributes")
    timeout: object = cast("dict[str, Any]", attributes).get("timeout") if isinstance(attributes, dict) else None
    given = float(timeout) if isinstance(timeout, (int, float)) and 0 < timeout <= _LONGEST_TIMEOUT else None
    error = WorkflowTimeoutError(int(workflow_id), given)
    classes = [each for each in type(error).__mro__ if issubclass(each, Exception)]
    return json.dumps(
        {
            "type": type(error).__name__,
            "message": str(error),
            "terminal": True,
            "mro": [f"{each.__module__}:{each.__qualname__}" for each in classes],
            "args": list(error.args),
            "attributes": {"workflow_id": error.workflow_id, "timeout": error.timeout},
        }
    )


def shortened(value: Any) -> str:
    """Return the repr of a value, cut, or the name of its type if the repr fails."""
    try:
        return cut(repr(value))
    except Exception:  # noqa: BLE001  a repr may raise any exception
        return f"<{type_name(value)}>"


def cut(text: str, limit: int = 80) -> str:
    """Return `text`, cut to `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def type_name(value: object) -> str:
    """Return the name of a value's type, with its module unless it is a builtin."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
