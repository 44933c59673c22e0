"""`PydanticCodec`: values come back as what functions are annotated with."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation

from pgqrs.codecs.base import MAX_BYTES, Codec, Encoded, JsonCodec, path_of
from pgqrs.codecs.roundtrip import Difference, are_equal, first_difference
from pgqrs.errors import ConfigurationError, SerializationError

__all__ = ["PydanticCodec"]

_MOST_TYPES: Final = 2048
_OF_JSON: Final = frozenset(
    {"any", "bool", "definition-ref", "definitions", "dict", "float", "int", "list", "literal", "none", "nullable"}
    | {"str", "tuple", "typed-dict", "typed-dict-field", "union"}
)
"""What a core schema consists of if its values are JSON: they are what they are equal to."""


class PydanticCodec:
    """Stores what Pydantic makes JSON of, and gives back what functions are annotated with.

    Models, dataclasses, typed dicts, `datetime`, `Decimal`, `UUID`, enums, unions and whatever else Pydantic has a
    schema for: results of steps and workflows come back as the type that their function is annotated to return,
    arguments of workflows as their parameters are, in the first run as in a replay. In the tables they are JSON,
    with the names of the fields, whatever their aliases. Without an annotation, and with `Any`, they come back as
    that JSON. Private attributes of models do not come back. `max_bytes` limits the UTF-8 text of one value.

    What is refused, with a `SerializationError`: a value that does not fit its annotation, one that would come
    back as another (a field left out, a subclass cut down, the wrong member of a union), and what JSON cannot
    carry: see `JsonCodec`.
    """

    name = "pydantic"

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._json = JsonCodec(max_bytes)
        self._of_any = _Typed(self, self._json, TypeAdapter[Any](Any), frozenset({"any"}), is_any=True)
        # Types that are equal may differ: unions in the order of their members. Hence by identity.
        self._known: dict[int, tuple[Any, _Typed]] = {}

    def of(self, annotation: Any) -> Codec:
        """Return the codec for values of a type.

        Raise `ConfigurationError` if Pydantic has no schema for it, or one whose values are read only once.
        """
        if annotation is Any:
            return self._of_any
        known = self._known.get(id(annotation))
        if known is None:
            typed = self._typed(annotation)
            if len(self._known) >= _MOST_TYPES:
                self._known.clear()
            known = self._known[id(annotation)] = annotation, typed
        return known[1]

    def _typed(self, annotation: Any) -> _Typed:
        adapter = _adapter(annotation)
        kinds = _kinds(cast(object, adapter.core_schema))
        if "generator" in kinds:
            raise ConfigurationError(
                f"the values of {annotation!r} can be read only once, so they cannot be recorded and used as "
                "well: annotate a list or a Sequence in the place of an Iterable or a Generator."
            )
        return _Typed(self, self._json, adapter, kinds)

    def encode(self, value: Any) -> Encoded:
        """Return a value of which nothing is known as the JSON that Pydantic makes of it.

        Raise `SerializationError` where it makes none, or none that PostgreSQL can store.
        """
        return self._of_any.encode(value)

    def decode(self, text: str) -> Any:
        """Return what the JSON says, as JSON; raise `SerializationError` when it is not strict JSON."""
        return self._of_any.decode(text)


class _Typed:
    """The codec for values of one type."""

    name = PydanticCodec.name

    def __init__(
        self,
        codec: PydanticCodec,
        strict_json: JsonCodec,
        adapter: TypeAdapter[Any],
        kinds: frozenset[str],
        *,
        is_any: bool = False,
    ) -> None:
        self._codec = codec
        self._json = strict_json
        self._adapter = adapter
        self._is_any = is_any
        self._is_json = kinds <= _OF_JSON
        self._holds_any = "any" in kinds
        self._holds_members = "enum" in kinds
        self._holds_models = "model" in kinds

    def of(self, annotation: Any) -> Codec:
        return self._codec.of(annotation)

    def encode(self, value: Any) -> Encoded:
        plain = self._plain(value)
        text = self._json.encode(plain).text
        if self._holds_models and "null" in text and (given := self._given(value, plain)) != plain:
            # A union may take it for another member, a validator may want all of it.
            with suppress(SerializationError):
                return self._checked(value, self._json.encode(given).text)
        return self._checked(value, text)

    def _given(self, value: Any, plain: Any) -> Any:
        """Return `plain`, the JSON of a value, without the fields of models that nobody set and that are None."""
        try:
            return _without_unset(plain, self._dumped(value, strictly=False, exclude_unset=True))
        except Exception:  # noqa: BLE001  a serializer of the application's may need all fields
            return plain

    def _checked(self, value: Any, text: str) -> Encoded:
        """Return the text of a value, with what it stands for, if that is the value."""
        try:
            back = self.decode(text)
        except SerializationError as error:
            raise SerializationError(f"it would not come back: {error.reason}", path=error.path) from error
        if self._is_json and are_equal(value, back):
            return Encoded(text, back)
        try:
            lost = first_difference(value, back, plainly=self._holds_any, members=self._holds_members)
        except Exception as error:  # a class of the application's may do anything
            reason = f"it cannot be compared with what would come back: {_first_line(error)}"
            raise SerializationError(reason) from error
        if lost is not None:
            raise SerializationError(_told(lost), path=path_of(lost.keys))
        return Encoded(text, back)

    def decode(self, text: str) -> Any:
        if self._is_any:
            return self._json.decode(text)
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise _misfit(error, reading=True) from error
        except Exception as error:  # a validator of the application's may raise anything
            raise SerializationError(f"Pydantic cannot read it: {error}", reading=True) from error

    def _plain(self, value: Any) -> Any:
        """Return what is JSON, or nearly, of a value that fits the type."""
        try:
            return self._dumped(value, strictly=True)
        except Exception as error:
            self._check_fits(value)
            raise SerializationError(f"Pydantic makes no JSON of it: {_first_line(error)}") from error

    def _check_fits(self, value: Any) -> None:
        """Raise an error that tells where a value does not fit: a serializer's does not."""
        try:
            made = self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise _misfit(error) from error
        except Exception as error:
            raise SerializationError(f"Pydantic cannot tell whether it fits: {_first_line(error)}") from error
        lost = first_difference(value, made, plainly=False)
        if lost is None:
            self._check_within(value)
        else:
            expected, given = _type_name(lost.back), _type_name(lost.given)
            raise SerializationError(
                f"it does not fit its annotation: a {expected} is expected, not a {given}.",
                path=path_of(lost.keys),
            )

    def _check_within(self, value: Any) -> None:
        """Raise where a model was filled unchecked with what does not fit: validation takes a model as it is."""
        try:
            text = self._json.encode(self._dumped(value, strictly=False)).text
        except Exception:  # noqa: BLE001  whatever it is, it has failed like that before
            return
        try:
            self.decode(text)
        except SerializationError as error:
            raise SerializationError(error.reason, path=error.path) from error

    def _dumped(self, value: Any, *, strictly: bool, exclude_unset: bool = False) -> Any:
        return self._adapter.dump_python(
            value,
            mode="json",
            by_alias=False,
            round_trip=True,
            warnings="error" if strictly else "none",
            exclude_unset=exclude_unset,
        )


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        raise ConfigurationError(f"Pydantic has no schema for {annotation!r}: {_first_line(error)}") from error


