"""The filter that keeps an application's own Alembic off the tables of pgqrs.

In the `env.py` of the application::

    from pgqrs.alembic import include_name

    context.configure(..., include_name=include_name)

It is needed where autogenerate looks at the schema that the tables are in: with ``include_schemas=True``, or when
they share the application's schema. `import pgqrs` loads neither this module nor Alembic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

IncludeName: TypeAlias = Callable[[str | None, Any, Any], bool]
"""What Alembic takes for its option `include_name`."""

_PREFIX = "pgqrs_"


def include_name(name: str | None, type_: str, parent_names: object) -> bool:  # noqa: ARG001  # Alembic's signature
    """Tell Alembic's autogenerate to leave out the tables of pgqrs, those of newer versions too.

    They are known by their names, which begin with ``pgqrs_`` in whichever schema: give no table of your own such
    a name. `name`, `type_` and `parent_names` are what Alembic's `context.configure(include_name=...)` describes;
    it returns False for one of these tables and True for all else.
    """
    return type_ != "table" or name is None or not name.startswith(_PREFIX)


def include_name_and(own: IncludeName) -> IncludeName:
    """Return a filter that leaves out the tables of pgqrs and what `own`, the application's filter, leaves out."""

    def include(name: str | None, type_: Any, parent_names: Any) -> bool:
        return include_name(name, type_, parent_names) and own(name, type_, parent_names)

    return include
