"""All errors that pgqrs raises.

::

    PgqrsError
    ├── ConfigurationError (ValueError)      an argument of `Admin`, a decorator or an option is invalid
    │   └── InvalidDSNError                  the DSN is not a valid PostgreSQL DSN
    ├── InvalidNameError (ValueError)        a workflow name or step id cannot be stored
    ├── EmbeddedServerError                  the embedded PostgreSQL is not installed or did not start
    ├── DatabaseError                        PostgreSQL refused a statement
    │   ├── RowRefusedError                  PostgreSQL refused one row; other records are not affected
    │   └── DatabaseUnavailableError         PostgreSQL was unreachable or did not answer in time
    ├── SchemaError                          the tables do not match this version of pgqrs
    │   ├── NotInstalledError                the schema has no pgqrs tables
    │   └── SchemaOutOfDateError             the tables are at an older or a newer revision
    ├── SessionError                         a caller's session or `ctx.session` was misused
    ├── ScheduleNotFoundError                no schedule has this name
    ├── InvariantError                       the tables violate invariants of pgqrs; has `violations`
    ├── WorkflowError                        an error about one workflow; has `workflow_id`
    │   ├── WorkflowNotFoundError            no workflow has this id, or this key
    │   ├── WorkflowFencedError              the workflow was claimed again elsewhere: this run is fenced
    │   ├── WorkflowFinishedError            the workflow has ended; its first outcome is kept
    │   ├── WorkflowCancelledError           the workflow was cancelled
    │   ├── WorkflowInProgressError          the workflow is already running in this context
    │   ├── WorkflowLockedError              another live executor is running the workflow
    │   ├── RewindRefusedError               the workflow cannot be taken back to the time before this step
    │   ├── ContinuationError (TerminalError)  the workflow cannot continue as new at this place
    │   ├── KeyConflictError                 the key belongs to a submission with different arguments
    │   ├── KeyTakenError                    the key belongs to another workflow
    │   ├── UniqueTakenError                 another workflow holds the unique value; has `holder_id`
    │   ├── WorkflowTimeoutError             the workflow was not finished at its deadline
    │   ├── PoisonedWorkflowError            the workflow was claimed repeatedly without progress
    │   ├── UpdateRefusedError               the workflow has refused a request
    │   ├── UpdateTimeoutError (TimeoutError)  the workflow has not answered a request in time
    │   ├── SagaError                        steps of a saga were not undone; has `undone` and `left`
    │   ├── SagaUndoneError (TerminalError)  the saga was undone: none of its steps begins any more
    │   ├── CodecMismatchError               the workflow is written with a codec that this `Admin` lacks
    │   └── RunEndedError                    a task called the context after the end of its run
    ├── StepError                            an error about one step; has `workflow_id` and `step_id`
    │   ├── StepFailedError                  replays a recorded error; also of the original class
    │   ├── StepTimeoutError (TimeoutError)  the step took longer than its timeout
    │   ├── WaitTimeoutError (TimeoutError)  no message came before the timeout of a wait
    │   ├── RequestAnsweredError (TerminalError)  another call has answered the request
    │   ├── StepMismatchError (TerminalError)  the step's outcome was recorded for different arguments
    │   ├── StepNotFoundError                the workflow has recorded no step with this id; has `near`
    │   ├── StepCycleError                   the step would wait for itself
    │   └── GuardUsedError                   the guard was already used
    ├── SerializationError (ValueError)      the codec cannot write or read a value; has `path`
    ├── TerminalError                        raised by a step: a retry is useless
    └── TransientError                       raised by a step: a retry may succeed

Steps raise `TerminalError` and `TransientError`; the library raises all other errors.

A run stops when it was cancelled, timed out, was fenced, lost the database or has ended. Within the workflow's
function and its steps, every call on the context of a stopped run raises a `pgqrs.RunStopped`, a `BaseException`
whose `error` is the reason. Callers outside get that error itself (`WorkflowCancelledError`,
`WorkflowTimeoutError`, `WorkflowFencedError`, `DatabaseUnavailableError`, `WorkflowFinishedError` or
`RunEndedError`): from a call of the workflow's function, from `Admin.run`, and from a context that is used by
hand, outside any workflow's function and its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias
from uuid import UUID

UniqueCause: TypeAlias = Literal["held", "started", "ended"]
"""The cause of a `UniqueTakenError`: the value is held, the holder has started, or a workflow is to run again."""


class PgqrsError(Exception):
    """The base class of all errors that pgqrs raises."""


class ConfigurationError(PgqrsError, ValueError):
    """An argument of `Admin`, a decorator, an option or a codec is invalid; the message names the argument."""


class InvalidDSNError(ConfigurationError):
    """The string or URL is not a valid DSN of a PostgreSQL server."""


class InvalidNameError(PgqrsError, ValueError):
    """The workflow name or step id cannot be stored."""


class EmbeddedServerError(PgqrsError):
    """The embedded PostgreSQL is not installed or did not start."""


class DatabaseError(PgqrsError):
    """PostgreSQL refused a statement.

    The driver's error is the `__cause__`.

    Attributes:
        sqlstate: The five-character code of the error, or None for a failure outside the server.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class RowRefusedError(DatabaseError):
    """PostgreSQL refused the row of one record: for its values, or by a trigger, a policy or a quota.

    The step or the workflow of that record fails with this error. Any other `DatabaseError` of a write ends the
    run instead, and a later run can resume the workflow.
    """


