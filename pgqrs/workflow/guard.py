"""`StepGuard`, which records the outcome of an executing step, and `StepResult`, which `acquire_step` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pgqrs.codecs.base import Codec, Encoded, as_serialization_error
from pgqrs.codecs.failures import is_terminal
from pgqrs.engine.scope import StepExecution
from pgqrs.engine.step_runner import StepRunner
from pgqrs.errors import GuardUsedError, SerializationError
from pgqrs.retry import RetryPolicy
from pgqrs.storage.records import StoredOutcome
from pgqrs.types import StepAction


class StepGuard:
    """The right to execute one step, and the duty to record its outcome once, by `success` or `fail`.

    `PyWorkflow.acquire_step` returns guards. A guard that is collected unused abandons its step, as a crash does,
    and a warning names the step.
    """

    __slots__ = ("_codec", "_execution", "_state", "_steps")

    def __init__(self, steps: StepRunner, execution: StepExecution, codec: Codec) -> None:
        self._steps = steps
        self._execution = execution
        self._codec = codec
        self._state: Literal["open", "refused", "used", "committed"] = "open"

    async def success(self, value: Any = None) -> Any:
        """Record the step's value, and return it after the commit.

        Args:
            value: The value of the step, which the codec must be able to encode; None by default.

        Returns:
            The value in its recorded form, as a replay returns it.

        Raises:
            SerializationError: The codec cannot encode `value`. This error is recorded as the step's terminal
                error.
            GuardUsedError: The guard has already been used.
            RunStopped: The run has stopped, and nothing was recorded; raised within the workflow's function and
                its steps. Elsewhere the error of the run is raised, such as `WorkflowFencedError`.
            RowRefusedError: The database refused the record of this step.
        """
        self._use()
        steps = self._steps
        try:
            encoded = self._codec.encode(value)
        except Exception as error:
            self._state = "refused"
            refused = self._refusal(error)
            await steps.fail(self._execution, refused, terminal=True)
            raise refused from error
        except BaseException:
            steps.abandon(self._execution)
            raise
        recorded = await steps.record(self._execution, encoded.text)
        if recorded.output is encoded.text:  # no call of `_value_of`, for each step comes here
            return encoded.value
        return self._value_of(recorded, None)

    def _value_of(self, recorded: StoredOutcome, encoded: Encoded | None) -> Any:
        """Return the recorded value; `encoded` spares its decoding if that is the recorded text."""
        if encoded is not None and recorded.output is encoded.text:
            return encoded.value
        return self._steps.value_of(self._execution.step_id, recorded, self._codec)

    def _refusal(self, error: Exception) -> SerializationError:
        execution = self._execution
        return as_serialization_error(error).of(workflow_id=execution.run.workflow_id, step_id=execution.step_id)

    async def transact(self, body: Callable[[], Awaitable[Any]]) -> Any:
        """Execute one attempt in a transaction that also records the step's outcome; `@step` calls this method.

        Args:
            body: The attempt, whose return value is the value of the step.

        Returns:
            The value in its recorded form, as a replay returns it.

        Raises:
            SerializationError: The codec cannot encode the value.
            SessionError: The session was misused, or no connection was available.
            RunStopped: The run has stopped, and the transaction was rolled back.
            Exception: Any exception that `body` raises. The transaction was rolled back.
        """
        encoded: Encoded | None = None

        def encode(value: Any) -> str:
            nonlocal encoded
            try:
                encoded = self._codec.encode(value)
            except Exception as error:
                raise self._refusal(error) from error
            return encoded.text

        try:
            recorded = await self._steps.transact(self._execution, body, encode)
        finally:
            if self._execution.step_id in self._steps.history.outcomes:
                self._state = "committed"
        return self._value_of(recorded, encoded)

    def committed_value(self) -> Any:
        """Return the value that a transaction has recorded; `@step` calls this method."""
        return self._value_of(self._steps.history.outcomes[self._execution.step_id], None)

    @property
    def is_committed(self) -> bool:
        """True if a transaction has recorded the step's outcome; `@step` reads it."""
        return self._state == "committed"

    async def fail(self, error: str | BaseException, *, transient: bool | None = None) -> None:
        """Record the step's error.

        After a `success` whose value the codec refused, this method does nothing: that error is already recorded.

        Args:
            error: The error, as an exception or as a text.
            transient: Whether the error is transient, so that a later run may execute the step again. By default
                a text is a terminal error, and the class of an exception decides.

        Raises:
            GuardUsedError: The guard has already been used.
            RunStopped: The run has stopped, and nothing was recorded; raised within the workflow's function and
                its steps. Elsewhere the error of the run is raised, such as `WorkflowFencedError`.
            RowRefusedError: The database refused the record of this step.
        """
        if self._state in {"refused", "committed"}:
            return
        self._use()
        if transient is None:
            transient = isinstance(error, BaseException) and not is_terminal(error)
        await self._steps.fail(self._execution, error, terminal=not transient)

    async def wait_for_retry(self) -> None:
        """Wait until the next attempt is due, if attempts of an earlier run failed; `@step` calls this method."""
        await self._steps.wait_for_retry(self._execution)

    async def retry(self, error: Exception, policy: RetryPolicy) -> bool:
        """Record a failed attempt and wait until the next attempt is due; `@step` calls this method.

        Args:
            error: The error of the attempt.
            policy: The retry policy of the step.

        Returns:
            True if the step is to be attempted again, False if `error` is the step's outcome.
        """
        return self._state != "committed" and await self._steps.retry(self._execution, error, policy)

    def abandon(self, crash: BaseException) -> None:
        """Abandon the step without an outcome, as a crash does; `@step` calls this method.

        The next caller executes the step. If `crash` is a cancellation and the run continues, the run logs a
        warning.

        Args:
            crash: The exception that left the step's function.

        Raises:
            PgqrsError: The error of the run, in place of a `crash` that is a stop of the run. It is raised only if
                the step was called outside the workflow's function and outside other steps.
        """
        if self._state == "open":
            self._state = "used"
            self._steps.abandon(self._execution, interrupted=isinstance(crash, asyncio.CancelledError))
        self._steps.raise_outside(self._execution, crash)

    def _use(self) -> None:
        if self._state != "open":
            raise GuardUsedError(self._execution.run.workflow_id, self._execution.step_id)
        self._state = "used"


