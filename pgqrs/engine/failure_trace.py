"""Which steps brought a run down: from the exception that left its body to the steps that are to run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

_MARK = "__pgqrs_mark__"
"""The entry of an exception's `__dict__` that holds its `_Mark`; with its underscores it is not recorded."""


class RaisedBy(NamedTuple):
    """A step whose error an exception is; `within` are the steps that it was called from, outermost last."""

    step_id: str
    transient: bool
    within: tuple[str, ...]


class _Mark:
    """Lives as long as the exception that has it, which most classes of exceptions give no weak reference to.

    A copy of the exception in another process has a plain object in its place.
    """

    __slots__ = ("__weakref__",)

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class FailureTrace:
    """The errors that a run's steps raised, and what is to be re-opened when one of them ends the run.

    It keeps no exception: each holds its traceback, and that the locals of its frames.
    """

    __slots__ = ("_raised", "_unfollowed")

    def __init__(self) -> None:
        self._raised: WeakKeyDictionary[_Mark, list[RaisedBy]] | None = None  # made at the first error
        self._unfollowed: list[str] = []

    def note(self, error: BaseException, raised_by: RaisedBy) -> None:
        """Remember that `error` is the error of a step; one exception may be that of several nested ones."""
        if self._raised is None:
            self._raised = WeakKeyDictionary()
        self._raised.setdefault(_mark_of(error), []).append(raised_by)

    def recorded(self, step_id: str) -> None:
        """Remember that a transient error of the step was sent to be recorded."""
        self._unfollowed.append(step_id)

    def continue_from(self, earlier: FailureTrace) -> None:
        """Take over which recorded errors nothing has followed yet."""
        self._unfollowed = earlier._unfollowed

    def step_began(self) -> None:
        """Forget the recorded errors: the body saw them, and went on to another step."""
        self._unfollowed.clear()

    def stems_from_step(self, error: BaseException) -> bool:
        """Tell whether `error` is the recorded transient error of a step, or stems from one."""
        return next(self._culprits(error), None) is not None

    def steps_behind(self, error: BaseException | None, step_id: str) -> tuple[str, ...]:
        """Return the steps nested in `step_id` whose transient errors `error` is or stems from."""
        return () if error is None else tuple(dict.fromkeys(self._culprits(error, frozenset([step_id]))))

    def to_reopen(self, error: BaseException | None) -> tuple[str, ...]:
        """Return the steps that the next run is to execute again after `error` ended this one.

        They are the steps whose transient errors `error` is or stems from, and with them those whose transient
        errors nothing followed, as the second failure of a `gather`. Without an exception to follow, as after
        ``ctx.fail("text")``, they are the latter alone.
        """
        culprits = [] if error is None else list(self._culprits(error))
        if culprits or error is None:
            culprits += self._unfollowed
        return tuple(dict.fromkeys(culprits))

    def _culprits(self, error: BaseException, inside: frozenset[str] = frozenset()) -> Iterator[str]:
        """Walk group leaves, causes and contexts; below a step's own error only the steps nested in it count."""
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
    """Yield an error, and whatever it stems from."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            pending.extend(_stems_from(each))


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
    """Return the `__dict__` of an exception, whatever its class makes of that name."""
    return cast("dict[str, Any]", vars(BaseException)["__dict__"].__get__(error))
