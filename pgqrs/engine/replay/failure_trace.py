"""Traces the exception that ended a run back to the steps that the next run must execute again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

_UNDONE = "__pgqrs_undone__"
"""Key in an exception's `__dict__`: a saga was undone for the exception."""

_MARK = "__pgqrs_mark__"
"""Key of the `_Mark` in an exception's `__dict__`; its leading underscores keep it out of the recorded error."""


class RaisedBy(NamedTuple):
    """The step that raised an exception; `within` holds the ids of the steps around the step, outermost last."""

    step_id: str
    transient: bool
    within: tuple[str, ...]


class _Mark:
    """A weakly referable stand-in for an exception: it lives as long as the exception that holds it.

    Most exception classes do not support weak references themselves. Pickling replaces the mark by a plain object,
    so a copy of the exception in another process has no mark.
    """

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class FailureTrace:
    """The errors that the steps of a run raised, and the steps to re-open when such an error ends the run.

    The trace holds no exception: an exception would keep its traceback, and with it the locals of all frames.
    """

    __slots__ = ("_raised", "_unfollowed")

    def __init__(self) -> None:
        self._raised: WeakKeyDictionary[_Mark, list[RaisedBy]] | None = None  # created at the first error
        self._unfollowed: list[str] = []

    def note(self, error: BaseException, raised_by: RaisedBy) -> None:
        """Note that a step raised `error`; several nested steps may raise the same exception."""
        if self._raised is None:
            self._raised = WeakKeyDictionary()
        self._raised.setdefault(_mark_of(error), []).append(raised_by)

    def recorded(self, step_id: str) -> None:
        """Note that a transient error of the step was submitted to the journal."""
        self._unfollowed.append(step_id)

    def continue_from(self, earlier: FailureTrace) -> None:
        """Adopt from an earlier trace the recorded errors after which no further step began."""
        self._unfollowed = earlier._unfollowed

    def step_began(self) -> None:
        """Forget the recorded errors: the body handled them and began another step."""
        self._unfollowed.clear()

    def stems_from_step(self, error: BaseException) -> bool:
        """Return whether `error` is, or stems from, the transient error of a step."""
        return next(self._culprits(error), None) is not None

    def steps_behind(self, error: BaseException | None, step_id: str) -> tuple[str, ...]:
        """Return the ids of the steps nested in `step_id` whose transient errors `error` is or stems from."""
        return () if error is None else tuple(dict.fromkeys(self._culprits(error, frozenset([step_id]))))

    def to_reopen(self, error: BaseException | None) -> tuple[str, ...]:
        """Return the ids of the steps that the next run must execute again after `error` ended this run.

        These are the steps whose transient errors `error` is or stems from. With them come the steps whose
        recorded transient errors no further step followed, such as the second failure of a `gather`. Without an
        exception, as after ``ctx.fail("text")``, only the second group counts.
        """
        culprits = [] if error is None else list(self._culprits(error))
        if culprits or error is None:
            culprits += self._unfollowed
        return tuple(dict.fromkeys(culprits))

    def _culprits(self, error: BaseException, inside: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the steps that caused `error`, from group members, causes and contexts.

        Below the error of a step, only steps nested in that step count.
        """
        if self._raised is None:
            return
        seen = set[int]()
        pending = [(error, inside)]
        while pending:
            each, inside = pending.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            accepted = [step for step in self._raised_by(each) if not inside or inside.intersection(step.within)]
            yield from (step.step_id for step in accepted if step.transient)
            if accepted:
                inside = frozenset(step.step_id for step in accepted)
            deeper = [(one, inside) for one in _stems_from(each)]
            pending += reversed(deeper)

    def _raised_by(self, error: BaseException) -> list[RaisedBy]:
        mark = _state_of(error).get(_MARK)
        return self._raised.get(mark, []) if self._raised is not None and isinstance(mark, _Mark) else []


def stems_from(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it stems from: group members, causes and contexts."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            pending.extend(_stems_from(each))


def mark_undone(error: BaseException) -> None:
    """Note that a saga was undone for an error."""
    _state_of(error)[_UNDONE] = True


def is_of_undone_saga(error: BaseException) -> bool:
    """Return whether an error is, or stems from, an error for which a saga was undone."""
    return any(_UNDONE in _state_of(each) for each in stems_from(error))


def _stems_from(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        yield from cast("BaseExceptionGroup[BaseException]", error).exceptions
    if error.__cause__ is not None:
        yield error.__cause__
    if error.__context__ is not None:
        yield error.__context__


def _mark_of(error: BaseException) -> _Mark:
    state = _state_of(error)
    mark = state.get(_MARK)
    if not isinstance(mark, _Mark):
        mark = state[_MARK] = _Mark()
    return mark


def _state_of(error: BaseException) -> dict[str, Any]:
    """Return the `__dict__` of an exception, even if its class overrides that attribute."""
    return cast("dict[str, Any]", vars(BaseException)["__dict__"].__get__(error))
