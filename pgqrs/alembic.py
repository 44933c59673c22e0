"""A filter that excludes the tables of pgqrs from an application's own Alembic.

Use it in the `env.py` of the application::

    from pgqrs.alembic import include_name

    context.configure(..., include_name=include_name)

The filter is needed if autogenerate reads the schema of the tables: with ``include_schemas=True``, or if the
tables are in the application's schema. `import pgqrs` loads neither this module nor Alembic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

IncludeName: TypeAlias = Callable[[str | None, Any, Any], bool]
"""The type of Alembic's option `include_name`."""

_PREFIX = "pgqrs_"


def include_name(name: str | None, type_: str, parent_names: object) -> bool:  # noqa: ARG001  # Alembic's signature
    """Exclude the tables of pgqrs, of newer versions too, from Alembic's autogenerate.

    Every table whose name begins with ``pgqrs_``, in any schema, counts as a table of pgqrs: do not give such a
    name to a table of the application. Alembic calls this function as the option `include_name` of
    `context.configure`.

    Args:
        name: The name of the object; None for the default schema.
        type_: The type of the object, such as ``"table"`` or ``"schema"``.
        parent_names: The names of the object's parents, as Alembic passes them; not used.

    Returns:
        False for a table of pgqrs, True for every other object.
    """
    return type_ != "table" or name is None or not name.startswith(_PREFIX)


def include_name_and(own: IncludeName) -> IncludeName:
    """Combine this filter with the application's own filter.

    Args:
        own: The application's filter, with the signature of Alembic's option `include_name`.

    Returns:
        A filter that excludes the tables of pgqrs and all objects that `own` excludes.
    """

    def include(name: str | None, type_: Any, parent_names: Any) -> bool:
        return include_name(name, type_, parent_names) and own(name, type_, parent_names)

    return include
