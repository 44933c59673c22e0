"""The arguments of a workflow: whether they fit its function, and how they are recorded as its input."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pgqrs.codecs.annotations import input_codec
from pgqrs.codecs.base import Codec, Encoded, codec_at, is_typed
from pgqrs.workflow.definition import Definition


def check_arguments(definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `TypeError` where a workflow's function cannot be called with a context and these arguments."""
    try:
        _signature_of(definition.function).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"the workflow {definition.name!r} cannot be called like that: {error}.") from None


def encode_input(codec: Codec, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    """Return the input of a workflow that is called with these arguments; its value has ``args`` and ``kwargs``.

    Raises `SerializationError`, and `ConfigurationError` where the codec cannot carry what a parameter is
    annotated with.
    """
    typed = input_codec(codec, definition.function, len(args), tuple(kwargs))
    return codec_at(typed, "input", definition.name).encode(
        {"args": args if is_typed(codec) else list(args), "kwargs": kwargs}
    )


def decode_input(codec: Codec, definition: Definition, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that were recorded as a workflow's input, as its parameters are annotated.

    Raises `TypeError` where they do not fit the function, and as `encode_input` does.
    """
    given = codec_at(codec, "input", definition.name).decode(text)
    check_arguments(definition, given["args"], given["kwargs"])
    if is_typed(codec):
        count, names = len(given["args"]), tuple(given["kwargs"])
        typed = input_codec(codec, definition.function, count, names)
        given = codec_at(typed, "input", definition.name).decode(text)
    return tuple(given["args"]), given["kwargs"]


def are_same_inputs(codec: Codec, definition: Definition, text: str, other: str) -> bool:
    """Tell whether two recorded inputs of a workflow stand for the same arguments, however they were given.

    One that cannot be read is taken for the same: nothing can be said of it.
    """
    if text == other:
        return True
    try:
        return _bound(codec, definition, text) == _bound(codec, definition, other)
    except TypeError:  # of a signature that the function has no more
        return False
    except Exception:  # noqa: BLE001  # whatever a codec raises
        return True


def _bound(codec: Codec, definition: Definition, text: str) -> dict[str, Any]:
    args, kwargs = decode_input(codec, definition, text)
    return dict(_signature_of(definition.function).bind(None, *args, **kwargs).arguments)


@lru_cache(maxsize=1024)
def _signature_of(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)
