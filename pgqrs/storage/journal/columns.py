"""The columns of a record type, and the binds of its statement, derived from the annotations of its fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import cached_property
from operator import itemgetter
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Boolean, Double, Uuid, bindparam, column
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.models import Text
from pgqrs.storage.queries.expressions import array_of, text_of_array, unnest

Arrays: TypeAlias = dict[str, list[Any] | str | None]

R = TypeVar("R", bound=tuple[Any, ...])

_TYPES: dict[Any, TypeEngine[Any]] = {
    int: BigInteger(),
    str: Text(),
    float: Double(),
    bool: Boolean(),
    UUID: Uuid(),
}

_FENCE = ("workflow_id", "claim")
"""The columns by which a statement finds and fences a workflow; they come first."""


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
        hints = get_type_hints(self.record)
        names = [*filter(hints.__contains__, _FENCE), *(name for name in hints if name not in _FENCE)]
        return {name: _column_type(name, hints[name]) for name in names if name not in self.unsent}

    @cached_property
    def places(self) -> dict[str, int]:
        """The index in a record of the value of each bind."""
        fields = list(get_type_hints(self.record))
        return {f"{self.name}_{key}": fields.index(key) for key in self.columns}

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array for each column, with the records in order."""
        fields = list(zip(*records, strict=True))
        return {bind: _array(fields[place]) for bind, place in self.places.items()}

    def values(self, record: R) -> dict[str, Any]:
        """Return the binds of a single record."""
        return {bind: record[place] for bind, place in self.places.items()}

    def picker(self, binds: Sequence[str]) -> Callable[[R], Sequence[Any]]:
        """Return a function that takes the values of these binds, two at least, out of a single record."""
        return itemgetter(*(self.places[bind] for bind in binds))

    def plain(self) -> Any:
        """Return the values of a single record, each as an attribute."""
        binds = {key: bindparam(f"{self.name}_{key}", type_=type_) for key, type_ in self.columns.items()}
        return SimpleNamespace(**binds)

    def rows(self) -> Any:
        """Return the records as a source to select from."""
        binds = [self._array_bind(f"{self.name}_{key}", type_) for key, type_ in self.columns.items()]
        named = [column(key, type_) for key, type_ in self.columns.items()]
        return unnest(*binds).table_valued(*named).render_derived(name=f"{self.name}_rows")

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        return bindparam(name, type_=ARRAY(type_))


class CallerColumns(RecordColumns[R]):
    """Rows for the caller's session: arrays other than text arrays are passed as text; see `array_of`."""

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array for each column, or the text of the array."""
        types = list(self.columns.values())
        arrays = zip(super().arrays(records).items(), types, strict=True)
        return {bind: each if isinstance(type_, Text) else _as_text(each) for (bind, each), type_ in arrays}

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        if isinstance(type_, Text):
            return super()._array_bind(name, type_)
        return array_of(bindparam(name, type_=Text()), type_)


def _column_type(name: str, hint: Any) -> TypeEngine[Any]:
    """Return the type of the column for a field's annotation, which may be optional."""
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
