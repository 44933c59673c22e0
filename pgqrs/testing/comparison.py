"""Recorded values for comparisons: the results of a workflow and the arguments of its calls."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pgqrs.codecs.annotations import annotation_of
from pgqrs.codecs.base import Codec, codec_at, codec_for, is_typed
from pgqrs.workflow.arguments import check_arguments, decode_input, encode_input
from pgqrs.workflow.definition import Definition


class Recorded(NamedTuple):
    """A recorded value, decoded by its type as `value`, and without types as `plain`."""

    value: Any
    plain: Any

    def equals(self, other: Recorded) -> bool:
        """Return whether two recorded values are equal.

        Sets are equal by type, whatever the order in their JSON. Objects that equal only themselves are equal by
        JSON.
        """
        return bool(self.plain == other.plain or self.value == other.value)


class Arguments:
    """The arguments in the recorded input `text`; `plain` is the input as the codec decodes it without types.

    Raises `TypeError` for arguments that do not fit the workflow's function, and `SerializationError` for
    arguments that do not fit its annotations.
    """

    def __init__(self, codec: Codec, definition: Definition, text: str) -> None:
        self._codec = codec
        self._function = definition.function
        self._signature = inspect.signature(definition.function)
        self.plain = codec_at(codec, "input", definition.name).decode(text)
        args, kwargs = decode_input(codec, definition, text)
        values = self._by_name(args, kwargs)
        plain = self._by_name(self.plain["args"], self.plain["kwargs"])
        self._given = {name: Recorded(value, plain[name]) for name, value in values.items()}

    @classmethod
    def of(cls, codec: Codec, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Self:
        """Return the arguments of a call, as they would be recorded.

        Raises the errors of `Arguments`, and `SerializationError` for arguments that the codec cannot encode.
        """
        check_arguments(definition, args, kwargs)
        return cls(codec, definition, encode_input(codec, definition, args, kwargs).text)

    def equals(self, others: Arguments) -> bool:
        """Return whether the arguments are equal, whether passed by position, by name, or by default."""
        return all(self._is_like(others, name) for name in self._given.keys() | others._given.keys())

    def _is_like(self, others: Arguments, name: str) -> bool:
        own, other = self._argument(name), others._argument(name)
        return own is not None and other is not None and own.equals(other)

    def _by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._signature.bind(None, *args, **kwargs).arguments)

    def _argument(self, name: str) -> Recorded | None:
        """Return an argument, or its default as it would be recorded; None if the default cannot be recorded."""
        return self._given.get(name) or self._default(self._signature.parameters[name])

    def _default(self, parameter: inspect.Parameter) -> Recorded | None:
        match parameter.kind:
            case inspect.Parameter.VAR_POSITIONAL:
                return Recorded((), ())
            case inspect.Parameter.VAR_KEYWORD:
                return Recorded({}, {})
            case _:
                return self._recorded(parameter)

    def _recorded(self, parameter: inspect.Parameter) -> Recorded | None:
        codec = self._codec
        try:
            typed = codec_for(codec, annotation_of(self._function, parameter.name)) if is_typed(codec) else codec
            text = typed.encode(parameter.default).text
            return Recorded(typed.decode(text), codec.decode(text))
        except Exception:  # noqa: BLE001  # a codec may raise any error; no call can have recorded the value either
            return None
