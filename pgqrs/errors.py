"""Every error that pgqrs raises.

::

    PgqrsError
    ├── ConfigurationError (ValueError)      what was given to `Admin` or to a decorator cannot work
    │   └── InvalidDSNError                  not a PostgreSQL DSN
    ├── InvalidNameError (ValueError)        a workflow name or step id that cannot be stored
    ├── EmbeddedServerError                  the embedded PostgreSQL is missing or did not start
    ├── DatabaseError                        PostgreSQL refused a statement
    │   ├── RowRefusedError                  PostgreSQL refused one row; the other records are not concerned
    │   └── DatabaseUnavailableError         PostgreSQL could not be reached, or not in time
    ├── SchemaError                          the tables are not as this version needs them
    │   ├── NotInstalledError                there are none
    │   └── SchemaOutOfDateError             they are older or newer
    ├── SessionError                         a session that was lent, or `ctx.session`, used as it cannot be
    ├── InvariantError                       the tables hold what they must never hold; has `violations`
    ├── WorkflowError                        about one workflow; has `workflow_id`
    │   ├── WorkflowNotFoundError            there is none of this id
    │   ├── WorkflowFencedError              it was started again elsewhere: this run is stale
    │   ├── WorkflowFinishedError            it has ended, and the first outcome is kept
    │   ├── WorkflowCancelledError           it was cancelled
    │   ├── WorkflowInProgressError          its context is running it right now
    │   ├── WorkflowLockedError              another executor that lives is running it
    │   ├── KeyConflictError                 it has the key of a submission with other arguments
    │   ├── WorkflowTimeoutError             it was not finished at its deadline
    │   ├── PoisonedWorkflowError            it was claimed again and again and never got further
    │   ├── CodecMismatchError               it is written with another codec than this `Admin`'s
    │   └── RunEndedError                    this run of it is over; a task of it still goes on
    ├── StepError                            about one step; has `workflow_id` and `step_id`
    │   ├── StepFailedError                  replays a recorded error; also of the original class
    │   ├── StepTimeoutError (TimeoutError)  the step took longer than its timeout
    │   ├── StepMismatchError (TerminalError)  its outcome was recorded for other arguments
    │   ├── StepCycleError                   the step would wait for itself
    │   └── GuardUsedError                   the guard has already recorded an outcome
    ├── SerializationError (ValueError)      a value that the codec cannot carry; has `path`
    ├── TerminalError                        raise it: trying the step again is of no use
    └── TransientError                       raise it: the step may succeed when tried again

`TerminalError` and `TransientError` are for steps to raise; the others are raised by the library.

A run that can go on no further, because it was cancelled, timed out, was fenced, lost the database or has ended,
tells its own code so by a `pgqrs.RunStopped`, a `BaseException`: every call on the context raises it within the
workflow's function and its steps, with the error in `error`. The error itself (`WorkflowCancelledError`,
`WorkflowTimeoutError`, `WorkflowFencedError`, `DatabaseUnavailableError`, `WorkflowFinishedError` or
`RunEndedError`) is raised to callers outside: by the call of the workflow's function, by `Admin.run`, and by a
context that is used by hand, in no workflow's function and no step of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID


class PgqrsError(Exception):
    """The base of every error that pgqrs raises."""


class ConfigurationError(PgqrsError, ValueError):
    """What was given to `Admin` or to a decorator cannot work."""


class InvalidDSNError(ConfigurationError):
    """The string or URL is not the DSN of a PostgreSQL server."""


class InvalidNameError(PgqrsError, ValueError):
    """The workflow name or step id cannot be stored."""


class EmbeddedServerError(PgqrsError):
    """The embedded PostgreSQL is not installed or did not start."""


class DatabaseError(PgqrsError):
    """PostgreSQL refused a statement.

    `sqlstate` is its five-character code, or None where the failure came from outside the server. The
    driver's error is the `__cause__`.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class RowRefusedError(DatabaseError):
    """PostgreSQL refused the row of one record: for its values, or by a trigger, a policy or a quota.

    The step, or the workflow, whose record it is fails with this error. Any other `DatabaseError` of a write loses
    the run, which can be carried on later.
    """


