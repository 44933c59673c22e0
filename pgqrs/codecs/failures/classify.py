"""Classification of errors as terminal or transient."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final, TypeAlias, cast

from pgqrs.errors import PgqrsError, StepFailedError, TerminalError, TransientError

__all__ = ["ErrorClasses", "ReplayedError", "is_group", "is_terminal", "leaves_of"]

ErrorClasses: TypeAlias = tuple[type[BaseException], ...]

_TERMINAL_BY_DEFAULT: Final[ErrorClasses] = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    NameError,
    NotImplementedError,
)

_SQLSTATE_LENGTH: Final = 5
_TERMINAL_SQLSTATES: Final = ("22", "42")
"""Classes of SQLSTATE: data exceptions (22), and syntax errors or access rule violations (42)."""


class ReplayedError(StepFailedError):
    """The data of every replayed error: its recorded failure and the class of the original."""

    pgqrs_failure: Any
    """The recorded `Failure`; typed as Any because its module imports this module."""
    pgqrs_original: ClassVar[type[Exception]] = StepFailedError


def is_terminal(error: BaseException, *, terminal: ErrorClasses = (), transient: ErrorClasses = ()) -> bool:
    """Return True if a retry after `error` cannot succeed.

    The first rule that applies decides: the options `terminal` and `transient` of the step; the recorded verdict
    of a replayed error; `TerminalError` and `TransientError`; the defaults. If both options name a class of the
    error, the most specific class decides, and `terminal` wins a tie. A group is terminal if one of its leaves is
    terminal, unless a rule names the class of the group.
    """
    pending = [error]
    while pending:
        current = pending.pop()
        verdict = _verdict(current, terminal, transient)
        if verdict is None and is_group(current):
            pending += leaves_of(current)
        elif verdict:
            return True
    return False


def is_group(error: BaseException) -> bool:
    """Return True for an exception group."""
    return isinstance(error, BaseExceptionGroup)


def _decides_on_groups(cls: type) -> bool:
    return issubclass(cls, (BaseExceptionGroup, TerminalError, TransientError))


def leaves_of(group: Any) -> tuple[BaseException, ...]:
    """Return the direct members of an exception group."""
    return cast("tuple[BaseException, ...]", group.exceptions)


def _verdict(error: BaseException, terminal: ErrorClasses, transient: ErrorClasses) -> bool | None:
    """Return the verdict on `error` itself; None makes a leaf transient, and leaves a group to its leaves."""
    lineage = _lineage(error)
    if is_group(error):
        lineage = list(filter(_decides_on_groups, lineage))
    verdicts = (
        _first_named(lineage, terminal, transient),
        error.pgqrs_failure.terminal if isinstance(error, ReplayedError) else None,
        _first_named(lineage, (TerminalError,), (TransientError,)),
        _first_named(lineage, _TERMINAL_BY_DEFAULT, ()),
        _is_refused_by_sql(error) or None,
    )
    return next((verdict for verdict in verdicts if verdict is not None), None)


def _is_refused_by_sql(error: BaseException) -> bool:
    """Return True for a database error that the same statement with the same data raises again.

    SQLAlchemy's errors hold the driver's error as `orig`, and drivers hold the code as `sqlstate` or `pgcode`.
    Errors of pgqrs are excluded: they concern statements of pgqrs, which are not the step's input.
    """
    if isinstance(error, PgqrsError):
        return False
    with suppress(Exception):  # an exception's class may raise any exception
        for each in (error, getattr(error, "orig", None)):
            for name in ("sqlstate", "pgcode"):
                code = getattr(each, name, None)
                if isinstance(code, str) and len(code) == _SQLSTATE_LENGTH:
                    return code.startswith(_TERMINAL_SQLSTATES)
    return False


def _lineage(error: BaseException) -> list[type]:
    """Return the classes of `error`; the classes of a replayed error begin with the classes of its original."""
    original = type(error).pgqrs_original.__mro__ if isinstance(error, ReplayedError) else ()
    return [*original, *type(error).__mro__]


def _first_named(lineage: list[type], terminal: ErrorClasses, transient: ErrorClasses) -> bool | None:
    for cls in lineage:
        if cls in terminal:
            return True
        if cls in transient:
            return False
    return None