class DatabaseUnavailableError(DatabaseError):
    """PostgreSQL was unreachable, refused the login, or did not answer in time."""


class SchemaError(PgqrsError):
    """The tables do not match this version of pgqrs.

    Attributes:
        schema: The name of the schema that was searched.
    """

    def __init__(self, message: str, *, schema: str) -> None:
        super().__init__(message)
        self.schema = schema


class NotInstalledError(SchemaError):
    """The schema holds no pgqrs tables."""

    def __init__(self, schema: str) -> None:
        super().__init__(
            f"pgqrs is not installed in the schema {schema!r}: "
            "call `await admin.install()`, or run `pgqrs install` on the command line.",
            schema=schema,
        )


class SchemaOutOfDateError(SchemaError):
    """The tables are too old for this version of pgqrs, or too new, and so do not support it.

    Attributes:
        current: The revision of the tables.
        head: The revision to which this version of pgqrs migrates them.
    """

    def __init__(self, current: str, head: str, *, schema: str, newer: bool = False) -> None:
        remedy = (
            "a newer version of pgqrs migrated it; upgrade this application's pgqrs."
            if newer
            else "call `await admin.install()`, or run `pgqrs install` on the command line."
        )
        super().__init__(
            f"the schema {schema!r} is at revision {current}, but this version of pgqrs needs {head}: {remedy}",
            schema=schema,
        )
        self.current = current
        self.head = head


class InvariantError(PgqrsError):
    """The tables violate invariants of pgqrs.

    Attributes:
        violations: One sentence for each violation.
    """

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__("\n".join(["the tables violate invariants of pgqrs:", *violations]))
        self.violations = tuple(violations)


class SessionError(PgqrsError):
    """A caller's session, or `ctx.session`, was used in an unsupported way; nothing was recorded."""


