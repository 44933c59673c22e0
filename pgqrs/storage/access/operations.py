"""The operations on workflows that are not part of a run: create, submit, cancel and resume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeAlias, TypeVar
from uuid import UUID

from pgqrs.errors import RewindRefusedError, WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.storage.access.id_allocator import IdAllocator, check_id
from pgqrs.storage.access.inserts import enqueue_workflows, insert_message
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.server import ServerRepository
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import EndedWorkflow, KeyOwner, WorkflowIdentity, WorkflowName
from pgqrs.storage.rewinds.repository import FoundRewind, RewindRepository
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.uniqueness.records import Placed, UniquePolicy, UniqueSubmission
from pgqrs.storage.uniqueness.submit import UniqueWrites
from pgqrs.storage.writes.creation import AnySubmission, NewWorkflow
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.outbox import EmittedEvent

T = TypeVar("T")

OnTaken: TypeAlias = Callable[[AnySubmission | UniqueSubmission, KeyOwner], object]
"""A function that is called with a submission and the workflow that has its key."""


MessageFor: TypeAlias = Callable[[WorkflowIdentity], SentMessage]
"""A function that returns the record of a message to a workflow."""


def ignore_taken(_submission: AnySubmission | UniqueSubmission, _taken: KeyOwner) -> None:
    """Accept the workflow that has the key of a submission, without a check of the arguments."""


def _identity(new: AnySubmission, found: int | KeyOwner, taken: OnTaken) -> WorkflowIdentity:
    """Return the identity of a written submission, or of the workflow that has its key."""
    if isinstance(found, KeyOwner):
        taken(new, found)
        return WorkflowIdentity(found.workflow_id, found.token)
    return WorkflowIdentity(found, new.token)


class Access(Protocol):
    """The way to the database of `WorkflowOperations`: a store's own connections, or the caller's transaction."""

    async def draw(self, count: int) -> Sequence[int]:
        """Reserve `count` ids, which no other caller receives."""
        ...

    async def insert(self, new: NewWorkflow) -> bool:
        """Write a workflow that no executor runs yet, and return whether its id was free."""
        ...

    async def enqueue(self, new: Sequence[AnySubmission]) -> dict[int, int | KeyOwner]:
        """Write workflows of one name for workers to claim; see `inserts.enqueue_workflows`."""
        ...

    async def send(self, message: SentMessage) -> None:
        """Write a message to a workflow that has not ended."""
        ...

    async def emit(self, event: EmittedEvent) -> bool:
        """Write an event of the schema unless it has a value, and return whether it has this value now."""
        ...

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, atomic: bool = False, lasting: float | None = None
    ) -> T:
        """Do `work` and return its result; `atomic` says that all its statements need one transaction.

        It may last for `lasting` seconds, by default for the `timeout` of an `Admin`.
        """
        ...

    async def release_if_dead(self, workflow_ids: Sequence[int], executor_id: UUID) -> bool:
        """Take runs from their executor if the executor is dead, and return whether it is."""
        ...

    async def request_cancel(self, workflow_ids: Sequence[int], executor_id: UUID, *, interrupt: bool) -> None:
        """Notify the executor of runs that the cancellation of their workflows is requested."""
        ...


class WorkflowOperations:
    """Creates, submits, cancels and resumes workflows through one `access`, with the ids of an event loop.

    `codec` is the name of the codec of the inputs.
    """

    def __init__(self, access: Access, ids: IdAllocator, codec: str | None) -> None:
        self.access = access
        self._ids = ids
        self.codec = codec

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, lasting: float | None = None) -> T:
        """Do other work in the transaction of these operations; it must be safe to do twice."""
        return await self.access.run(work, lasting=lasting)

    async def create(self, name: str, input_text: str) -> WorkflowIdentity:
        """Write a new workflow and return its identity."""
        while True:
            (workflow_id,) = await self.access.draw(1)
            new = NewWorkflow(workflow_id, name, input_text, self.codec, new_token())
            if await self.access.insert(new):
                return WorkflowIdentity(workflow_id, new.token)
            self._ids.forget()

    async def submit(self, new: Sequence[AnySubmission], taken: OnTaken = ignore_taken) -> list[WorkflowIdentity]:
        """Write workflows of one name in one transaction, and return the identities of the results in order.

        The `workflow_id` of a submission is ignored. Of several submissions with one key the first is written. The
        other ones, and every submission whose key was taken before, get the workflow that has the key, and `taken`
        is called with them at the end.
        """
        found: dict[int, int | KeyOwner] = {}
        left = list(new)
        while left:
            drawn = await self.access.draw(len(left))
            numbered = [each._replace(workflow_id=own) for each, own in zip(left, drawn, strict=True)]
            found |= await self.access.enqueue(numbered)
            left = [each for each in left if each.token not in found]
            # Another workflow has the id: a server that lost its last writes has reserved it twice. Or the
            # workflow that had the key has released it since.
            if left:
                self._ids.forget()
        return [_identity(each, found[each.token], taken) for each in new]

    async def submit_unique(
        self,
        new: Sequence[UniqueSubmission],
        policy: UniquePolicy,
        taken: OnTaken = ignore_taken,
        trace: str | None = None,
    ) -> list[Placed]:
        """Write workflows of one name with different unique values, and return the results in order.

        The `workflow_id` of a submission is ignored. The policy decides about a submission whose value another
        workflow holds. A submission whose key was taken before gets the workflow that has the key, and `taken` is
        called with it. New workflows get the `trace` context. Raises `UniqueTakenError`.
        """
        writes = UniqueWrites(policy, taken, trace)
        placed: dict[int, Placed] = {}
        left = list(new)
        while left:
            drawn = await self.access.draw(len(left))
            numbered = [each._replace(workflow_id=own) for each, own in zip(left, drawn, strict=True)]
            write = partial(writes.write, new=numbered)
            is_atomic = policy.needs_transaction or any(each.attributes is not None for each in left)
            placed |= await self.access.run(write, atomic=is_atomic)
            left = [each for each in left if each.token not in placed]
            if left:  # as in `submit`: an id is taken, or a value was given up since
                self._ids.forget()
        for workflow_id, executor_id in writes.stopped.items():
            await self._stop(workflow_id, executor_id, interrupt=False)
        return [placed[each.token] for each in new]

    async def submit_and_send(self, new: AnySubmission, taken: OnTaken, message_for: MessageFor) -> SentMessage:
        """Write a workflow with a key, unless it is there, and a message to it, in one transaction.

        A workflow that has the key and ends before the message is written, and so releases the key, is replaced by
        a new one. Raises the errors of `send`; `taken` is as for `submit`.
        """
        while True:
            (workflow_id,) = await self.access.draw(1)
            numbered = new._replace(workflow_id=workflow_id)

            async def write(connection: Connection, numbered: AnySubmission = numbered) -> SentMessage | None:
                found = (await enqueue_workflows(connection, [numbered])).get(numbered.token)
                if found is None:
                    return None
                to = _identity(numbered, found, taken)
                message = message_for(to)
                try:
                    await insert_message(connection, message)
                except WorkflowFinishedError:
                    owner = await WorkflowRepository(connection).of_key(numbered.name, str(numbered.key))
                    if owner == to:
                        raise
                    return None
                return message

            message = await self.access.run(write, atomic=True)
            if message is not None:
                return message
            self._ids.forget()  # as in `submit`: the id is taken, or the key was released since, by an end

    async def transaction_time(self) -> datetime:
        """Return the time from which the delays of submissions are counted: the beginning of the transaction."""
        return await self.access.run(lambda connection: ServerRepository(connection).transaction_time())

    async def find(self, name: str, key: str) -> WorkflowIdentity:
        """Return the identity of the workflow that has a key; raises `WorkflowNotFoundError`."""
        found = await self.access.run(lambda connection: WorkflowRepository(connection).of_key(name, key))
        if found is None:
            raise WorkflowNotFoundError(0, name=name, key=key)
        return found

    async def send(self, message: SentMessage) -> None:
        """Write a message to a workflow, unless there is a message with its address and its key.

        Raises `WorkflowNotFoundError`, `WorkflowFinishedError`, and `CodecMismatchError` for a workflow with
        another codec than the one that has written the message.
        """
        check_id(message.workflow_id)
        await self.access.send(message)

    async def emit(self, event: EmittedEvent) -> bool:
        """Write an event of the schema unless it has a value, and return whether it has this value now."""
        return await self.access.emit(event)

    async def cancel(self, workflow_id: int, *, interrupt: bool, token: int | None = None) -> EndedWorkflow | None:
        """Cancel a workflow at once, and return its end; or request the cancellation of its run.

        Raises `WorkflowNotFoundError` also if the workflow of the id has another token than `token`.
        """
        check_id(workflow_id)
        cancelled = await self.access.run(
            lambda connection: WorkflowRepository(connection).cancel(workflow_id, interrupt=interrupt, token=token)
        )
        if cancelled.executor is None or await self._stop(workflow_id, cancelled.executor, interrupt=interrupt):
            return cancelled.ended
        return None

    async def _stop(self, workflow_id: int, executor_id: UUID, *, interrupt: bool) -> bool:
        """Cancel a workflow whose run was asked to stop: by its executor, or at once if the executor is dead.

        Returns whether the executor is dead.
        """
        is_dead = executor_id == ABANDONED or await self.access.release_if_dead([workflow_id], executor_id)
        if is_dead:
            await self.access.run(lambda connection: WorkflowRepository(connection).cancel_released(workflow_id))
        else:
            await self.access.request_cancel([workflow_id], executor_id, interrupt=interrupt)
        return is_dead

    async def resume(self, workflow_id: int) -> WorkflowName:
        """Make a workflow runnable again, have its failed steps executed again; return its name and token."""
        check_id(workflow_id)
        return await self.access.run(
            lambda connection: WorkflowRepository(connection).resume(workflow_id), atomic=True
        )

    async def rewind(self, workflow_id: int, before: str) -> FoundRewind:
        """Rewind a workflow to the time before a step; the run of a dead executor is taken from it."""
        check_id(workflow_id)
        token = new_token()
        while True:
            try:
                return await self.access.run(
                    lambda connection: RewindRepository(connection).rewind(workflow_id, before, token), atomic=True
                )
            except RewindRefusedError as refused:
                executor = refused.executor_id
                if executor is None or not await self.access.release_if_dead([workflow_id], executor):
                    raise

    async def rewinds(self, workflow_id: int) -> list[FoundRewind]:
        """Return the rewinds of a workflow, the first one first; raises `WorkflowNotFoundError`."""
        check_id(workflow_id)
        return await self.access.run(lambda connection: RewindRepository(connection).of_workflow(workflow_id))
