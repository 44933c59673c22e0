"""The recorded steps of a run, and the warnings about their replays."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from pgqrs.clock import Clock
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, codec_at, is_sealing, is_typed
from pgqrs.engine.replay.frontier import NOTHING_RECORDED, Frontier
from pgqrs.engine.scope import Retry, StepExecution, current_scope
from pgqrs.errors import StepMismatchError
from pgqrs.storage.records import History, StoredOutcome
from pgqrs.validation import is_time

REPEATS_BEFORE_WARNING = 100
"""Number of replays of one step in one run that causes a warning."""

_logger = logging.getLogger("pgqrs.engine")


class _Call(NamedTuple):
    """A call that a recorded outcome has answered: its task, its place and attempt, and the waits of the task."""

    task: ref[asyncio.Task[Any]]
    place: str
    failures: int
    waits: int


class _Polls:
    """The waits of each task of a run, to notice a step that a task calls again after each wait.

    The first answer is not noted, so most steps are never noted. Other tasks and other attempts may well call the
    same steps after a wait.
    """

    __slots__ = ("_calls", "_waits", "noticed")

    def __init__(self, noticed: set[str]) -> None:
        self._calls: dict[str, _Call] = {}
        self._waits: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self.noticed = noticed

    def waited(self) -> None:
        """Note a wait of the calling task."""
        task = asyncio.current_task()
        if task is not None:
            self._waits[task] = self._waits.get(task, 0) + 1

    def is_polled(self, step_id: str) -> bool:
        """Return whether the calling task has called the step before its last wait, too; True once for a step."""
        task = asyncio.current_task()
        if task is None or step_id in self.noticed or not (waits := self._waits.get(task, 0)):
            return False
        scope = current_scope.get()
        place = (scope.step_id, scope.retry.failures) if isinstance(scope, StepExecution) else ("", 0)
        call, before = _Call(ref(task), *place, waits), self._calls.get(step_id)
        self._calls[step_id] = call
        if before is None or before[:-1] != call[:-1] or before.waits == waits:
            return False
        self.noticed.add(step_id)
        return True


class StepHistory:
    """The outcomes and the failed attempts of the steps of a run, with the calls that they have answered.

    Args:
        workflow_id: The id of the workflow.
        name: The name of the workflow.
        codec: The codec of the workflow's payloads.
        recorded: The recorded outcomes and failed attempts of earlier runs.
        clock: The clock of the run.

    Attributes:
        outcomes: The recorded outcomes by step id.
        failed: The failed attempts by step id, of steps that are being retried.
        asked: The steps that this run has acquired, each with the return type of its function; None for a step
            without `@step`.
        frontier: The recorded steps that this run has not asked for.
        retries: The number of retries of the workflow itself.
        generation: The epoch in which the workflow last continued as new; 0 for never.
        is_plain: True if the codec ignores types and does not seal values.
        strict: True to raise an error when a recorded outcome answers a call with different arguments.
    """

    __slots__ = (
        "_mismatched",
        "_polls",
        "_repeats",
        "_warned",
        "asked",
        "codec",
        "failed",
        "frontier",
        "generation",
        "is_plain",
        "name",
        "outcomes",
        "retries",
        "strict",
        "workflow_id",
    )

    def __init__(self, workflow_id: int, name: str, codec: Codec, recorded: History, clock: Clock) -> None:
        self.workflow_id = workflow_id
        self.name = name
        self.codec = codec
        self.is_plain = not (is_typed(codec) or is_sealing(codec))
        self.strict = False
        self.outcomes: dict[str, StoredOutcome] = recorded.outcomes
        self.failed: dict[str, Retry] = {}
        if recorded.failed:
            now = clock.time()
            self.failed = {step: Retry(each.failures, now + each.wait) for step, each in recorded.failed.items()}
        self.asked: dict[str, ReturnType | None] = {}
        earlier = (*recorded.outcomes, *recorded.failed)
        self.frontier = Frontier(earlier) if earlier else NOTHING_RECORDED
        self.generation = recorded.generation
        self.retries = recorded.retries
        self._mismatched: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._polls: _Polls | None = None
        self._warned: set[str] = set()

    def as_recorded(self) -> History:
        """Return the record of this run so far, for a run that replays it."""
        return History(self.outcomes, {}, None, self.retries, self.generation)

    def continue_from(self, earlier: StepHistory) -> None:
        """Adopt the state that an earlier history of the same run kept beside the outcomes."""
        self.failed, self._mismatched = earlier.failed, earlier._mismatched
        self._warned = earlier._warned
        if earlier._polls is not None:
            self._polls = _Polls(earlier._polls.noticed)

    def waited(self) -> None:
        """Note that the calling task has waited for a time or a message, in this run or in the recorded one."""
        if self._polls is None:
            self._polls = _Polls(set())
        self._polls.waited()

    def codec_and_fingerprint(
        self, step_id: str, returns: ReturnType | None, fingerprint: int | None
    ) -> tuple[Codec, int | None]:
        """Return the codec for a step's value, and the fingerprint to record for its call.

        With a sealing codec the fingerprint is None: a fingerprint reveals arguments with few possible values.
        """
        codec = self.codec if returns is None else returns.codec(self.codec)
        codec = codec_at(codec, "output", self.workflow_id, step_id)
        return codec, None if is_sealing(codec) else fingerprint

    def unasked(self) -> set[str]:
        """Return the ids of the steps that earlier runs recorded and this run did not acquire, without times."""
        return {each for each in self.frontier.unasked if not is_time(each)}

    def is_of_earlier_run(self, step_id: str) -> bool:
        """Return whether an earlier run has recorded the step."""
        return step_id in self.frontier.unasked or step_id in self.frontier.asked

    def check_fingerprint(self, step_id: str, recorded: int | None, called: int | None) -> None:
        """Warn about a recorded outcome that answers a call with different arguments, or raise if strict."""
        if recorded is None or called is None:
            return
        if self.strict:
            raise StepMismatchError(self.workflow_id, step_id)
        if step_id not in self._mismatched:
            self._mismatched.add(step_id)
            _logger.warning(
                "workflow %s (%r): the recorded outcome of step %r answers a call with different arguments. "
                "Give different calls different ids (`@step(key=...)`), or number them (`@step(numbered=True)`). "
                "`@workflow(strict=True)` makes this an error.",
                self.workflow_id,
                self.name,
                step_id,
                extra=self.known(step_id),
            )

    def on_answer(self, step_id: str, returns: ReturnType | None) -> None:
        """Note that a recorded outcome answers a call.

        A warning follows if the step was acquired by another function, if a task calls it again after each wait,
        or if it is replayed very often in this run.
        """
        if step_id not in self.asked:
            self.asked[step_id] = returns
            return
        first = self.asked[step_id]
        if first is not None and returns is not None and not first.is_of(returns):
            self.asked[step_id] = None  # warn once
            _logger.warning(
                "workflow %s (%r): step %r of the function %s is answered by the outcome of %s. Give one of "
                "these functions an id of its own: `@step(id=...)`.",
                self.workflow_id,
                self.name,
                step_id,
                returns,
                first,
                extra=self.known(step_id),
            )
        if self._polls is not None and self._polls.is_polled(step_id):
            _logger.warning(
                "workflow %s (%r): step %r is called again after each wait, and is answered by its recorded "
                "outcome, which does not change. To execute each call, number the calls (`numbered=True`) or give "
                "them different keys (`key=`).",
                self.workflow_id,
                self.name,
                step_id,
                extra=self.known(step_id),
            )
        self._repeats[step_id] = repeats = self._repeats.get(step_id, 1) + 1
        if repeats == REPEATS_BEFORE_WARNING:
            _logger.warning(
                "workflow %s (%r): step %r was replayed from its recorded outcome %d times in one run. A recorded "
                "outcome does not change: to execute each call, number the calls (`@step(numbered=True)`) or give "
                "them different keys (`@step(key=...)`).",
                self.workflow_id,
                self.name,
                step_id,
                repeats,
                extra=self.known(step_id),
            )

    def warn_of_repetition(self, action: str, advice: str) -> None:
        """Warn about an action in the body and outside a step, which each replay repeats; once for each action."""
        if action not in self._warned:
            self._warned.add(action)
            _logger.warning(
                "workflow %s (%r) %s: each replay does so again. %s",
                self.workflow_id,
                self.name,
                action,
                advice,
                extra=self.known(),
            )

    def known(self, step_id: str | None = None, **more: object) -> dict[str, object]:
        """Return the attributes of a log record about the workflow or a step."""
        step = {} if step_id is None else {"step_id": step_id}
        return {"workflow_id": self.workflow_id, "workflow_name": self.name, **step, **more}
