"""SQL for the rights of roles on the tables: all rights of a worker, and fewer for a producer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pgqrs.models import (
    ArchivedWorkflow,
    ArchiveMonth,
    Attributes,
    Event,
    Executor,
    Message,
    Queue,
    Retention,
    Rewind,
    Schedule,
    ServingWorker,
    SetAsideStep,
    StartRate,
    State,
    Step,
    Throttle,
    Wait,
    Workflow,
)
from pgqrs.storage.schema.migrate import VERSION_TABLE
from pgqrs.validation import check_role, check_schema

_SEQUENCES = ("pgqrs_workflows_id_seq", "pgqrs_positions")

_FUNCTIONS = (
    "pgqrs_running(text)",
    "pgqrs_running(text, text)",
    "pgqrs_free_at(text, text)",
    "pgqrs_holding(text)",
    "pgqrs_holding(text, text)",
    "pgqrs_next(text, text)",
)

_OF_WORKER: Mapping[str, str] = {
    Workflow.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Step.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Executor.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Message.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Wait.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Event.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Schedule.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Queue.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    StartRate.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Throttle.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    State.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Attributes.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    ServingWorker.__tablename__: "SELECT, INSERT, DELETE",
    Retention.__tablename__: "SELECT, INSERT, UPDATE",
    ArchivedWorkflow.__tablename__: "SELECT, INSERT",
    ArchiveMonth.__tablename__: "SELECT, INSERT, DELETE",
    Rewind.__tablename__: "SELECT, INSERT, DELETE",
    SetAsideStep.__tablename__: "SELECT, INSERT, DELETE",
    VERSION_TABLE: "SELECT",
}

_OF_PRODUCER: Mapping[str, str] = {
    Workflow.__tablename__: "SELECT, INSERT",
    Step.__tablename__: "SELECT",  # read if a key is taken already
    Event.__tablename__: "SELECT",
    Schedule.__tablename__: "SELECT",
    State.__tablename__: "SELECT",
    Attributes.__tablename__: "SELECT, INSERT",
    ArchivedWorkflow.__tablename__: "SELECT",  # the result of a workflow that was deleted
    Message.__tablename__: "SELECT, INSERT, UPDATE (key)",  # to itself, if the key is taken already
    VERSION_TABLE: "SELECT",
}


def rights_of_worker() -> list[tuple[str, str]]:
    """Return the rights of a worker on the tables, each as the name of a table and a privilege."""
    return [(table, each) for table, rights in _OF_WORKER.items() for each in rights.split(", ")]


def grants(schema: str, *, workers: Iterable[str] = (), producers: Iterable[str] = ()) -> str:
    """Return the SQL that grants roles their rights on the tables in `schema`.

    Args:
        schema: Schema of the tables, which must be installed before the SQL runs.
        workers: Roles that enqueue, run, cancel, resume and read workflows.
        producers: Roles that enqueue and read workflows.

    Returns:
        GRANT statements, one per line.

    Raises:
        ConfigurationError: If the schema name or a role name is invalid.
    """
    check_schema(schema)
    statements = [
        each
        for role in workers
        for each in (*_granted(schema, role, _OF_WORKER), _granted_functions(schema, role))
    ]
    statements += [each for role in producers for each in _granted(schema, role, _OF_PRODUCER)]
    return "\n".join(statements)


def _granted(schema: str, role: str, rights: Mapping[str, str]) -> Iterator[str]:
    check_role(role)
    own, to = _quoted(schema), _quoted(role)
    yield f"GRANT USAGE ON SCHEMA {own} TO {to};"
    for sequence in _SEQUENCES:
        yield f"GRANT USAGE ON SEQUENCE {own}.{sequence} TO {to};"
    for table, some in rights.items():
        yield f"GRANT {some} ON {own}.{table} TO {to};"


def _granted_functions(schema: str, role: str) -> str:
    """Return the statement that grants a worker the functions of a claim."""
    functions = ", ".join(f"{_quoted(schema)}.{each}" for each in _FUNCTIONS)
    return f"GRANT EXECUTE ON FUNCTION {functions} TO {_quoted(role)};"


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
