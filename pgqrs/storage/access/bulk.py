"""Changes of many workflows at once: the actions of bulk operations; see `pgqrs.storage.selection.bulk`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from pgqrs.errors import KeyTakenError, RewindRefusedError, StepNotFoundError, UniqueTakenError
from pgqrs.storage.access.operations import Access
from pgqrs.storage.queries import workflows
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.workflows import WorkflowRepository, messages_with_key
from pgqrs.storage.rewinds.repository import RewindRepository
from pgqrs.storage.selection.bulk import Outcomes, outcomes_of
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import text_of_array
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.messages import OVER, SentMessage, unreadable
from pgqrs.storage.writes.registry import CALLER_SEND
from pgqrs.types import SagaState, WorkflowStatus

HAVE_KEY = "have released their key or unique value, which another workflow has"

ARE_LIVE = "have not ended"

MAX_REWOUND = 100
"""Maximum workflows that one transaction rewinds."""

ARE_BATCHES = "are batches that have ended; their submissions can be resumed"

HAVE_MESSAGE = "have a message with this key already"

USE_ANOTHER_CODEC = "are written with another codec than the message"


class BulkCancel:
    """Cancels workflows, as `WorkflowOperations.cancel` does one."""

    def __init__(self, access: Access, *, interrupt: bool) -> None:
        self._access = access
        self._interrupt = interrupt

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that a cancellation would have now."""
        return outcomes_of(await _states(self._access, ids), self._reason)

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Cancel workflows without a run, and request the cancellations of the runs."""
        rows = await self._access.run(partial(_cancel, ids=ids, interrupt=self._interrupt))
        runs: dict[UUID, list[int]] = defaultdict(list)
        for row in rows:
            if row.status == WorkflowStatus.RUNNING and not _unwinds(row):
                runs[row.executor].append(row.id)
        for executor_id, own in runs.items():
            await self._stop(own, executor_id)
        return outcomes_of(rows, self._reason)

    async def _stop(self, ids: Sequence[int], executor_id: UUID) -> None:
        """Have an executor hear the requests, or cancel its workflows if it is dead."""
        if executor_id == ABANDONED or await self._access.release_if_dead(ids, executor_id):
            await self._access.run(partial(_execute, statement=workflows.cancel_released_many, ids=ids))
        else:
            await self._access.request_cancel(ids, executor_id, interrupt=self._interrupt)

    def _reason(self, row: Any) -> str | None:
        """Return the reason to leave a workflow with the state from before, None if it is changed."""
        if row.status in OVER:
            return f"have ended as {row.status}"
        if _unwinds(row):
            return "are to end already, once their sagas are undone"
        asked = row.cancel_interrupts
        if row.status == WorkflowStatus.RUNNING and asked is not None and (asked or not self._interrupt):
            return "are to be cancelled already"
        return None


class BulkResume:
    """Makes workflows that have failed or were cancelled ready again, as `WorkflowOperations.resume` does one."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that a resumption would have now, if no other workflow has the keys."""
        return outcomes_of(await _states(self._access, ids), _reason_to_rest)

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Make workflows ready to run again."""
        return await self._access.run(partial(_resume, ids=ids), atomic=True)


class BulkRewind:
    """Rewinds workflows that have ended to the time before a step, as `WorkflowOperations.rewind` does one.

    Each rewind takes several statements, so the workflows of a transaction are fewer than those of a chunk.
    """

    def __init__(self, access: Access, *, before: str) -> None:
        self._access = access
        self._before = before
        self._tokens: dict[int, int] = defaultdict(new_token)

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that a rewind would have now, if no other workflow has the keys."""
        return await self._access.run(partial(self._look, ids=ids))

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Set the later steps aside, and make the workflows ready to run again."""
        outcomes: dict[int, str | None] = {}
        for first in range(0, len(ids), MAX_REWOUND):
            part = ids[first : first + MAX_REWOUND]
            outcomes |= await self._access.run(partial(self._change, ids=part), atomic=True)
        return outcomes

    async def _look(self, connection: Connection, *, ids: Sequence[int]) -> dict[int, str | None]:
        rows: Any = (await connection.execute(workflows.states_of_many(), _of(ids))).all()
        rewinds = RewindRepository(connection)
        return {row.id: _reason_not_to_rewind(row) or await self._problem(rewinds, row.id) for row in rows}

    async def _problem(self, rewinds: RewindRepository, workflow_id: int) -> str | None:
        """Return the reason why a workflow cannot go back to the time before the step."""
        try:
            await rewinds.check_step(workflow_id, self._before)
        except StepNotFoundError:
            return f"have recorded no step {self._before!r}"
        except RewindRefusedError:
            return "have a step that would stay, although a saga has undone it, or the step is one of a saga"
        return None

    async def _change(self, connection: Connection, *, ids: Sequence[int]) -> dict[int, str | None]:
        rows: Any = (await connection.execute(workflows.lock_many(), _of(ids))).all()
        rewinds = RewindRepository(connection)
        outcomes: dict[int, str | None] = {}
        for row in rows:
            reason = None
            if not await rewinds.is_done(row.id, self._tokens[row.id]):
                reason = _reason_not_to_rewind(row) or await self._problem(rewinds, row.id)
                if reason is None:
                    reason = await self._rewind(rewinds, row.id)
            outcomes[row.id] = reason
        return outcomes

    async def _rewind(self, rewinds: RewindRepository, workflow_id: int) -> str | None:
        try:
            await rewinds.rewind(workflow_id, self._before, self._tokens[workflow_id])
        except (KeyTakenError, UniqueTakenError):
            return HAVE_KEY
        return None


class BulkSend:
    """Sends a message to workflows, as `WorkflowOperations.send` does to one.

    `message_for` returns the message to a workflow; the messages have one `key`.
    """

    def __init__(self, access: Access, message_for: Callable[[int], SentMessage]) -> None:
        self._access = access
        self._message_for = message_for

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that the sending would have now."""
        return await self._access.run(partial(self._look, messages=self._messages(ids)))

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Send the messages to the workflows that have not got them."""
        return await self._access.run(partial(self._send, messages=self._messages(ids)))

    def _messages(self, ids: Sequence[int]) -> dict[int, SentMessage]:
        return {each: self._message_for(each) for each in ids}

    async def _look(self, connection: Connection, messages: dict[int, SentMessage]) -> dict[int, str | None]:
        rows: Any = await connection.execute(workflows.states_of_many(), _of(messages))
        asked = {"addresses": [each.address for each in messages.values()], "keys": _keys(messages)}
        there = set(await connection.scalars(messages_with_key(), asked))
        return {row.id: _reason_not_to_send(row, messages[row.id], is_there=row.id in there) for row in rows}

    async def _send(self, connection: Connection, messages: dict[int, SentMessage]) -> Outcomes:
        outcomes = await self._look(connection, messages)
        new = [messages[each] for each, reason in outcomes.items() if reason is None]
        if not new:
            return outcomes
        sent = set(await connection.scalars(CALLER_SEND.sent_many(), CALLER_SEND.arrays(new)))
        ended = {each.workflow_id: each for each in new if each.workflow_id not in sent}
        return {**outcomes, **(await self._look(connection, ended) if ended else {})}


def _keys(messages: dict[int, SentMessage]) -> list[str]:
    return list({each.key for each in messages.values()})


def _of(ids: Any) -> dict[str, str]:
    return {"workflows": text_of_array(ids)}


async def _execute(connection: Connection, statement: Callable[[], Any], ids: Sequence[int]) -> None:
    await connection.execute(statement(), _of(ids))


async def _states(access: Access, ids: Sequence[int]) -> Sequence[Any]:
    async def read(connection: Connection) -> Sequence[Any]:
        return (await connection.execute(workflows.states_of_many(), _of(ids))).all()

    return await access.run(read)


async def _cancel(connection: Connection, *, ids: Sequence[int], interrupt: bool) -> Sequence[Any]:
    """Cancel workflows or ask for it, and return their states from before."""
    values = {**_of(ids), "interrupt": interrupt}
    rows: Sequence[Any] = (await connection.execute(workflows.cancel_many(), values)).all()
    if parked := [row.id for row in rows if row.status == WorkflowStatus.WAITING]:
        # A run that has parked after the snapshot of the statement has left waits that the statement does not see.
        await connection.execute(workflows.drop_left_waits_of_many(), _of(parked))
    return rows


async def _resume(connection: Connection, *, ids: Sequence[int]) -> Outcomes:
    """Resume workflows; the second statement sees the errors that were recorded before the first has locked."""
    rows: Sequence[Any] = (await connection.execute(workflows.lock_many(), _of(ids))).all()
    outcomes = dict(outcomes_of(rows, _reason_to_rest))
    with_key = [row.id for row in rows if outcomes[row.id] is None and _may_have_lost_key(row)]
    others = [each for each, reason in outcomes.items() if reason is None and each not in {*with_key}]
    if others:
        await connection.execute(workflows.resume_many(), _of(others))
    for each in with_key:
        try:
            again = WorkflowRepository(connection)
            await again.run_again(workflows.resume(), {"workflow": each}, may_lack_key=True)
        except (KeyTakenError, UniqueTakenError):
            outcomes[each] = HAVE_KEY
    return outcomes


def _may_have_lost_key(row: Any) -> bool:
    return row.releases_key or row.unique_value is not None


def _reason_to_rest(row: Any) -> str | None:
    """Return the reason why a workflow is not resumed, None if it is."""
    if row.status not in OVER:
        return ARE_LIVE  # its run goes on: a second resumption must not fence the run of the first
    if row.status == WorkflowStatus.SUCCESS:
        return "have succeeded"
    return ARE_BATCHES if row.batch_id == row.id else None


def _reason_not_to_rewind(row: Any) -> str | None:
    """Return the reason why a workflow is not rewound, None if it is."""
    if row.status not in OVER:
        return ARE_LIVE  # a second call must not rewind the workflows of the first once more
    return ARE_BATCHES if row.batch_id == row.id else None


def _reason_not_to_send(row: Any, message: SentMessage, *, is_there: bool) -> str | None:
    if is_there:
        return HAVE_MESSAGE
    if row.status in OVER:
        return f"have ended as {row.status}"
    return None if unreadable(message, row.codec) is None else USE_ANOTHER_CODEC


def _unwinds(row: Any) -> bool:
    """Return whether a workflow is about to end once its sagas are undone."""
    return row.saga_state not in {None, SagaState.OPEN}
