"""The statements that pgqrs sends, by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sqlalchemy import ClauseElement

from pgqrs.storage.batches import statements as batches
from pgqrs.storage.diagnosis import facts
from pgqrs.storage.diagnosis import workers as serving
from pgqrs.storage.limits import claims as limits
from pgqrs.storage.limits import settings
from pgqrs.storage.queries import (
    children,
    claims,
    delivery,
    executors,
    invariants,
    maintenance,
    schedules,
    server,
    steps,
    updates,
    workflows,
)
from pgqrs.storage.retention import documents as retention_documents
from pgqrs.storage.retention import families as retention_families
from pgqrs.storage.retention import passes as retention_passes
from pgqrs.storage.retention import purge as retention_purge
from pgqrs.storage.retention import removal
from pgqrs.storage.retention import settings as retention_settings
from pgqrs.storage.rewinds import statements as rewinds
from pgqrs.storage.schema import migrate
from pgqrs.storage.selection import activity
from pgqrs.storage.uniqueness import statements as uniqueness
from pgqrs.storage.writes import registry as writes
from pgqrs.storage.writes.registry import OPERATIONS
from pgqrs.storage.writes.states import CALLER_CHANGE_STATES
from pgqrs.testing import sql as testbed


def statements() -> Iterator[tuple[str, Any]]:
    """Return each statement with its name."""
    for kind in OPERATIONS.values():
        yield f"{kind.name}", kind.statement()
        if kind.name not in {
            "outgoing",
            "sending",
            "startkeyed",
            "startmany",
            "starttraced",
            "stateful",
            "take",
        }:  # the others are sent for a single record, too
            yield f"single {kind.name}", kind.statement(single=True)
    companions = {companion.name for kind in OPERATIONS.values() for companion in kind.companions}
    names = sorted({kind.name for kind in OPERATIONS.values()} | companions)
    yield "a batch of all kinds", OPERATIONS.combine(tuple(names))
    yield "in_transaction", writes.RECORD_LAST_STEP.in_transaction()
    yield "current state", writes.CURRENT_STATE.statement()
    yield "current state in the caller's session", writes.CALLER_CURRENT_STATE.statement()
    yield "change states in a transactional step", CALLER_CHANGE_STATES.statement()
    yield "send many", writes.CALLER_SEND.sent_many()
    for kind in writes.CALLER_ENQUEUE.values():
        yield f"{kind.name} in the caller's session", kind.statement()
        yield f"{kind.name} with attributes in the caller's session", kind.with_attributes()
    for sentence, query in invariants.invariants():
        yield sentence, query.limit(1)
    packages = {batches: "batches", rewinds: "rewinds", uniqueness: "uniqueness"}
    for module in (
        batches,
        children,
        claims,
        delivery,
        facts,
        serving,
        limits,
        settings,
        maintenance,
        executors,
        rewinds,
        schedules,
        server,
        steps,
        uniqueness,
        updates,
        workflows,
        migrate,
        activity,
        testbed,
        removal,
        retention_passes,
        retention_settings,
        retention_documents,
        retention_families,
        retention_purge,
    ):
        for name, value in vars(module).items():
            own = inspect.isroutine(value) and value.__module__ == module.__name__
            made = value() if own and not inspect.signature(value).parameters else value
            if isinstance(made, ClauseElement):
                folder = "limits " if module in (limits, settings) else ""
                folder = "retention " if "retention" in module.__name__ else folder
                own_name = packages.get(module, module.__name__.rpartition(".")[2])
                yield f"{folder}{own_name}.{name}", made
