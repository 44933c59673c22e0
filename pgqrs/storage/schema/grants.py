"""SQL for the rights of roles on the tables: all rights of a worker, and fewer for the other kinds of roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

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


class RoleKind(StrEnum):
    """The kind of a role, by the calls that it makes."""

    WORKER = "worker"
    PRODUCER = "producer"
    OPERATOR = "operator"
    VIEWER = "viewer"


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


# It writes no outcome of a step, and claims nothing.
_OF_OPERATOR: Mapping[str, str] = {
    Workflow.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    # A resumed workflow waits again for children that have failed, and executes failed steps again.
    Step.__tablename__: "SELECT, DELETE"
    ", UPDATE (status, output, address, completed_at, retry_at, reopened, failures)",
    Executor.__tablename__: "SELECT",
    Message.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Wait.__tablename__: "SELECT, DELETE",
    Event.__tablename__: "SELECT, INSERT, DELETE",
    Schedule.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    Queue.__tablename__: "SELECT, INSERT, UPDATE, DELETE",
    StartRate.__tablename__: "SELECT, DELETE",
    Throttle.__tablename__: "SELECT, DELETE",
    State.__tablename__: "SELECT, DELETE",
    Attributes.__tablename__: "SELECT, INSERT, DELETE",
    ServingWorker.__tablename__: "SELECT",
    Retention.__tablename__: "SELECT, INSERT, UPDATE",
    ArchivedWorkflow.__tablename__: "SELECT",
    ArchiveMonth.__tablename__: "SELECT",
    Rewind.__tablename__: "SELECT, INSERT, DELETE",
    SetAsideStep.__tablename__: "SELECT, INSERT, DELETE",
    VERSION_TABLE: "SELECT",
}

_OF_VIEWER: Mapping[str, str] = dict.fromkeys(_OF_WORKER, "SELECT")

_RIGHTS: Mapping[RoleKind, Mapping[str, str]] = {
    RoleKind.WORKER: _OF_WORKER,
    RoleKind.PRODUCER: _OF_PRODUCER,
    RoleKind.OPERATOR: _OF_OPERATOR,
    RoleKind.VIEWER: _OF_VIEWER,
}


def rights_of_worker() -> list[tuple[str, str]]:
    """Return the rights of a worker on the tables, each as the name of a table and a privilege."""
    return [(table, each) for table, rights in _OF_WORKER.items() for each in rights.split(", ")]


def grants(schema: str, roles: Iterable[tuple[RoleKind, str]]) -> str:
    """Return the SQL that grants roles their rights on the tables in `schema`.

    Args:
        schema: Schema of the tables, which must be installed before the SQL runs.
        roles: The kind and the name of each role. A worker enqueues, runs, cancels, resumes and reads workflows.
            A producer enqueues and reads them. An operator reads everything, and acts on workflows, queues and
            schedules without running a step. A viewer reads everything.

    Returns:
        GRANT statements, one per line.

    Raises:
        ConfigurationError: If the schema name or a role name is invalid.
    """
    check_schema(schema)
    return "\n".join(each for kind, role in roles for each in _granted(schema, kind, role))


def _granted(schema: str, kind: RoleKind, role: str) -> Iterator[str]:
    check_role(role)
    own, to = _quoted(schema), _quoted(role)
    yield f"GRANT USAGE ON SCHEMA {own} TO {to};"
    if kind is not RoleKind.VIEWER:
        for sequence in _SEQUENCES:
            yield f"GRANT USAGE ON SEQUENCE {own}.{sequence} TO {to};"
    for table, some in _RIGHTS[kind].items():
        yield f"GRANT {some} ON {own}.{table} TO {to};"
    if kind is RoleKind.WORKER:
        functions = ", ".join(f"{own}.{each}" for each in _FUNCTIONS)
        yield f"GRANT EXECUTE ON FUNCTION {functions} TO {to};"


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
