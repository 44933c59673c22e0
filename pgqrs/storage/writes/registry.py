"""The list of the operations, and the statements of batches and of single records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import select, union_all

from pgqrs.models import Step, Workflow
from pgqrs.storage.connections.database import CompiledStatement, Database
from pgqrs.storage.sql.expressions import text_of
from pgqrs.storage.writes.attributes import CallerInsertAttributes
from pgqrs.storage.writes.children import StartChildren, StartKeyedChild, StartTracedChild
from pgqrs.storage.writes.columns import Arrays, CallerColumns, RecordColumns
from pgqrs.storage.writes.continuations import ContinueWorkflow
from pgqrs.storage.writes.creation import (
    CreateAndStart,
    CreateWorkflow,
    EnqueueOperation,
    EnqueuePartitioned,
    EnqueueTraced,
    EnqueueUntilEnd,
    EnqueueWorkflow,
    PartitionedSubmission,
    RepeatCreateAndStart,
    Submission,
    SubmissionUntilEnd,
    TracedSubmission,
)
from pgqrs.storage.writes.messages import SendMessages, SentMessage, TakeMessages
from pgqrs.storage.writes.operation import Follower, Operation
from pgqrs.storage.writes.outbox import EmitEvents, RecordSendingStep, SendFromSteps
from pgqrs.storage.writes.runs import ClaimWorkflow, FinishWorkflow, MarkSaga, ReleaseWorkflow
from pgqrs.storage.writes.states import RecordStatefulStep
from pgqrs.storage.writes.steps import (
    RecordFailedAttempt,
    RecordLastFailedAttempt,
    RecordLastStep,
    RecordNewStep,
    RecordStep,
    RecordWait,
)


class AskedRecord(NamedTuple):
    """The ids of a record that stayed unanswered; `step_id` is None for a record of no step."""

    workflow_id: int
    step_id: str | None


class CurrentStateQuery(RecordColumns[AskedRecord]):
    """Query the state of the workflows and steps of unanswered records."""

    name = "asked"
    record = AskedRecord

    def statement(self) -> Any:
        """Return the query; each row has the fields of an `AskedRecord` and of its `CurrentState`."""
        rows = self.rows()
        current: dict[str, Any] = {
            "status": Workflow.status,
            "epoch": Workflow.epoch,
            "claim": Workflow.claim,
            "token": Workflow.token,
            "cancels": Workflow.cancel_interrupts,
            "executor": Workflow.executor,
            "output": text_of(Workflow.output),
            "codec": Workflow.codec,
            "step_status": Step.status,
            "step_epoch": Step.epoch,
            "step_output": text_of(Step.output),
            "step_error": text_of(Step.error),
            "step_fingerprint": Step.fingerprint,
            "step_failures": Step.failures,
            "step_address": Step.address,
        }
        return (
            select(rows.c.workflow_id, rows.c.step_id, *(value.label(name) for name, value in current.items()))
            .select_from(rows)
            .outerjoin(Workflow, Workflow.id == rows.c.workflow_id)
            .outerjoin(Step, (Step.workflow_id == rows.c.workflow_id) & (Step.step_id == rows.c.step_id))
        )


class CallerCurrentStateQuery(CallerColumns[AskedRecord], CurrentStateQuery):
    """The query of `CurrentStateQuery` for the caller's session."""


class CallerEnqueueWorkflow(CallerColumns[Submission], EnqueueWorkflow):
    """Insert workflows for workers to claim, in the caller's session."""

    describes: ClassVar = CallerInsertAttributes("enqueueattributes")


class CallerEnqueueUntilEnd(CallerColumns[Submission], EnqueueUntilEnd):
    """Insert workflows that release their keys at their ends, in the caller's session."""

    describes: ClassVar = CallerInsertAttributes("enqueueuntilendattributes")


class CallerEnqueuePartitioned(CallerColumns[PartitionedSubmission], EnqueuePartitioned):
    """Insert workflows with a key within their queue, in the caller's session."""

    describes: ClassVar = CallerInsertAttributes("enqueuepartitionedattributes")


class CallerSendMessages(CallerColumns[SentMessage], SendMessages):
    """Insert many messages at once, in any session."""

    def sent_many(self) -> Any:
        """Return the statement; it answers with the ids of the workflows that have the messages."""
        found = self.statement().cte(f"{self.name}_done")
        written = [follow(found).cte(f"{self.name}_{name}") for name, follow in self.followers.items()]
        return select(found.c.workflow_id).add_cte(*written)


CALLER_SEND = CallerSendMessages()


class CallerEnqueueTraced(CallerColumns[TracedSubmission], EnqueueTraced):
    """Insert workflows with the trace contexts of their submissions, in the caller's session."""

    describes: ClassVar = CallerInsertAttributes("enqueuetracedattributes")


CURRENT_STATE = CurrentStateQuery()

CALLER_CURRENT_STATE = CallerCurrentStateQuery()

