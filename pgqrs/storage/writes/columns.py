"""The columns of a record type, and the binds of its statement, derived from the annotations of its fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import cached_property
from operator import itemgetter
from time import monotonic
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Boolean, Double, Uuid, bindparam, column
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.models import Text
from pgqrs.storage.sql.expressions import array_of, text_of_array, unnest

Arrays: TypeAlias = dict[str, list[Any] | str | None]

R = TypeVar("R", bound=tuple[Any, ...])

_TYPES: dict[Any, TypeEngine[Any]] = {
    int: BigInteger(),
    str: Text(),
    float: Double(),
    bool: Boolean(),
    UUID: Uuid(),
}

_TEXT = Text()

_FENCE = ("workflow_id", "claim")
"""The columns by which a statement finds and fences a workflow; they come first."""


class SecondsSince(NamedTuple):
    """The annotation of a field that has a monotonic time.

    The field is sent as `column`, which has the seconds from this time to the encoding of the statement. The
    seconds are not known earlier: a record may wait in the journal, and may be sent again.
    """

    column: str


class RecordColumns(Generic[R]):
    """Records as the rows of an `unnest`, with one array for each column; a single record as plain values.

    Each field of the record is a column of the field's name, unless it is `unsent`. `name` is the prefix of the
    binds and of the name of the rows.
    """

    name: str
    record: type[R]
    """The type of the records, a `NamedTuple`."""
    unsent: ClassVar[frozenset[str]] = frozenset()
    """The fields that are no columns."""

    @cached_property
    def columns(self) -> dict[str, TypeEngine[Any]]:
        """The types of the columns by name."""
        return {column: _column_type(name, hint) for column, (name, hint) in self._sent.items()}

    @cached_property
    def _sent(self) -> dict[str, tuple[str, Any]]:
        """The name and the annotation of the field of each column."""
        hints = get_type_hints(self.record, include_extras=True)
        names = [*filter(hints.__contains__, _FENCE), *(name for name in hints if name not in _FENCE)]
        sent = {name: hints[name] for name in names if name not in self.unsent}
        return {_since(hint) or name: (name, hint) for name, hint in sent.items()}

    @cached_property
    def places(self) -> dict[str, int]:
        """The index in a record of the value of each bind."""
        fields = list(get_type_hints(self.record))
        return {f"{self.name}_{column}": fields.index(name) for column, (name, _) in self._sent.items()}

    @cached_property
    def _times(self) -> frozenset[str]:
        """The binds of the fields with monotonic times."""
        return frozenset(f"{self.name}_{column}" for column, (_, hint) in self._sent.items() if _since(hint))

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array for each column, with the records in order."""
        fields = list(zip(*records, strict=True))
        now = monotonic()
        return {
            bind: [now - each for each in fields[place]] if bind in self._times else _array(fields[place])
            for bind, place in self.places.items()
        }

    def values(self, record: R) -> dict[str, Any]:
        """Return the binds of a single record."""
        binds = list(self.places)
        return dict(zip(binds, self.picker(binds)(record), strict=True))

    def picker(self, binds: Sequence[str]) -> Callable[[R], Sequence[Any]]:
        """Return a function that takes the values of these binds, two at least, out of a single record."""
        pick: Callable[[R], Sequence[Any]] = itemgetter(*(self.places[bind] for bind in binds))
        since = [number for number, bind in enumerate(binds) if bind in self._times]
        if not since:
            return pick

        def pick_at_once(record: R) -> Sequence[Any]:
            values = [*pick(record)]
            now = monotonic()
            for number in since:
                values[number] = now - values[number]
            return values

        return pick_at_once

    def plain(self) -> Any:
        """Return the values of a single record, each as an attribute."""
        binds = {key: bindparam(f"{self.name}_{key}", type_=type_) for key, type_ in self.columns.items()}
        return SimpleNamespace(**binds)

    def rows(self, *, ordinality: str | None = None) -> Any:
        """Return the records as a source to select from, with their numbers as a column named `ordinality`."""
        binds = [self._array_bind(f"{self.name}_{key}", type_) for key, type_ in self.columns.items()]
        named = [column(key, type_) for key, type_ in self.columns.items()]
        rows = unnest(*binds).table_valued(*named, with_ordinality=ordinality)
        return rows.render_derived(name=f"{self.name}_rows")

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        return bindparam(name, type_=ARRAY(type_))


class CallerColumns(RecordColumns[R]):
    """Rows for the caller's session: arrays other than text arrays are passed as text; see `array_of`."""

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array for each column, or the text of the array."""
        # Of the binds of further writes there is no type here: they have their form already.
        types = {f"{self.name}_{column}": type_ for column, type_ in self.columns.items()}
        arrays = super().arrays(records).items()
        return {
            bind: each if isinstance(types.get(bind, _TEXT), Text) else _as_text(each) for bind, each in arrays
        }

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        if isinstance(type_, Text):
            return super()._array_bind(name, type_)
        return array_of(bindparam(name, type_=Text()), type_)


def _since(hint: Any) -> str | None:
    """Return the column of a field with a monotonic time, None for any other field."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark.column for mark in marks if isinstance(mark, SecondsSince)), None)


def _column_type(name: str, hint: Any) -> TypeEngine[Any]:
    """Return the type of the column for a field's annotation, which may be optional."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    (kind, *others) = (each for each in kinds if each is not NoneType)
    if others or not (kind in _TYPES or (isinstance(kind, type) and issubclass(kind, Enum))):
        raise TypeError(f"the field {name!r} has no column type for {hint}: list it in `unsent`.")
    return _TYPES.get(kind) or Text()


def _as_text(array: Any) -> Any:
    return None if array is None else text_of_array(array)


def _array(column: tuple[Any, ...]) -> list[Any] | None:
    """Return a column as an array; None if all values are None, which saves the encoding: `unnest` fills it up."""
    return None if column[0] is None and column.count(None) == len(column) else list(column)