class DatabaseUnavailableError(DatabaseError):
    """PostgreSQL could not be reached, refused the login, or did not answer in time."""


class SchemaError(PgqrsError):
    """The tables are not as this version of pgqrs needs them; `schema` is where it looked."""

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
    """The tables are at revision `current`, and this version of pgqrs needs `head`."""

    def __init__(self, current: str, head: str, *, schema: str, newer: bool = False) -> None:
        remedy = (
            "a newer pgqrs made it: upgrade this application's pgqrs."
            if newer
            else "call `await admin.install()`, or run `pgqrs install` on the command line."
        )
        super().__init__(
            f"the schema {schema!r} is at revision {current}, and this pgqrs needs {head}: {remedy}",
            schema=schema,
        )
        self.current = current
        self.head = head


class InvariantError(PgqrsError):
    """The tables hold what they must never hold; `violations` says what, a sentence each."""

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__("\n".join(["the tables are not as pgqrs leaves them:", *violations]))
        self.violations = tuple(violations)


class SessionError(PgqrsError):
    """A session that the application lent, or `ctx.session`, cannot be used like that; nothing was recorded."""


class WorkflowError(PgqrsError):
    """An error about the workflow `workflow_id`."""

    def __init__(self, message: str, *, workflow_id: int) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowNotFoundError(WorkflowError):
    """There is no workflow of this id."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(f"there is no workflow {workflow_id} in this schema.", workflow_id=workflow_id)


class WorkflowFencedError(WorkflowError):
    """The workflow was started again elsewhere, so this run is stale and records nothing more.

    `epoch` is the start that this run belongs to.
    """

    def __init__(self, workflow_id: int, epoch: int) -> None:
        super().__init__(
            f"workflow {workflow_id} was started again elsewhere: this run (epoch {epoch}) is stale, "
            "nothing more of it is recorded; let it end.",
            workflow_id=workflow_id,
        )
        self.epoch = epoch


class WorkflowFinishedError(WorkflowError):
    """The workflow has ended with `status`; its first outcome is kept."""

    def __init__(self, workflow_id: int, status: str) -> None:
        super().__init__(
            f"workflow {workflow_id} has already ended with {status}; that outcome is kept.",
            workflow_id=workflow_id,
        )
        self.status = status


class WorkflowCancelledError(WorkflowError):
    """The workflow was cancelled; `resume_workflow` makes it runnable again."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(
            f"workflow {workflow_id} is cancelled: "
            f"call `await admin.resume_workflow({workflow_id})` to run it again.",
            workflow_id=workflow_id,
        )


class WorkflowInProgressError(WorkflowError):
    """The context is running its workflow right now, so it cannot begin another run of it."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(
            f"workflow {workflow_id} is running in this context already: await that run. To start another "
            "workflow from within it, enqueue that with a key in a step (`await admin.options(key=...).enqueue("
            "...)`), and await its handle (`await admin.handle(id).result()`).",
            workflow_id=workflow_id,
        )


class WorkflowLockedError(WorkflowError):
    """Another executor that lives holds the workflow's run; `executor_id` is which."""

    def __init__(self, workflow_id: int, executor_id: UUID) -> None:
        super().__init__(
            f"workflow {workflow_id} is being run by another executor ({executor_id}), which is alive: "
            "wait for its result (`admin.handle(id)`), or cancel it.",
            workflow_id=workflow_id,
        )
        self.executor_id = executor_id


class KeyConflictError(WorkflowError):
    """The key of a submission belongs to a workflow that was submitted with other arguments.

    `key` is the key, and `workflow_id` the workflow that has it.
    """

    def __init__(self, workflow_id: int, name: str, key: str) -> None:
        super().__init__(
            f"the key {key!r} of {name!r} belongs to workflow {workflow_id}, which was submitted with other "
            "arguments: put into the key all that tells submissions apart, such as the tenant, or say "
            "`options(on_conflict='warn')` to get that workflow.",
            workflow_id=workflow_id,
        )
        self.key = key


