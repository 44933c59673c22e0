"""`PydanticCodec`, which decodes values as the annotated types of functions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation

from pgqrs.codecs.base import Codec, Encoded
from pgqrs.codecs.json import MAX_BYTES, JsonCodec, path_of
from pgqrs.codecs.roundtrip import Difference, are_equal, first_difference
from pgqrs.errors import ConfigurationError, SerializationError

__all__ = ["PydanticCodec"]

_MOST_TYPES: Final = 2048
_OF_JSON: Final = frozenset(
    {"any", "bool", "definition-ref", "definitions", "dict", "float", "int", "list", "literal", "none", "nullable"}
    | {"str", "tuple", "typed-dict", "typed-dict-field", "union"}
)
"""Types of a core schema whose values are JSON; two such values that compare equal are the same."""


class PydanticCodec:
    """Stores values as Pydantic's JSON, and decodes them as the annotated types of functions.

    It carries models, dataclasses, typed dicts, `datetime`, `Decimal`, `UUID`, enums, unions and every other type
    that Pydantic has a schema for. Results of steps and workflows come back as the annotated return type of their
    function, and arguments of workflows as the annotated types of their parameters, in the first run and in a
    replay alike. The tables hold JSON with the names of the fields, never their aliases. Without an annotation,
    and with `Any`, values come back as that JSON. Private attributes of models do not come back.

    The codec refuses, with a `SerializationError`, a value that does not fit its annotation; a value that would
    come back as another value (an excluded field, a subclass reduced to its base, the wrong member of a union);
    and every value that JSON cannot carry, as `JsonCodec` does.

    Args:
        max_bytes: Maximum bytes of the UTF-8 text of one value; 64 MiB by default.
    """

    name = "pydantic"

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._json = JsonCodec(max_bytes)
        self._of_any = _Typed(self, self._json, TypeAdapter[Any](Any), frozenset({"any"}), is_any=True)
        # The keys are identities, because equal types may differ: unions in the order of their members.
        self._known: dict[int, tuple[Any, _Typed]] = {}

    def of(self, annotation: Any) -> Codec:
        """Return the codec for values of a type.

        Args:
            annotation: The type; `Any` for values that come back as JSON.

        Returns:
            A codec of the same name.

        Raises:
            ConfigurationError: Pydantic has no schema for the type, or values of the type can be read only once.
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
                f"the values of {annotation!r} can be read only once, so they cannot be both recorded and used: "
                "annotate a list or a Sequence instead of an Iterable or a Generator."
            )
        return _Typed(self, self._json, adapter, kinds)

    def encode(self, value: Any) -> Encoded:
        """Return a value of unknown type as Pydantic's JSON.

        Args:
            value: The value to store.

        Returns:
            The JSON text and the JSON value that it decodes to.

        Raises:
            SerializationError: Pydantic has no JSON for `value`, or PostgreSQL cannot store that JSON.
        """
        return self._of_any.encode(value)

    def decode(self, text: str) -> Any:
        """Return the JSON value of a JSON text.

        Args:
            text: The stored text.

        Returns:
            The value, as JSON, because its type is unknown.

        Raises:
            SerializationError: `text` is not strict JSON.
        """
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
            # A union may match this JSON with another member, and a validator may need every field.
            with suppress(SerializationError):
                return self._checked(value, self._json.encode(given).text)
        return self._checked(value, text)

    def _given(self, value: Any, plain: Any) -> Any:
        """Return `plain`, the JSON of a value, without the unset fields of models that are None."""
        try:
            return _without_unset(plain, self._dumped(value, strictly=False, exclude_unset=True))
        except Exception:  # noqa: BLE001  a serializer of the application may need every field
            return plain

    def _checked(self, value: Any, text: str) -> Encoded:
        """Return the text of a value with the decoded value; raise `SerializationError` if the values differ."""
        try:
            back = self.decode(text)
        except SerializationError as error:
            raise SerializationError(f"it would not come back: {error.reason}", path=error.path) from error
        if self._is_json and are_equal(value, back):
            return Encoded(text, back)
        try:
            lost = first_difference(value, back, plainly=self._holds_any, members=self._holds_members)
        except Exception as error:  # a class of the application may raise any exception
            reason = f"it cannot be compared with the value that would come back: {_first_line(error)}"
            raise SerializationError(reason) from error
        if lost is not None:
            raise SerializationError(_loss_message(lost), path=path_of(lost.keys))
        return Encoded(text, back)

    def decode(self, text: str) -> Any:
        if self._is_any:
            return self._json.decode(text)
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise _misfit(error, reading=True) from error
        except Exception as error:  # a validator of the application may raise any exception
            raise SerializationError(f"Pydantic cannot read it: {error}", reading=True) from error

    def _plain(self, value: Any) -> Any:
        """Return the Python form of Pydantic's JSON, of a value that fits the type."""
        try:
            return self._dumped(value, strictly=True)
        except Exception as error:
            self._check_fits(value)
            raise SerializationError(f"Pydantic has no JSON for it: {_first_line(error)}") from error

    def _check_fits(self, value: Any) -> None:
        """Raise an error that names the place where a value does not fit; a serializer's error names none."""
        try:
            made = self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise _misfit(error) from error
        except Exception as error:
            raise SerializationError(f"Pydantic cannot validate it: {_first_line(error)}") from error
        lost = first_difference(value, made, plainly=False)
        if lost is None:
            self._check_within(value)
        else:
            expected, given = _type_name(lost.back), _type_name(lost.given)
            raise SerializationError(
                f"it must be a {expected} to fit its annotation, got a {given}.",
                path=path_of(lost.keys),
            )

    def _check_within(self, value: Any) -> None:
        """Raise if a model holds an unvalidated field that does not fit: validation accepts a model unchecked."""
        try:
            text = self._json.encode(self._dumped(value, strictly=False)).text
        except Exception:  # noqa: BLE001  the caller already reports this failure
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
    """Return the types that a core schema consists of, except the types of metadata and serializers."""
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

    An unset field with another value stays in the record: a default may change, and SQL does not know defaults.
    Raises `ValueError` if the shapes of `plain` and `given` differ.
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
    """Return the first validation error, without the value, which a log must not show."""
    first = error.errors(include_url=False, include_context=False)[0]
    reason = f"it does not fit {error.title}: {first['msg']} ({_type_name(first['input'])})."
    return SerializationError(reason, path=path_of(first["loc"]), reading=reading)


def _loss_message(lost: Difference) -> str:
    given, back = _type_name(lost.given), _type_name(lost.back)
    if given == back:
        return (
            f"the {given} would come back changed, because its JSON omits a part of it: return a value whose JSON "
            "is complete."
        )
    return (
        f"the {given} would come back as {back}, because its JSON fits {back} too: annotate a type that its JSON "
        "identifies (the subclass itself, or a union with a discriminator)."
    )


def _type_name(value: object) -> str:
    return type(value).__qualname__


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