CALLER_ENQUEUE: Mapping[type[Any], EnqueueOperation[Any]] = {
    Submission: CallerEnqueueWorkflow(),
    SubmissionUntilEnd: CallerEnqueueUntilEnd(),
    PartitionedSubmission: CallerEnqueuePartitioned(),
    TracedSubmission: CallerEnqueueTraced(),
}

RECORD_LAST_STEP = RecordLastStep()


class Operations(Mapping[type[Any], Operation[Any]]):
    """The operations that a journal writes, by the type of their records."""

    def __init__(self, operations: Sequence[Operation[Any]]) -> None:
        self._by_record = {each.record: each for each in operations}
        self._by_name: dict[str, Operation[Any] | CurrentStateQuery] = {each.name: each for each in operations}
        self._by_name[CURRENT_STATE.name] = CURRENT_STATE
        self._companions = {
            companion.name: (each.name, companion) for each in operations for companion in each.companions
        }

    def __getitem__(self, record: type[Any]) -> Operation[Any]:
        return self._by_record[record]

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(self._by_record)

    def __len__(self) -> int:
        return len(self._by_record)

    def combine(self, names: Sequence[str]) -> Any:
        """Return the statement that writes a batch of the operations with these names.

        The name of a companion is in `names` only with the name of its operation.
        """
        written = {name: self._by_name[name] for name in names if name in self._by_name}
        if len(names) == 1 and not _followers(written[names[0]]):
            return written[names[0]].statement()
        ctes = {name: operation.statement().cte(f"{name}_done") for name, operation in written.items()}
        answers = union_all(*(_answers(operation, ctes[name]) for name, operation in written.items()))
        for name in names:
            if name in self._companions:
                after, companion = self._companions[name]
                answers = answers.add_cte(companion.statement_after(ctes[after]).cte(f"{name}_done"))
        for name, operation in written.items():
            for follower, follow in _followers(operation).items():
                answers = answers.add_cte(follow(ctes[name]).cte(f"{name}_{follower}"))
        return answers


def _followers(written: Operation[Any] | CurrentStateQuery) -> Mapping[str, Follower]:
    return written.followers if isinstance(written, Operation) else {}


def _answers(written: Operation[Any] | CurrentStateQuery, cte: Any) -> Any:
    return written.answers(cte) if isinstance(written, Operation) else select(cte)


OPERATIONS = Operations(
    [
        CreateWorkflow(),
        CreateAndStart(),
        RepeatCreateAndStart(),
        EnqueueWorkflow(),
        EnqueueUntilEnd(),
        EnqueuePartitioned(),
        EnqueueTraced(),
        ClaimWorkflow(),
        RecordStep(),
        RecordNewStep(),
        RECORD_LAST_STEP,
        RecordFailedAttempt(),
        RecordLastFailedAttempt(),
        FinishWorkflow(),
        ReleaseWorkflow(),
        ContinueWorkflow(),
        RecordWait(),
        RecordSendingStep(),
        RecordStatefulStep(),
        SendFromSteps(),
        EmitEvents(),
        StartChildren(),
        StartKeyedChild(),
        StartTracedChild(),
        SendMessages(),
        TakeMessages(),
        MarkSaga(),
    ]
)
"""The operations of pgqrs; a new operation is listed here and nowhere else."""


class SingleStatement(NamedTuple):
    """The statement of a single record: its text, and the function that takes its arguments out of the record."""

    text: str
    arguments: Callable[[Any], Sequence[Any]]


class Statements:
    """The compiled statements of a journal."""

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations
        self._compiled: dict[tuple[str, ...], CompiledStatement] = {}
        self._singles: dict[Operation[Any], SingleStatement] = {}

    def of(self, names: tuple[str, ...]) -> CompiledStatement:
        """Return the statement of a batch; `names` are as in `Operations.combine`."""
        compiled = self._compiled.get(names)
        if compiled is None:
            compiled = self._compiled[names] = self._database.compile(self._operations.combine, names)
        return compiled

    def single(self, operation: Operation[Any]) -> SingleStatement:
        """Return the statement of a single record."""
        statement = self._singles.get(operation)
        if statement is None:
            compiled = self._database.compile(_single, operation)
            statement = SingleStatement(compiled.text, operation.picker(compiled.binds))
            self._singles[operation] = statement
        return statement

    def encode(self, grouped: Mapping[Operation[Any], Sequence[Any]]) -> tuple[str, list[Any]]:
        """Return the text and the arguments of the statement for the records of a batch, by operation."""
        arrays = _arrays(grouped)
        # The binds of one operation or companion have its name before the first underscore.
        names = tuple(sorted({bind.partition("_")[0] for bind in arrays}))
        if names not in self._compiled:
            self.of(names)
            # Compiling takes long, and the times of steps are counted back from the encoding.
            arrays = _arrays(grouped)
        statement = self._compiled[names]
        return statement.text, statement.arguments(arrays)


def _single(operation: Operation[Any]) -> Any:
    return operation.statement(single=True)


def _arrays(grouped: Mapping[Operation[Any], Sequence[Any]]) -> Arrays:
    arrays: Arrays = {}
    for operation, records in grouped.items():
        arrays |= operation.arrays(records)
    return arrays