class ScheduleNotFoundError(PgqrsError):
    """No schedule has this name.

    Attributes:
        name: The name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r} in this schema: `Admin.list_schedules` lists them.")
        self.name = name


class WorkflowError(PgqrsError):
    """An error about one workflow.

    Attributes:
        workflow_id: The id of the workflow.
    """

    def __init__(self, message: str, *, workflow_id: int) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowNotFoundError(WorkflowError):
    """No workflow has this id or this key, or the workflow was lost and another workflow has its id.

    Attributes:
        workflow_id: The id; 0 if the workflow was searched by its key.
        name: The name of the workflow that was searched by its key; None for a search by the id.
        key: The key; None for a search by the id.
    """

    name: str | None = None
    key: str | None = None

    def __init__(
        self, workflow_id: int, *, is_replaced: bool = False, name: str | None = None, key: str | None = None
    ) -> None:
        message = f"there is no workflow {workflow_id} in this schema."
        if key is not None:
            message = (
                f"no workflow {name!r} in this schema has the key {key!r}. A workflow that was submitted with "
                "`until='end'` has its key until it ends: keep its id to find it later."
            )
        if is_replaced:
            message = (
                f"workflow {workflow_id} was lost with the last transactions of the server, as in a failover or "
                "after the restore of a backup, and another workflow has its id: enqueue the lost workflow again."
            )
        super().__init__(message, workflow_id=workflow_id)
        if key is not None:
            self.name = name
            self.key = key


class WorkflowFencedError(WorkflowError):
    """The workflow was claimed again elsewhere, so this run is fenced and records nothing more.

    Attributes:
        epoch: The epoch of the fenced run.
    """

    def __init__(self, workflow_id: int, epoch: int) -> None:
        super().__init__(
            f"workflow {workflow_id} was claimed again elsewhere: this run (epoch {epoch}) is fenced and records "
            "nothing more. Let it end.",
            workflow_id=workflow_id,
        )
        self.epoch = epoch


class WorkflowFinishedError(WorkflowError):
    """The workflow has already ended; its first outcome is kept.

    Attributes:
        status: The status with which the workflow ended.
    """

    def __init__(self, workflow_id: int, status: str) -> None:
        super().__init__(
            f"workflow {workflow_id} has already ended with {status}; its first outcome is kept.",
            workflow_id=workflow_id,
        )
        self.status = status


class WorkflowCancelledError(WorkflowError):
    """The workflow was cancelled; `resume_workflow` makes it ready to run again."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(
            f"workflow {workflow_id} is cancelled: "
            f"call `await admin.resume_workflow({workflow_id})` to run it again.",
            workflow_id=workflow_id,
        )


class WorkflowInProgressError(WorkflowError):
    """The workflow is already running in this context, so it cannot begin another run or wait for its own end."""

    def __init__(self, workflow_id: int, *, waits: bool = False) -> None:
        super().__init__(
            f"workflow {workflow_id} cannot wait for its own result, which comes after its function has returned."
            if waits
            else f"workflow {workflow_id} is already running in this context: await that run. To run another "
            "workflow from within this workflow, call it as a child (`await ctx.call(...)`), or start it for a "
            "worker (`child = await ctx.start(...)`) and await it (`await child`).",
            workflow_id=workflow_id,
        )


class WorkflowLockedError(WorkflowError):
    """Another live executor is running the workflow.

    Attributes:
        executor_id: The id of that executor.
    """

    def __init__(self, workflow_id: int, executor_id: UUID) -> None:
        super().__init__(
            f"workflow {workflow_id} is being run by another live executor ({executor_id}): "
            f"wait for its result (`await admin.handle({workflow_id}).result()`), or cancel it.",
            workflow_id=workflow_id,
        )
        self.executor_id = executor_id


class RewindRefusedError(WorkflowError):
    """A workflow cannot be rewound to the time before a step.

    Attributes:
        before: The id of the step.
        executor_id: The id of the executor that runs the workflow; None if that is not the reason.
        undone: The id of the earliest step that a saga has undone, which has to be executed again; None if that is
            not the reason.
    """

    def __init__(
        self,
        workflow_id: int,
        before: str,
        reason: str,
        *,
        executor_id: UUID | None = None,
        undone: str | None = None,
    ) -> None:
        super().__init__(
            f"workflow {workflow_id} is not rewound to the time before {before!r}: {reason}",
            workflow_id=workflow_id,
        )
        self.before = before
        self.executor_id = executor_id
        self.undone = undone


class KeyConflictError(WorkflowError):
    """The key of a submission belongs to a workflow that was submitted with different arguments.

    Attributes:
        workflow_id: The id of the workflow that has the key.
        key: The key.
    """

    def __init__(self, workflow_id: int, name: str, key: str) -> None:
        super().__init__(
            f"the key {key!r} of {name!r} belongs to workflow {workflow_id}, which was submitted with different "
            "arguments. Include in the key everything that distinguishes two submissions, such as the tenant, or "
            "use `options(on_conflict='warn')` to get the existing workflow.",
            workflow_id=workflow_id,
        )
        self.key = key


