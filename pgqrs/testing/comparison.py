"""What is recorded, to be compared: results of a workflow, and the arguments that it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pgqrs.codecs.annotations import annotation_of
from pgqrs.codecs.base import Codec, codec_at, codec_for, is_typed
from pgqrs.workflow.arguments import check_arguments, decode_input, encode_input
from pgqrs.workflow.definition import Definition


class Recorded(NamedTuple):
    """A recorded value: by its type, and `plain` as the codec reads it where it knows of none."""

    value: Any
    plain: Any

    def equals(self, other: Recorded) -> bool:
        """Tell whether it is the same value.

        By its type a set is, in whatever order its JSON is; by its JSON an object is that equals only itself.
        """
        return bool(self.plain == other.plain or self.value == other.value)


class Arguments:
    """The arguments that `text`, a workflow's input, records; `plain` is that as the codec reads it without types.

    Raises `TypeError` where they do not fit the workflow's function, and `SerializationError` where they do not
    fit its annotations.
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

        Raises as `Arguments` does, and `SerializationError` for what the codec cannot carry.
        """
        check_arguments(definition, args, kwargs)
        return cls(codec, definition, encode_input(codec, definition, args, kwargs).text)

    def equals(self, others: Arguments) -> bool:
        """Tell whether these are the same, given by position, by name, or by default."""
        return all(self._is_like(others, name) for name in self._given.keys() | others._given.keys())

    def _is_like(self, others: Arguments, name: str) -> bool:
        own, other = self._argument(name), others._argument(name)
        return own is not None and other is not None and own.equals(other)

    def _by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._signature.bind(None, *args, **kwargs).arguments)

    def _argument(self, name: str) -> Recorded | None:
        """Return an argument, or its default as it would be recorded; None for one that cannot be."""
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
        except Exception:  # noqa: BLE001  whatever a codec raises; then nobody can have given it either
            return None