class ManualGuard(StepGuard):
    """The guard of a step that was acquired by hand, whose caller may drop it unused.

    `@step` always uses its guard, so the base class has no finalizer, which saves one call for each step.
    """

    __slots__ = ()

    def __del__(self) -> None:
        """Abandon the step if the caller dropped the guard unused."""
        if self._state == "open":
            self._steps.drop(self._execution)


class StepResult:
    """The result of `PyWorkflow.acquire_step`: a recorded value, or the guard of a step to execute.

    Attributes:
        status: ``"SKIPPED"`` if the step has a recorded value, ``"EXECUTE"`` if the caller must execute the step.
        guard: The `StepGuard` that records the outcome if `status` is ``"EXECUTE"``; None otherwise.
    """

    __slots__ = ("_recorded", "guard", "status")

    def __init__(
        self,
        status: StepAction,
        *,
        guard: StepGuard | None = None,
        recorded: tuple[StepRunner, str, StoredOutcome, Codec] | None = None,
    ) -> None:
        self.status = status
        # The type is Any because callers check `status`, and would have to check for None as well.
        self.guard: Any = guard
        self._recorded = recorded

    @property
    def value(self) -> Any:
        """The recorded value, decoded anew at each access; None if the caller must execute the step."""
        if self._recorded is None:
            return None
        steps, step_id, outcome, codec = self._recorded
        return steps.value_of(step_id, outcome, codec)

    def __repr__(self) -> str:
        return f"<StepResult {self.status}>"
