"""The rights that roles need on the tables: a worker's, and the fewer of a producer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pgqrs.models import Executor, Step, Workflow
from pgqrs.storage.migrate import VERSION_TABLE
from pgqrs.validation import check_role, check_schema

_SEQUENCE = "pgqrs_workflows_id_seq"

_OF_WORKER: Mapping[str, str] = {
    Workflow.__tablename__: "SELECT, INSERT, UPDATE",
    Step.__tablename__: "SELECT, INSERT, UPDATE",
    Executor.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    VERSION_TABLE: "SELECT",
}

_OF_PRODUCER: Mapping[str, str] = {
    Workflow.__tablename__: "SELECT, INSERT",
    Step.__tablename__: "SELECT",  # read where a key is taken already
    VERSION_TABLE: "SELECT",
}


def grants(schema: str, *, workers: Iterable[str] = (), producers: Iterable[str] = ()) -> str:
    """Return the SQL that gives roles their rights on the tables in `schema`, which must be there.

    Args:
        schema: The schema of the tables.
        workers: Roles that enqueue, run, cancel, resume and look at workflows.
        producers: Roles that enqueue workflows, and look at them.

    Raises:
        ConfigurationError: A name cannot be that of a schema or of a role.
    """
    check_schema(schema)
    statements = [each for role in workers for each in _granted(schema, role, _OF_WORKER)]
    statements += [each for role in producers for each in _granted(schema, role, _OF_PRODUCER)]
    return "\n".join(statements)


def _granted(schema: str, role: str, rights: Mapping[str, str]) -> Iterator[str]:
    check_role(role)
    own, to = _quoted(schema), _quoted(role)
    yield f"GRANT USAGE ON SCHEMA {own} TO {to};"
    yield f"GRANT USAGE ON SEQUENCE {own}.{_SEQUENCE} TO {to};"
    for table, some in rights.items():
        yield f"GRANT {some} ON {own}.{table} TO {to};"


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
