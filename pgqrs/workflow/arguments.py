"""Checks the arguments of a workflow against its function, and encodes and decodes them as its input."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pgqrs.codecs.annotations import input_codec
from pgqrs.codecs.base import Codec, Encoded, codec_at, is_typed
from pgqrs.workflow.definition import Definition


def check_arguments(definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `TypeError` if a workflow's function does not accept a context and these arguments."""
    misfit = _misfit(definition.function, len(args), tuple(kwargs))
    if misfit is not None:
        raise TypeError(f"workflow {definition.name!r} does not accept these arguments: {misfit}.")


def check_is_tuple(given: object) -> None:
    """Raise `TypeError` for the arguments of one workflow of many that are not a tuple."""
    if not isinstance(given, tuple):
        raise TypeError(
            f"each item of `inputs` must be a tuple of arguments, got {type(given).__name__}: write `(value,)` "
            "for one argument."
        )


def encode_input(codec: Codec, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    """Encode these arguments as the input of a workflow, a dict of ``args`` and ``kwargs``.

    Raises `SerializationError`, and `ConfigurationError` if the codec does not support the annotation of a
    parameter.
    """
    typed = input_codec(codec, definition.function, len(args), tuple(kwargs))
    return codec_at(typed, "input", definition.name).encode(
        {"args": args if is_typed(codec) else list(args), "kwargs": kwargs}
    )


def decode_input(codec: Codec, definition: Definition, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Decode the recorded input of a workflow to arguments of the annotated types.

    Raises `TypeError` if the function does not accept the arguments, and the errors of `encode_input`.
    """
    given = codec_at(codec, "input", definition.name).decode(text)
    check_arguments(definition, given["args"], given["kwargs"])
    if is_typed(codec):
        count, names = len(given["args"]), tuple(given["kwargs"])
        typed = input_codec(codec, definition.function, count, names)
        given = codec_at(typed, "input", definition.name).decode(text)
    return tuple(given["args"]), given["kwargs"]


def are_same_inputs(codec: Codec, definition: Definition, text: str, other: str | None) -> bool:
    """Return whether two recorded inputs of a workflow hold equal arguments, by position or by name.

    An input that is unknown, or that the codec cannot decode, counts as equal, because it cannot be compared.
    """
    if other is None or text == other:
        return True
    try:
        return _bound(codec, definition, text) == _bound(codec, definition, other)
    except TypeError:  # an input that was recorded for an earlier signature of the function
        return False
    except Exception:  # noqa: BLE001  # a codec may raise any exception
        return True


def _bound(codec: Codec, definition: Definition, text: str) -> dict[str, Any]:
    args, kwargs = decode_input(codec, definition, text)
    return dict(_signature_of(definition.function).bind(None, *args, **kwargs).arguments)


@lru_cache(maxsize=1024)
def _misfit(function: Callable[..., object], count: int, names: tuple[str, ...]) -> str | None:
    """Return the reason why a function does not accept a context and arguments of this number and these names.

    None if it does. The values do not matter, so the answer is kept: `bind` takes as long as half of an enqueue.
    """
    try:
        _signature_of(function).bind(None, *[None] * count, **dict.fromkeys(names))
    except TypeError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _signature_of(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)
