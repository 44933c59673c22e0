"""The guard of a step that executes, and the answer of `acquire_step`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pgqrs.codecs.base import Codec, Encoded, as_serialization_error
from pgqrs.codecs.failures import is_terminal
from pgqrs.engine.scope import StepExecution
from pgqrs.engine.step_runner import StepRunner
from pgqrs.errors import (
    GuardUsedError,
)
from pgqrs.retry import RetryPolicy
from pgqrs.storage.records import StoredOutcome
from pgqrs.types import StepAction


class StepGuard:
    """The right and the duty to record what came of a step: `success` or `fail`, once.

    A guard that is let go without either gives the step up, as a crash would, and a warning names the step.
    """

    __slots__ = ("_codec", "_encoded", "_execution", "_state", "_steps")

    def __init__(self, steps: StepRunner, execution: StepExecution, codec: Codec) -> None:
        self._steps = steps
        self._execution = execution
        self._codec = codec
        self._state: Literal["open", "refused", "used", "committed"] = "open"
        self._encoded: Encoded | None = None

    async def success(self, value: Any = None) -> Any:
        """Record the step's value and return it as a replay will see it, once it is committed.

        A value that is not strict JSON is recorded as the step's terminal error and raises
        `SerializationError`. Raises `GuardUsedError` on a second use, and `WorkflowFencedError` when the
        workflow was started again elsewhere: then nothing is recorded.
        """
        if self._state == "committed":
            return self._committed_value()
        self._use()
        steps = self._steps
        try:
            encoded = self._codec.encode(value)
        except Exception as error:
            self._state = "refused"
            refused = as_serialization_error(error).of(
                workflow_id=steps.workflow_id, step_id=self._execution.step_id
            )
            await steps.fail(self._execution, refused, terminal=True)
            raise refused from error
        except BaseException:
            steps.abandon(self._execution)
            raise
        recorded = await steps.record(self._execution, encoded.text)
        if recorded.output is encoded.text:
            return encoded.value
        return steps.value_of(self._execution.step_id, recorded, self._codec)

    def _committed_value(self) -> Any:
        step_id, encoded = self._execution.step_id, self._encoded
        recorded = self._steps.outcomes[step_id]
        if encoded is not None and recorded.output is encoded.text:
            return encoded.value
        return self._steps.value_of(step_id, recorded, self._codec)

    async def transact(self, body: Callable[[], Awaitable[Any]]) -> None:
        """Carry out an attempt in a transaction that records what `body` returns; for `@step`.

        `success` then returns that.
        """
        try:
            await self._steps.transact(self._execution, body, self._text_of)
        finally:
            if self._execution.step_id in self._steps.outcomes:
                self._state = "committed"

    def _text_of(self, value: Any) -> str:
        try:
            self._encoded = self._codec.encode(value)
        except Exception as error:
            refused = as_serialization_error(error)
            raise refused.of(workflow_id=self._steps.workflow_id, step_id=self._execution.step_id) from error
        return self._encoded.text

    @property
    def is_committed(self) -> bool:
        """Whether a transaction has recorded the step's outcome; for `@step`."""
        return self._state == "committed"

    async def fail(self, error: str | BaseException, *, transient: bool | None = None) -> None:
        """Record the step's error.

        A text is a terminal error unless `transient` is true. An exception is classified by its class unless
        `transient` says it. After a `success` whose value was refused this does nothing: that error is
        recorded already. Raises as `success` does.
        """
        if self._state in {"refused", "committed"}:
            return
        self._use()
        if transient is None:
            transient = isinstance(error, BaseException) and not is_terminal(error)
        await self._steps.fail(self._execution, error, terminal=not transient)

    async def wait_for_retry(self) -> None:
        """Wait until the next attempt is due, after those that failed in an earlier run; for `@step`."""
        await self._steps.wait_for_retry(self._execution)

    async def retry(self, error: Exception, policy: RetryPolicy) -> bool:
        """Record a failed attempt and wait until the next is due, or tell that there is none; for `@step`."""
        return self._state != "committed" and await self._steps.retry(self._execution, error, policy)

    def abandon(self, crash: BaseException) -> None:
        """Give the step up without an outcome, as a crash would: the next caller executes it; for `@step`.

        A run that goes on although a cancellation was the `crash` is warned. Where the `crash` is a stop of the
        run, and the step was called in no body and no other step, the run's error is raised in its place.
        """
        if self._state == "open":
            self._state = "used"
            self._steps.abandon(self._execution, interrupted=isinstance(crash, asyncio.CancelledError))
        self._steps.raise_outside(self._execution, crash)

    def _use(self) -> None:
        if self._state != "open":
            raise GuardUsedError(self._steps.workflow_id, self._execution.step_id)
        self._state = "used"


class ManualGuard(StepGuard):
    """A guard that a caller of `acquire_step` holds, and can forget; `@step` cannot: it is spared a call."""

    __slots__ = ()

    def __del__(self) -> None:
        """Give the step up if its caller has let the guard go without using it."""
        if self._state == "open":
            self._steps.drop(self._execution)


class StepResult:
    """What `PyWorkflow.acquire_step` found.

    `status` equals ``"SKIPPED"``, and `value` is the recorded value; or it equals ``"EXECUTE"``, and `guard`
    takes the outcome.
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
        # Any, for the caller looks at `status` and not at whether there is a guard.
        self.guard: Any = guard
        self._recorded = recorded

    @property
    def value(self) -> Any:
        """The recorded value, decoded anew at each reading; None where the step is to be executed."""
        if self._recorded is None:
            return None
        steps, step_id, outcome, codec = self._recorded
        return steps.value_of(step_id, outcome, codec)

    def __repr__(self) -> str:
        return f"<StepResult {self.status}>"