class KeyTakenError(WorkflowError):
    """A workflow cannot have the key that it needs, because another workflow has it.

    The workflow has released the key at its end and is to run again, or a step was to start a child with the key.

    Attributes:
        workflow_id: The id of the workflow that is to run again, or of the parent of the child.
        name: The name of the workflow that needs the key.
        key: The key.
        holder_id: The id of the workflow that has the key; None if the transaction cannot see that workflow.
    """

    def __init__(self, workflow_id: int, name: str, key: str, holder_id: int | None, *, is_child: bool) -> None:
        holder = "another workflow" if holder_id is None else f"workflow {holder_id}"
        message = (
            f"workflow {workflow_id} ({name!r}) cannot run again: at its end it has released its key {key!r}, "
            f"and {holder} has the key. Wait for the end of that workflow, or cancel it; then run {workflow_id} "
            "again."
        )
        if is_child:
            message = (
                f"workflow {workflow_id} cannot start a child {name!r}: {holder} has the key {key!r}. "
                "Give the child a key that contains the id of its parent, or submit the workflow in a step, by "
                "`admin.options(key=...)`, and await its handle."
            )
        super().__init__(message, workflow_id=workflow_id)
        self.name = name
        self.key = key
        self.holder_id = holder_id


class UniqueTakenError(WorkflowError):
    """A workflow cannot hold the unique value that it needs, because another workflow holds it.

    A submission was to take the value, or a workflow that has ended is to run again and to take its value back.

    Attributes:
        workflow_id: The id of the workflow that is to run again; for a submission, the id of the holder.
        name: The name of the workflows.
        unique: The unique value.
        holder_id: The id of the workflow that holds the value; None if the transaction cannot see that workflow.
    """

    def __init__(
        self, workflow_id: int, name: str, unique: str, holder_id: int | None, *, cause: UniqueCause
    ) -> None:
        holder = "another workflow" if holder_id is None else f"workflow {holder_id}"
        messages: dict[UniqueCause, str] = {
            "held": f"{holder} holds the unique value {unique!r} of {name!r}: wait for it, or submit with "
            "`options(taken='return')` to get its handle.",
            "started": f"{holder} holds the unique value {unique!r} of {name!r} and has started, so it does not "
            "take the new arguments: wait for its end, or submit with `options(taken='cancel')`.",
            "ended": f"workflow {workflow_id} ({name!r}) cannot run again: at its end it has given up its unique "
            f"value {unique!r}, and {holder} holds it. Wait for the end of that workflow, or cancel it; then run "
            f"{workflow_id} again.",
        }
        super().__init__(messages[cause], workflow_id=workflow_id)
        self.name = name
        self.unique = unique
        self.holder_id = holder_id


class CodecMismatchError(WorkflowError):
    """The payloads of the workflow are written with another codec than the codec of this `Admin`.

    Attributes:
        written: The name of the workflow's codec; None for strict JSON.
        given: The name of the codec of this `Admin`; None for strict JSON.
    """

    def __init__(self, workflow_id: int, written: str | None, given: str | None) -> None:
        super().__init__(
            f"workflow {workflow_id} is written with the codec {written or 'json'!r}, but this Admin uses "
            f"{given or 'json'!r}: pass the codec that created the workflow to `Admin(codec=...)`.",
            workflow_id=workflow_id,
        )
        self.written = written
        self.given = given


class WorkflowTimeoutError(WorkflowError):
    """The workflow was not finished at its deadline.

    Attributes:
        timeout: The timeout of the workflow in seconds; None if it is unknown.
    """

    def __init__(self, workflow_id: int, timeout: float | None) -> None:
        given = "" if timeout is None else f" of {timeout:g} seconds"
        super().__init__(
            f"workflow {workflow_id} was not finished within its timeout{given}.", workflow_id=workflow_id
        )
        self.timeout = timeout


class PoisonedWorkflowError(WorkflowError):
    """The workflow was claimed too many times in a row without recording a further step.

    Attributes:
        attempts: The number of these claims.
    """

    def __init__(self, workflow_id: int, attempts: int) -> None:
        super().__init__(
            f"workflow {workflow_id} was claimed {attempts} times in a row without recording a further step, so "
            f"it is not retried. Fix the cause, then call `await admin.resume_workflow({workflow_id})`.",
            workflow_id=workflow_id,
        )
        self.attempts = attempts


