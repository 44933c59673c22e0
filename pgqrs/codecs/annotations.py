"""Annotations of functions, resolved at their first use, when every name is defined."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, Unpack, cast, get_args, get_origin, get_type_hints

from pgqrs.codecs.base import Codec, codec_for, is_typed
from pgqrs.errors import ConfigurationError

if sys.version_info >= (3, 12):
    from typing import TypedDict

    _UNPACKS = (Unpack,)
else:  # Pydantic, for example, accepts no other TypedDict on these versions
    from typing_extensions import TypedDict
    from typing_extensions import Unpack as _Unpack

    _UNPACKS = (Unpack, _Unpack)

_TUPLE: Any = tuple
_SEQUENCE: Any = Sequence
_ITERABLES = (Iterable, Collection)
_UNIONS = (Union, UnionType)
_typed_dict = cast("Callable[[str, Mapping[str, Any]], Any]", TypedDict)


class ReturnType:
    """The return annotation of a function."""

    __slots__ = ("_annotation", "_function", "_last")

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function
        self._annotation: Any = None
        self._last: tuple[Codec, Codec] | None = None

    def __str__(self) -> str:
        return f"{getattr(self._function, '__module__', '?')}.{_shown(self._function)}"

    def is_of(self, other: ReturnType) -> bool:
        """Return True if both belong to one function, which may have been created again from the same code."""
        return self is other or _code_of(self._function) == _code_of(other._function)

    def codec(self, codec: Codec) -> Codec:
        """Return the codec for the function's result; raise `ConfigurationError` if `codec` cannot carry it."""
        if not is_typed(codec):
            return codec
        last = self._last
        if last is None or last[0] is not codec:
            last = self._last = codec, self._newly_bound(codec)
        return last[1]

    def _newly_bound(self, codec: Codec) -> Codec:
        if self._annotation is None:
            self._annotation = annotation_of(self._function, "return")
        return _bound(codec, self._annotation, f"the result of {_shown(self._function)}")


class BodyType(ReturnType):
    """The type of the value of a function without arguments, which is written at the call of a step.

    It does not refer to the function, whose variables may refer to the context: the run would keep them alive.

    Args:
        function: The function.
        annotation: The type; None for the return annotation of the function.
        is_typed: Whether a typed codec will use the type.
    """

    __slots__ = ("_name",)

    def __init__(self, function: Callable[..., object], annotation: object, *, is_typed: bool) -> None:
        bare = _bare(function)
        self._name = f"{getattr(bare, '__module__', '?')}.{_shown(bare)}"
        super().__init__(getattr(bare, "__code__", cast(Any, self._name)))
        if is_typed:
            given = annotation_of(function, "return") if annotation is None else annotation
            with suppress(TypeError):  # not hashable
                given = _first_equal(given, str(given))
            self._annotation = given

    def __str__(self) -> str:
        return self._name


@lru_cache(maxsize=1024)
def _first_equal(annotation: Any, _text: str) -> Any:
    """Return the first annotation that was equal to this one: a codec keeps its work for each annotation object.

    Equal unions may have different texts, as their order may matter.
    """
    return annotation


def _code_of(function: Callable[..., object]) -> object:
    return getattr(inspect.unwrap(function), "__code__", function)


def input_codec(codec: Codec, function: Callable[..., object], count: int, names: tuple[str, ...]) -> Codec:
    """Return the codec for the input of a function, ``{"args": ..., "kwargs": ...}``.

    The input has `count` positional arguments, and the keyword arguments `names`. Raises `ConfigurationError` if
    `codec` cannot carry an annotated type.
    """
    if not is_typed(codec):
        return codec
    return _bound(codec, _input_type(function, count, names), f"the arguments of {_shown(function)}")


_BATCHED = "__pgqrs_batched__"


def mark_batched(function: Callable[..., object]) -> None:
    """Mark a function as that of the submissions of batches, whose annotations are those of a batch.

    The parameter and the result of the submission are then elements of the lists that the annotations name.
    """
    setattr(function, _BATCHED, True)