def _kinds(schema: object) -> frozenset[str]:
    """Return the types that a core schema consists of; metadata and serializers are no part of it."""
    if isinstance(schema, Mapping):
        fields = cast("Mapping[str, object]", schema)
        kind = fields.get("type")
        inner = [each for key, each in fields.items() if key not in {"metadata", "serialization"}]
        return _kinds(inner).union([kind] if isinstance(kind, str) else [])
    if isinstance(schema, (list, tuple)):
        return frozenset[str]().union(*map(_kinds, cast("list[object]", schema)))
    return frozenset(["enum"] if isinstance(schema, enum.Enum) else [])


def _without_unset(plain: Any, given: Any) -> Any:
    """Return JSON without the fields that are null and not `given`.

    A field that has another value stays, as it was recorded: a default may change, and SQL knows none. Raises
    `ValueError` where the two are not of one shape.
    """
    if _are_both(dict, plain, given):
        return {
            key: _without_unset(each, given[key]) if key in given else each
            for key, each in plain.items()
            if key in given or each is not None
        }
    if _are_both(list, plain, given):
        return [_without_unset(*each) for each in zip(plain, given, strict=True)]
    return plain


def _are_both(kind: type, one: object, other: object) -> bool:
    return type(one) is kind and type(other) is kind


def _misfit(error: ValidationError, *, reading: bool = False) -> SerializationError:
    """Return the first of the misfits, without the value, which is nobody's business in a log."""
    first = error.errors(include_url=False, include_context=False)[0]
    reason = f"it does not fit {error.title}: {first['msg']} ({_type_name(first['input'])})."
    return SerializationError(reason, path=path_of(first["loc"]), reading=reading)


def _told(lost: Difference) -> str:
    given, back = _type_name(lost.given), _type_name(lost.back)
    if given == back:
        return f"the {given} would come back as another, for its JSON does not hold all of it: return what does."
    return (
        f"the {given} would come back as {back}, for its JSON fits that as well: annotate it so that it does not "
        "(the subclass itself, a discriminator in the union)."
    )


def _type_name(value: object) -> str:
    return type(value).__qualname__


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