class UpdateRefusedError(WorkflowError):
    """The workflow has refused a request; the refusal is recorded, and the same key gets it again.

    Attributes:
        update: The name of the update.
        reason: The reason that the workflow has given.
    """

    def __init__(self, workflow_id: int, update: str, reason: str) -> None:
        super().__init__(
            f"workflow {workflow_id} has refused the request of the update {update!r}: {reason}",
            workflow_id=workflow_id,
        )
        self.update = update
        self.reason = reason


class UpdateTimeoutError(WorkflowError, TimeoutError):
    """The workflow has not answered a request before the timeout of the caller; the request stays there.

    Attributes:
        update: The name of the update.
        key: The key of the request; None if the caller has passed no key.
        timeout: The timeout in seconds.
    """

    def __init__(self, workflow_id: int, update: str, key: str | None, timeout: float) -> None:
        remedy = (
            "Pass a key to be able to ask for the reply again."
            if key is None
            else f"To wait for its reply again, call `update` with the same key, {key!r}."
        )
        super().__init__(
            f"workflow {workflow_id} has not answered the update {update!r} within {timeout:g} seconds; the "
            f"request stays there, and the workflow may still answer it. {remedy}",
            workflow_id=workflow_id,
        )
        self.update = update
        self.key = key
        self.timeout = timeout


class RunEndedError(WorkflowError):
    """The run ended without an outcome of the workflow, and a task of the run then called the context."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(
            f"this run of workflow {workflow_id} has ended: a task that outlives the run cannot run further "
            "steps. Await all tasks of a workflow before its function returns.",
            workflow_id=workflow_id,
        )


class StepError(PgqrsError):
    """An error about one step.

    Attributes:
        workflow_id: The id of the workflow.
        step_id: The id of the step.
    """

    def __init__(self, message: str, *, workflow_id: int, step_id: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.step_id = step_id


class StepNotFoundError(StepError):
    """A workflow has recorded no step with this id.

    Attributes:
        near: Recorded ids that are spelled like the given one.
    """

    def __init__(self, workflow_id: int, step_id: str, near: Sequence[str]) -> None:
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "`Admin.list_steps` lists its steps."
        super().__init__(
            f"workflow {workflow_id} has recorded no step {step_id!r}: {hint}",
            workflow_id=workflow_id,
            step_id=step_id,
        )
        self.near = tuple(near)


class StepFailedError(StepError):
    """The recorded error of a step, raised again by a replay.

    The class of the raised error derives from both this class and the class of the original exception, so
    ``except ValueError`` also catches a recorded `ValueError`.
    """


class StepTimeoutError(StepError, TimeoutError):
    """The step took longer than its timeout.

    Attributes:
        timeout: The timeout of the step in seconds.
    """

    def __init__(self, workflow_id: int, step_id: str, timeout: float) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} took longer than its timeout of {timeout:g} seconds.",
            workflow_id=workflow_id,
            step_id=step_id,
        )
        self.timeout = timeout


class WaitTimeoutError(StepError, TimeoutError):
    """No message came before the timeout of a wait; the recorded timeout is raised again by a replay.

    Attributes:
        timeout: The timeout of the wait in seconds.
    """

    def __init__(self, workflow_id: int, step_id: str, timeout: float) -> None:
        super().__init__(
            f"workflow {workflow_id} has waited {timeout:g} seconds in step {step_id!r}, and no message has come.",
            workflow_id=workflow_id,
            step_id=step_id,
        )
        self.timeout = timeout


class StepCycleError(StepError):
    """The step would wait for itself, directly or through the steps that it waits for."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} would wait for itself: it was called from within itself, "
            "or from a step that it waits for. Use `@step(key=...)` to give different calls different step ids.",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class GuardUsedError(StepError):
    """The guard has already recorded an outcome or abandoned its step, and accepts no second outcome."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"the guard of step {step_id!r} of workflow {workflow_id} was already used; the first outcome is "
            "kept.",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class SerializationError(PgqrsError, ValueError):
    """A value cannot be stored without loss, or a stored value cannot be read back.

    Attributes:
        reason: The cause, without the place of the value.
        path: The place within the value, as in ``$.orders[3].at``.
        step_id: The id of the step whose result the value is; None for other values.
        workflow_id: The id of the workflow that the value belongs to; None outside a workflow.
        reading: True for a stored value that cannot be read back, False for a value that cannot be stored.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str = "$",
        step_id: str | None = None,
        workflow_id: int | None = None,
        reading: bool = False,
    ) -> None:
        self.reason = reason
        self.path = path
        self.step_id = step_id
        self.workflow_id = workflow_id
        self.reading = reading
        cannot = "cannot be read back" if reading else "cannot be stored"
        super().__init__(f"{self._whose()} {cannot}: at {path}: {reason}")

    def _whose(self) -> str:
        if self.step_id is None:
            return "the value" if self.workflow_id is None else f"a value of workflow {self.workflow_id}"
        return f"the result of step {self.step_id!r} of workflow {self.workflow_id}"

    def of(self, *, workflow_id: int, step_id: str | None = None) -> SerializationError:
        """Return a copy of this error that names the workflow and the step of the value.

        Args:
            workflow_id: The id of the workflow that the value belongs to.
            step_id: The id of the step whose result the value is; None, the default, for other values.

        Returns:
            A new error with the same reason, path and direction.
        """
        return SerializationError(
            self.reason, path=self.path, step_id=step_id, workflow_id=workflow_id, reading=self.reading
        )


