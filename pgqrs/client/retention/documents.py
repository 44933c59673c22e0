"""The documents of workflows: exported from the tables or the archive, and imported as new workflows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.base import stored_name
from pgqrs.errors import CodecMismatchError, ConfigurationError, WorkflowNotFoundError
from pgqrs.models import Workflow
from pgqrs.storage.access.id_allocator import MAX_ID, check_id
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.records import WorkflowIdentity
from pgqrs.storage.retention.archive import ArchiveRepository
from pgqrs.storage.retention.documents import FORMAT, DocumentRepository, columns_of
from pgqrs.storage.retention.imports import OVER, ROWS, ImportRepository

NEEDED: Mapping[str, frozenset[str]] = {
    "workflow": frozenset({
        "id", "name", "status", "input", "queue", "key", "releases_key", "completed_at", "codec", "token",
        "parent_id", "batch_id",
    }),
    "steps": frozenset({"workflow_id", "step_id", "status", "epoch", "started_at"}),
    "events": frozenset({"workflow_id", "name", "value", "set_at"}),
    "attributes": frozenset({"workflow_id"}),
    "messages": frozenset({"workflow_id", "address", "key", "payload"}),
}  # fmt: skip
"""The fields that each row of a document must have."""

Ids: TypeAlias = Literal["new", "keep"]
"""The ids of imported workflows: new ones, or the ones of the document if they are free."""

Document: TypeAlias = dict[str, Any]
"""The document of a workflow, which `json.dumps` accepts; see `docs/retention.md`."""


class Documents:
    """Exports and imports workflows as documents."""

    def __init__(self, loops: LoopStates, session: SessionOrConnection | None = None) -> None:
        self._loops = loops
        self._session = session

    async def export(self, workflow_id: int) -> Document:
        """Return the document of a workflow, from the tables or from the archive."""
        check_id(workflow_id)
        operations = await (await self._loops.store()).operations_for(self._session)
        texts = await operations.run(lambda connection: DocumentRepository(connection).tree(workflow_id))
        documents = {each["workflow"]["id"]: each | {"children": []} for each in map(json.loads, texts)}
        if workflow_id not in documents:
            archived = await operations.run(lambda connection: ArchiveRepository(connection).document(workflow_id))
            if archived is None:
                raise WorkflowNotFoundError(workflow_id)
            return cast(Document, json.loads(archived) | {"children": []})
        for each in documents.values():
            parent = documents.get(each["workflow"]["parent_id"])
            if parent is not None:
                parent["children"].append(each)
        return cast(Document, documents[workflow_id])

    async def import_(self, document: Mapping[str, Any], *, ids: Ids, live: bool) -> WorkflowHandle[Any]:
        """Write the workflows of a document, and return the handle of the first one."""
        if ids not in {"new", "keep"}:
            raise ConfigurationError(f"`ids` must be 'new' or 'keep', got {ids!r}.")
        documents = list(_checked(document))
        _check_live(documents, ids=ids, live=live)
        self._check_codec(documents)
        state = await self._loops.loop_state()
        sequence = state.store.database.workflow_ids
        operations = await state.store.operations_for(self._session)
        workflow_id = await operations.access.run(
            lambda connection: ImportRepository(connection, sequence).write(documents, keeps_ids=ids == "keep"),
            atomic=True,
        )
        queues = {each["workflow"]["queue"] for each in documents if _is_live(each)}
        for queue in queues - {None}:
            if self._session is None:
                state.notifier.notify(queue, MAX_ID)
        identity = WorkflowIdentity(workflow_id, documents[0]["workflow"]["token"])
        return WorkflowHandle(self._loops, identity, is_there=self._session is None)

    def _check_codec(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Raise `CodecMismatchError` for a live workflow that no worker with this codec could read."""
        own = stored_name(self._loops.codec)
        for each in documents:
            written = each["workflow"]["codec"]
            if _is_live(each) and written != own:
                raise CodecMismatchError(each["workflow"]["id"], written, own)


def _checked(document: object) -> Iterator[Mapping[str, Any]]:
    """Yield the documents of a tree, a parent before its children, without their children."""
    if not isinstance(document, Mapping) or "format" not in document:
        raise ConfigurationError("the document must be one of `Admin.export_workflow`: it has no `format`.")
    given = cast("Mapping[str, Any]", document)
    if given["format"] != FORMAT:
        raise ConfigurationError(
            f"the document has the format {given['format']!r}, and this version of pgqrs reads {FORMAT}. Import "
            "it with the version that has exported it, or a newer one."
        )
    _check_rows("workflow", Workflow, [given.get("workflow")])
    for key, model in ROWS.items():
        _check_rows(key, model, given.get(key, []))
    yield {"workflow": given["workflow"], **{key: given.get(key, []) for key in ROWS}}
    for child in given.get("children", []):
        yield from _checked(child)


def _check_rows(key: str, model: Any, rows: object) -> None:
    """Raise `ConfigurationError` for rows of a document that this version cannot write."""
    if not isinstance(rows, list) or not all(isinstance(each, Mapping) for each in cast("list[object]", rows)):
        raise ConfigurationError(f"`{key}` of the document is not as `Admin.export_workflow` writes it.")
    for each in cast("list[Mapping[str, Any]]", rows):
        # An older version has fewer fields.
        lacking = NEEDED[key].difference(each)
        if other := lacking | set(each).difference(columns_of(model)):
            raise ConfigurationError(
                f"`{key}` of the document {'lacks' if lacking else 'has unknown'} fields: "
                f"{', '.join(sorted(other))}. Import it with the version that has exported it, or a newer one."
            )


def _check_live(documents: Sequence[Mapping[str, Any]], *, ids: Ids, live: bool) -> None:
    """Raise `ConfigurationError` for a document with live workflows that cannot run, or must not."""
    alive = [each["workflow"] for each in documents if _is_live(each)]
    if not alive:
        return
    listed = ", ".join(str(each["id"]) for each in alive[:10])
    if not live:
        raise ConfigurationError(
            f"the document has workflows that have not ended ({listed}), which would run a second time beside the "
            "first. If the first ones are gone, pass `live=True`."
        )
    if ids == "new" and len(documents) > 1:
        raise ConfigurationError(
            "the document has children, whose ids their live parents have recorded: import it with `ids='keep'`."
        )
    if any(each["batch_id"] is not None for each in alive):
        raise ConfigurationError(
            f"the document has a batch, or a submission in one, that has not ended ({listed})."
        )


def _is_live(document: Mapping[str, Any]) -> bool:
    return document["workflow"]["status"] not in OVER
