"""`WorkflowHandle`: a workflow that others run, as the one who enqueued it sees it."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Protocol, TypeVar, cast

from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, codec_at, open_error
from pgqrs.codecs.failures import load_error
from pgqrs.codecs.records import check_codec, value_context
from pgqrs.engine.scope import calling_runs
from pgqrs.errors import WorkflowCancelledError
from pgqrs.storage.records import WorkflowResult
from pgqrs.types import StepRecord, WorkflowStatus

R_co = TypeVar("R_co", covariant=True)


class HandleHost(Protocol):
    """What a handle needs of the `Admin` that made it."""

    @property
    def codec(self) -> Codec:
        """How values become text."""
        ...

    async def loop_state(self) -> LoopState:
        """Return what the `Admin` has in the running event loop."""
        ...

    async def cancel_workflow(self, workflow_id: int, *, interrupt: bool = False) -> None:
        """Cancel a workflow."""
        ...

    async def list_steps(self, workflow_id: int) -> list[StepRecord]:
        """Return a workflow's steps."""
        ...


def _unread(_text: str) -> None:
    """Stand for a value that nobody asks for."""


class WorkflowHandle(Generic[R_co]):
    """A workflow that was enqueued, wherever it runs: ask how it stands, wait for its result, cancel it.

    Made by `Admin.enqueue` and `Admin.handle`. Any number of them wait together: one statement asks for all.
    `returns` is what the workflow's function is annotated to return, if that is known.
    """

    __slots__ = ("_host", "_id", "_is_there", "_returns")

    def __init__(
        self, host: HandleHost, workflow_id: int, *, is_there: bool, returns: ReturnType | None = None
    ) -> None:
        self._host = host
        self._id = workflow_id
        self._is_there = is_there
        self._returns = returns

    @property
    def id(self) -> int:
        """The workflow's id."""
        return self._id

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self._id}>"

    async def status(self) -> WorkflowStatus:
        """Return where the workflow stands; raises `WorkflowNotFoundError`."""
        return (await (await self._host.loop_state()).store.workflow(self._id, _unread)).status

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait until the workflow has ended, and return what it returned.

        `timeout` bounds the waiting, in seconds; without it the waiting has no end, unless the database stays away
        longer than the `outage_timeout` of the `Admin`: then `DatabaseUnavailableError` is raised. A workflow that
        failed raises its recorded error as a replay would: a `StepFailedError` that is of the original class too.
        Raises `WorkflowCancelledError`; `TimeoutError`, after which the workflow goes on; `WorkflowNotFoundError`
        for one that is not there, or not any more (one of ``options(session=...)`` is there once the transaction
        has committed); `CodecMismatchError` and `SerializationError` for what this `Admin` cannot read.
        """
        return cast(R_co, self._output(await self._ended(timeout)))

    async def cancel(self, *, interrupt: bool = False) -> None:
        """Cancel the workflow; see `Admin.cancel_workflow`."""
        await self._host.cancel_workflow(self._id, interrupt=interrupt)

    async def steps(self) -> list[StepRecord]:
        """Return what is recorded of its steps, in the order in which they were started.

        Raises `WorkflowNotFoundError`.
        """
        return await self._host.list_steps(self._id)

    async def _ended(self, timeout: float | None) -> WorkflowResult:
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                here = await self._host.loop_state()
                if not self._is_there:
                    await here.store.name_of(self._id)
                    self._is_there = True
                with here.waits.counted(calling_runs(here.store.runs)):
                    return await here.results.wait(self._id)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise TimeoutError(f"workflow {self._id} did not end within {timeout} s; it goes on.") from error

    def _output(self, end: WorkflowResult) -> Any:
        if end.status == WorkflowStatus.CANCELLED:
            raise WorkflowCancelledError(self._id)
        check_codec(self._host.codec, self._id, end.codec)
        if end.error is not None:
            with value_context(self._id):
                text = open_error(self._host.codec, end.error, self._id)
            raise load_error(text, workflow_id=self._id, step_id="")
        with value_context(self._id):
            return None if end.output is None else self._codec().decode(end.output)

    def _codec(self) -> Codec:
        codec = self._host.codec
        return codec_at(codec if self._returns is None else self._returns.codec(codec), "output", self._id)