class TerminalError(PgqrsError):
    """An error that a step raises when a retry is useless: the step is not retried."""


class TransientError(PgqrsError):
    """An error that a step raises when a retry may succeed.

    Args:
        args: The arguments of the exception, such as its message.
        retry_after: Seconds until the next attempt. It replaces the delay of a `RetryPolicy` that retries the
            step, up to the policy's `longest`. None, the default, leaves the delay to the policy.
    """

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class RequestAnsweredError(StepError, TerminalError):
    """Another call has replied to the request or refused it; the first answer is kept."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"the request of step {step_id!r} of workflow {workflow_id} was already answered by another call; the "
            "first answer is kept. Call `reply` or `refuse` once for each request.",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class SagaError(WorkflowError):
    """Steps of a saga were not undone: an undo has failed, or the time for the undos has passed.

    `Admin.resume_workflow` has the steps in `left` undone, and executes no other step.

    Attributes:
        saga: The step id of the saga.
        undone: The ids of the steps that were undone.
        left: The ids of the steps that were not, in the order in which they are to be undone.
        reason: The reason for which the saga is undone.
    """

    def __init__(
        self,
        workflow_id: int,
        saga: str,
        undone: Sequence[str],
        left: Sequence[str],
        *,
        reason: str,
        problem: str,
    ) -> None:
        self.saga = saga
        self.undone = list(undone)
        self.left = list(left)
        self.reason = reason
        super().__init__(
            f"the saga {saga!r} of workflow {workflow_id} is not undone: {problem}. Undone: "
            f"{', '.join(undone) or 'nothing'}; left: {', '.join(left) or 'nothing'}. The saga was to be undone "
            f"because of {reason}. `resume_workflow` undoes the steps that are left.",
            workflow_id=workflow_id,
        )


class SagaUndoneError(WorkflowError, TerminalError):
    """The saga is undone, so none of its steps begins any more: start another workflow.

    Attributes:
        saga: The step id of the saga.
        reason: The reason for which the saga is undone.
    """

    def __init__(self, workflow_id: int, saga: str, reason: str) -> None:
        self.saga = saga
        self.reason = reason
        super().__init__(
            f"the saga {saga!r} of workflow {workflow_id} is undone because of {reason}, and stays undone: to try "
            "again, start another workflow.",
            workflow_id=workflow_id,
        )


class StepMismatchError(StepError, TerminalError):
    """The recorded outcome of the step does not fit this call, as after a call with different arguments.

    A workflow with ``@workflow(strict=True)`` raises it for different arguments.
    """

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} was called with different arguments than when its "
            "outcome was recorded. Use `@step(key=...)` to give different calls different step ids, and do not "
            "change the arguments of steps in workflows that have already begun.",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class ContinuationError(WorkflowError, TerminalError):
    """The workflow cannot continue as new at this place: in a step, or while a step has no outcome yet."""

    def __init__(self, workflow_id: int, reason: str) -> None:
        super().__init__(f"workflow {workflow_id} cannot continue as new: {reason}.", workflow_id=workflow_id)