def _element_of(annotation: Any, what: str) -> Any:
    """Return the type of the elements of a list; `what` names the list."""
    if any(annotation is each for each in (Any, None, type(None))):
        return annotation
    if any(annotation is each for each in (list, tuple, _SEQUENCE)):
        return Any
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _element_of(inner[0], what)
    if get_origin(annotation) in {list, _SEQUENCE} or (get_origin(annotation) is tuple and inner[1:] == (...,)):
        return inner[0]
    raise ConfigurationError(
        f"{what} must be annotated as a list, got {annotation!r}: its elements are submissions."
    )


def annotation_of(function: Callable[..., object], name: str) -> Any:
    """Return the annotation of a parameter, or of the ``"return"``, of a function; `Any` if it has none.

    `NoReturn` becomes `Any` too. An `Iterable` or a `Collection` becomes a `Sequence`, because it names no type to
    build from JSON. Names are looked up in the function's module, and among the variables of the enclosing
    function that the function's body uses. Raises `ConfigurationError` for an undefined name.
    """
    bare = _bare(function)
    given = getattr(bare, "__annotations__", {}).get(name, Any)
    source = inspect.unwrap(bare)
    holder = SimpleNamespace(__annotations__={name: given}, __type_params__=getattr(source, "__type_params__", ()))
    try:
        found = get_type_hints(holder, getattr(source, "__globals__", {}), _around(source), include_extras=True)
    except Exception as error:
        raise ConfigurationError(
            f"the annotation {given!r} of {_shown(function)} cannot be looked up: {error}. Define or import its "
            "names at the top of the module, not below `if TYPE_CHECKING`."
        ) from error
    made = _made(found[name])
    return _element_of(made, f"{name!r} of {_shown(function)}") if hasattr(function, _BATCHED) else made


def _made(annotation: Any) -> Any:
    """Return the annotation with each type that no value can be built for replaced."""
    if annotation is NoReturn or annotation is Never:
        return Any
    origin, inner = get_origin(annotation), get_args(annotation)
    if _has_iterable([annotation]):
        return _SEQUENCE[inner] if inner else Sequence
    return _united(map(_made, inner)) if origin in _UNIONS and _has_iterable(inner) else annotation


def _united(members: Iterable[Any]) -> Any:
    """Return a union with its members in order: `typing.Union` may return an equal union in another order."""
    united, *others = members
    for each in others:
        united |= each
    return united


def _has_iterable(annotations: Iterable[Any]) -> bool:
    return any(each in _ITERABLES or get_origin(each) in _ITERABLES for each in annotations)


@lru_cache(maxsize=1024)
def _input_type(function: Callable[..., object], count: int, names: tuple[str, ...]) -> Any:
    """Return the type of an input; the cache returns the same object again while the type is in use."""
    positional = tuple(_positional(function, index) for index in range(count))
    named = _typed_dict("kwargs", {name: _named(function, name) for name in names})
    return _typed_dict("input", {"args": _TUPLE[positional], "kwargs": named})


def _positional(function: Callable[..., object], index: int) -> Any:
    """Return the annotation of the positional argument at an index, counted after the context."""
    parameters = _parameters(function)[1:]
    if index < len(parameters) and parameters[index].kind in {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }:
        return annotation_of(function, parameters[index].name)
    rest = next((each for each in _parameters(function) if each.kind == each.VAR_POSITIONAL), None)
    found = Any if rest is None else annotation_of(function, rest.name)
    return Any if get_origin(found) in _UNPACKS else found


def _named(function: Callable[..., object], name: str) -> Any:
    """Return the annotation of the keyword argument of a name."""
    parameters = _parameters(function)
    by_name = {each.name for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}}
    if name in by_name:
        return annotation_of(function, name)
    rest = next((each for each in parameters if each.kind == each.VAR_KEYWORD), None)
    found = Any if rest is None else annotation_of(function, rest.name)
    if get_origin(found) in _UNPACKS:
        return get_type_hints(get_args(found)[0], include_extras=True).get(name, Any)
    return found


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _bare(function: Any) -> Any:
    """Return the function inside a partial, or the `__call__` method of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__annotations__") else type(function).__call__


def _around(function: Any) -> dict[str, Any]:
    """Return the variables of the enclosing function that a function's body uses."""
    found: dict[str, Any] = {}
    names: tuple[str, ...] = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


def _bound(codec: Codec, annotation: Any, what: str) -> Codec:
    try:
        return codec_for(codec, annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what} cannot be recorded: {error}") from error


def _shown(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
