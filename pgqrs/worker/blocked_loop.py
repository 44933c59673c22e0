"""Detects a blocked event loop, and names the step that blocks it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from time import monotonic
from types import FrameType
from typing import Any

from pgqrs.observer import Observer
from pgqrs.storage.store import RunControl
from pgqrs.workflow.context import PyWorkflow

CHECK_INTERVAL = 0.25
"""Seconds between two checks of the event loop."""

BLOCKED_AFTER = 1.0
"""Minimum seconds by which a late event loop counts as blocked."""

_MAX_NAMED = 3
_OURS = __name__.partition(".")[0]

_logger = logging.getLogger("pgqrs.worker")


class BlockedLoopDetector:
    """Logs one warning each time that code blocks the event loop for more than a second, and names the step.

    A thread checks the loop: the blocking code is on the stack of the loop's thread only while it blocks.
    """

    def __init__(self, runs: Mapping[int, RunControl], observer: Observer | None = None) -> None:
        self._runs = runs
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._beaten_at = monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to check the running event loop."""
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="pgqrs-blocked-loop", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Stop the checks."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beaten_at = monotonic()
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._beat)

    def _watch(self) -> None:
        warned_of: float | None = None
        looked_at = monotonic()
        while not self._stopped.wait(CHECK_INTERVAL):
            beaten_at, before, looked_at = self._beaten_at, looked_at, monotonic()
            # A process that was stopped as a whole stopped this thread too: its loop was not blocked.
            was_stopped = looked_at - before > CHECK_INTERVAL + BLOCKED_AFTER
            if (
                looked_at - beaten_at > CHECK_INTERVAL + BLOCKED_AFTER
                and beaten_at != warned_of
                and not was_stopped
            ):
                warned_of = beaten_at
                self._warn()

    def _warn(self) -> None:
        # Python has no public function for another thread's frame; pyright reports the underscore as private.
        frame = sys._current_frames().get(self._loops_thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if frame is None or self._stopped.is_set():
            return
        culprit, known = self._culprit(frame)
        _logger.warning(
            "the event loop has been blocked for more than %g s by %s, at %s: all workflows of this process wait. "
            "Make the step a plain function with @step(thread=True), or give it @step(executor=...).",
            BLOCKED_AFTER,
            culprit,
            _place(frame),
            extra=known,
        )
        if self._observer is not None:
            self._observer.loop_blocked(known.get("workflow_id"), known.get("step_id"))

    def _culprit(self, frame: FrameType) -> tuple[str, dict[str, Any]]:
        """Return who blocks the loop, and the attributes of the log record: none if it is not certain."""
        context = next(_contexts(frame), None)
        if context is not None:
            workflow_id, step_id = context.id(), self._busy_with(context.id())
            known: dict[str, Any] = {"workflow_id": workflow_id, "workflow_name": context.name}
            if step_id is not None:
                known["step_id"] = step_id
            return _named(workflow_id, context.name, step_id), known
        ids = [*self._runs]
        busy = [_named(each, None, step_id) for each in ids if (step_id := self._busy_with(each))]
        if not busy:
            return "code outside of a step", {}
        return "code that may belong to " + " or ".join(busy[:_MAX_NAMED]), {}

    def _busy_with(self, workflow_id: int) -> str | None:
        run = self._runs.get(workflow_id)
        return None if run is None else run.busy_with


def _named(workflow_id: int, name: str | None, step_id: str | None) -> str:
    place = "the body" if step_id is None else f"step {step_id!r}"
    return f"{place} of workflow {workflow_id}" + (f" ({name!r})" if name else "")


def _contexts(frame: FrameType | None) -> Iterator[PyWorkflow]:
    """Yield the workflow contexts among the local variables on the stack, innermost first."""
    while frame is not None:
        for value in [*frame.f_locals.values()]:
            if isinstance(value, PyWorkflow):
                yield value
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