class CodecMismatchError(WorkflowError):
    """The workflow is written with another codec than the `Admin` has; None in `written` and `given` is JSON."""

    def __init__(self, workflow_id: int, written: str | None, given: str | None) -> None:
        super().__init__(
            f"workflow {workflow_id} is written with the codec {written or 'json'!r}, and this Admin has "
            f"{given or 'json'!r}: give `Admin(codec=...)` the one that it was created with.",
            workflow_id=workflow_id,
        )
        self.written = written
        self.given = given


class WorkflowTimeoutError(WorkflowError):
    """The workflow was not finished at its deadline; `timeout` is how long it was given, in seconds, if known."""

    def __init__(self, workflow_id: int, timeout: float | None) -> None:
        given = "" if timeout is None else f" of {timeout:g} seconds"
        super().__init__(
            f"workflow {workflow_id} was not finished within its timeout{given}.", workflow_id=workflow_id
        )
        self.timeout = timeout


class PoisonedWorkflowError(WorkflowError):
    """The workflow was claimed `attempts` times in a row and no run of it recorded one more step."""

    def __init__(self, workflow_id: int, attempts: int) -> None:
        super().__init__(
            f"workflow {workflow_id} was claimed {attempts} times in a row without recording one more step, so it "
            f"is not tried again; after a fix call `await admin.resume_workflow({workflow_id})`.",
            workflow_id=workflow_id,
        )
        self.attempts = attempts


class RunEndedError(WorkflowError):
    """The run was left by a crash or a cancellation, and a task that it left behind asked for more."""

    def __init__(self, workflow_id: int) -> None:
        super().__init__(
            f"this run of workflow {workflow_id} is over: a task left over from it cannot run further steps; "
            "await the tasks that a workflow starts before it returns.",
            workflow_id=workflow_id,
        )


class StepError(PgqrsError):
    """An error about the step `step_id` of the workflow `workflow_id`."""

    def __init__(self, message: str, *, workflow_id: int, step_id: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.step_id = step_id


class StepFailedError(StepError):
    """The recorded error of a step, raised again.

    It is raised as an instance of a class that derives from this one and from the original exception's class,
    so ``except ValueError`` still catches a recorded `ValueError`.
    """


class StepTimeoutError(StepError, TimeoutError):
    """The step took longer than its `timeout`, in seconds."""

    def __init__(self, workflow_id: int, step_id: str, timeout: float) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} took longer than its timeout of {timeout:g} seconds.",
            workflow_id=workflow_id,
            step_id=step_id,
        )
        self.timeout = timeout


class StepCycleError(StepError):
    """The step would wait for itself, directly or through the steps that it waits for."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} would wait for itself: it is called from within "
            "itself, or from a step that it waits for. Give calls that differ ids that differ "
            "(`@step(key=...)`).",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class GuardUsedError(StepError):
    """The guard has recorded an outcome, or given the step up, and takes no second one."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"the guard of step {step_id!r} of workflow {workflow_id} is used up; the first outcome is kept.",
            workflow_id=workflow_id,
            step_id=step_id,
        )


class SerializationError(PgqrsError, ValueError):
    """A value cannot be stored without loss, or, where `reading` is true, what is stored cannot be read back.

    `path` tells where in the value, as in ``$.orders[3].at``; `step_id` and `workflow_id` tell whose value it
    is, where there is a step or a workflow.
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
        """Return the same error, naming the workflow and the step that the value belongs to."""
        return SerializationError(
            self.reason, path=self.path, step_id=step_id, workflow_id=workflow_id, reading=self.reading
        )


class TerminalError(PgqrsError):
    """Raise this in a step to say that trying it again is of no use."""


class TransientError(PgqrsError):
    """Raise this in a step to say that it may succeed when it is tried again.

    `retry_after` is when, in seconds from now: where a `RetryPolicy` tries again, it rules the delay, up to the
    `longest` of the policy.
    """

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class StepMismatchError(StepError, TerminalError):
    """The outcome recorded of the step is of a call with other arguments; raised in a strict workflow."""

    def __init__(self, workflow_id: int, step_id: str) -> None:
        super().__init__(
            f"step {step_id!r} of workflow {workflow_id} is called with other arguments than those that its "
            "recorded outcome is of. Give calls that differ ids that differ (`@step(key=...)`), and a workflow "
            "that is under way the arguments that it began with.",
            workflow_id=workflow_id,
            step_id=step_id,
        )
