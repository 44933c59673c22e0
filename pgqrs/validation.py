"""Checks names, keys, durations and numbers that an application passes, and formats the keys of steps.

The separators of a step id are ``:`` and ``/``. Its grammar::

    ID            a step without a key; the `id` of a decorator contains neither separator
    ID:KEY        a step with a key; KEY contains neither separator, but ``:`` joins the elements of a tuple
    now:1         the first ``ctx.now()`` of a workflow's body; ``sleep:1`` likewise
    STEP/now:1    the first ``ctx.now()`` within the step whose id is STEP
    cleanup/:1/now:1
                  the first ``ctx.now()`` within the first ``ctx.cleanup()`` of a workflow's body
    now/NAME      ``ctx.now(id=NAME)``, in the body and in every step; ``sleep/NAME`` likewise
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import re
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeGuard, cast, get_args

from pgqrs.clock import MAX_SECONDS
from pgqrs.errors import ConfigurationError, InvalidNameError
from pgqrs.types import Until

MAX_NAME_BYTES = 512
"""Bytes of UTF-8, maximum length of a workflow name or step id, so that an index entry easily fits a page."""

MAX_SCHEMA_BYTES = 63
"""Bytes, maximum length of an identifier that PostgreSQL does not truncate."""

_PRIORITIES = range(-(2**63), 2**63)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _no_string(name: object) -> str:
    return f"it must be a string, got {type(name).__name__}"


@lru_cache(maxsize=4096)  # each call of a step checks its id
def _flaw(name: str, limit: int) -> str | None:
    if not name:
        return "it must not be empty"
    if "\x00" in name:
        return "it must not contain a NUL character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it must not contain a lone surrogate"
    return f"it must have at most {limit} bytes of UTF-8, got {size}" if size > limit else None


def check_name(what: str, name: object) -> None:
    """Raise `InvalidNameError` for a name that PostgreSQL cannot store.

    `what` is the kind of the name for the error text, such as ``"step id"``.
    """
    flaw = _flaw(name, MAX_NAME_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is not None:
        raise InvalidNameError(f"invalid {what} {_shown(name)}: {flaw}.")


def check_step_id(name: object, *, keyed: bool) -> None:
    """Raise `InvalidNameError` for a decorator's `id` that cannot be stored, or may equal another step's id.

    `keyed` is true for a step with a key.
    """
    check_name("step id", name)
    text = cast(str, name)
    if ":" in text or "/" in text:
        raise InvalidNameError(
            f"invalid step id {_shown(name)}: it must not contain ':' or '/', which separate an id from a key and "
            "from recorded times. Use '-' or '.', or pass a part that varies as the key: `@step(key=...)`."
        )
    if keyed and text in _KINDS:
        raise InvalidNameError(
            f"invalid id {_shown(name)} of a step with a key: ctx.{text}() records ids such as '{text}:1'. "
            "Choose another id: `@step(id=..., key=...)`."
        )


def key_text(key: object) -> str:
    """Return the text of a step's key, which is equal in every process and unique among keys of one type.

    The text has ``%``, ``:`` and ``/`` escaped, so that the key of one step cannot form the id of another step.
    ``:`` joins the elements of a tuple. Raises `InvalidNameError` for a key whose text may differ between
    processes.
    """
    if isinstance(key, tuple) and len(cast("tuple[object, ...]", key)) > 1:
        return ":".join(map(_element, cast("tuple[object, ...]", key)))
    return _element(key)


def escaped(text: str) -> str:
    """Return a text with the separators of step ids escaped."""
    if ":" in text or "/" in text or "%" in text:
        return text.replace("%", "%25").replace(":", "%3A").replace("/", "%2F")
    return text


def is_time(step_id: str) -> bool:
    """Return whether a step id belongs to a recorded time, a message or a child, and not to a step."""
    return "/" in step_id[1:] or step_id.startswith(("now:", "sleep:"))


def _element(key: Any) -> str:
    if type(key) is str:
        return escaped(key)
    if type(key) is int:
        return str(key)
    if isinstance(key, enum.Enum):
        return _element(key.value)  # JSON turns a member into its value, so a replay may pass either
    if isinstance(key, tuple):
        return f"%({':'.join(map(_element, cast('tuple[object, ...]', key)))}%)"
    for accepted, text in _TEXTS:
        if isinstance(key, accepted):
            return escaped(text(key))
    name = type(cast(object, key)).__name__
    raise InvalidNameError(
        "the key of a step must be a str, int, bool, float, Decimal, UUID, date, time, datetime or Enum, or a "
        f"tuple of them, got {name}: the text of a {name} may differ in the next process, which would execute the "
        "step again. Return a value of these types from `key`, as in `key=lambda order: order.number`."
    )


def _moment(time: dt.datetime) -> str:
    # A replay may pass the same moment in another time zone.
    return dt.datetime.isoformat(time if time.tzinfo is None else time.astimezone(dt.UTC))


_KINDS = frozenset({"now", "sleep"})

_TEXTS: tuple[tuple[Any, Any], ...] = (
    (str, str.__str__),
    (bool, bool.__repr__),
    (int, int.__repr__),
    (float, float.__repr__),
    (decimal.Decimal, decimal.Decimal.__str__),
    (uuid.UUID, uuid.UUID.__str__),
    (dt.datetime, _moment),
    (dt.date, dt.date.isoformat),
    (dt.time, dt.time.isoformat),
)


def check_schema(name: object) -> None:
    """Raise `ConfigurationError` for a schema name that PostgreSQL cannot store, or with a control character.

    Alembic writes a tab as spaces into its SQL, which would name another schema.
    """
    flaw = _flaw(name, MAX_SCHEMA_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is None and _CONTROL.search(cast(str, name)):
        flaw = "it must not contain a control character"
    if flaw is not None:
        raise ConfigurationError(f"invalid schema name {_shown(name)}: {flaw}.")


def check_role(name: object) -> None:
    """Raise `ConfigurationError` for a role name that PostgreSQL cannot store."""
    flaw = _flaw(name, MAX_SCHEMA_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is not None:
        raise ConfigurationError(f"invalid role name {_shown(name)}: {flaw}.")


def validate_key(key: object) -> str:
    """Return the key of a workflow; raises `InvalidNameError` for a key that cannot be stored."""
    check_name("key", key)
    return cast(str, key)


def validate_partition_key(key: object) -> str:
    """Return a partition key; raises `InvalidNameError` for a key that cannot be stored."""
    check_name("partition key", key)
    return cast(str, key)


def validate_unique(value: object) -> str:
    """Return a unique value; raises `InvalidNameError` for a value that cannot be stored."""
    check_name("unique value", value)
    return cast(str, value)


def validate_queues(queues: object) -> list[str]:
    """Return the names of a worker's queues, each once.

    Raises `ConfigurationError` for no queue, `InvalidNameError` for a name that cannot be stored, and `TypeError`
    for a string or a value other than an iterable.
    """
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        raise TypeError(f"`queues` must be an iterable of names, got {queues!r}; pass queues=({str(queues)!r},).")
    names = list(dict.fromkeys(cast("Iterable[str]", queues)))
    for name in names:
        check_name("queue", name)
    if not names:
        raise ConfigurationError(
            "`queues` must have at least one queue, got none; omit it to serve the default queue."
        )
    return names


def parse_seconds(what: str, given: object) -> float:
    """Return a duration in seconds, passed as a number or a `timedelta`.

    `what` is the name of the argument for the error text. Raises `ConfigurationError` (a `ValueError`) for a
    duration that is not finite or longer than 100 years, and `TypeError` for a value of another type.
    """
    seconds = given.total_seconds() if isinstance(given, dt.timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"`{what}` must be a number of seconds or a timedelta, got {type(given).__name__}.")
    if not -MAX_SECONDS <= seconds <= MAX_SECONDS:  # the comparison also refuses NaN
        raise ConfigurationError(f"`{what}` must be a finite duration of at most 100 years, got {seconds} s.")
    return float(seconds)


def validate_seconds(what: str, given: object, *, positive: bool = False) -> float | None:
    """Return a duration in seconds, passed as a number or a `timedelta`; return None for None.

    `what` is the name of the argument for the error text. Raises `ConfigurationError` for a duration out of range,
    and `TypeError` for a value of another type.
    """
    if given is None:
        return None
    seconds = parse_seconds(what, given)
    if seconds < 0 or (positive and not seconds):
        raise ConfigurationError(
            f"`{what}` must be {'more than' if positive else 'at least'} 0 seconds, got {seconds} s."
        )
    return seconds


def is_int(value: object) -> TypeGuard[int]:
    """Return whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_is_int(name: str, value: object, advice: str = "") -> None:
    """Raise `TypeError` for a bool or a value other than an int.

    `name` names the value in the error text, which ends with `advice`, such as ``"; pass a number"``.
    """
    if not is_int(value):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}{advice}.")


def validate_positive_int(what: str, given: object, advice: str = "") -> int:
    """Return an int of at least 1; raises `ConfigurationError` for a smaller int, else as `check_is_int` does.

    `what` is the name of the argument for the error text, which ends with `advice`.
    """
    check_is_int(f"`{what}`", given, advice)
    number = cast(int, given)
    if number < 1:
        raise ConfigurationError(f"`{what}` must be at least 1, got {number}{advice}.")
    return number


def validate_priority(priority: object) -> int:
    """Return the priority of a workflow; raises `ConfigurationError` for an int of more than 64 bits.

    Raises `TypeError` for a value other than an int.
    """
    check_is_int("`priority`", priority)
    number = cast(int, priority)
    if number not in _PRIORITIES:
        raise ConfigurationError(f"`priority` must be a 64-bit integer, got {number}.")
    return number


def check_until(until: object, known: Sequence[str] = get_args(Until)) -> None:
    """Raise `ConfigurationError` for a time other than None and those that are known."""
    if until is not None and until not in known:
        listed = " or ".join(map(repr, known))
        raise ConfigurationError(f"`until` must be {listed}, got {until!r}.")


def check_aware(what: str, time: object) -> None:
    """Raise `TypeError` for a value that is no datetime, and `ConfigurationError` for a naive datetime."""
    if not isinstance(time, dt.datetime):
        raise TypeError(f"`{what}` must be an aware datetime, got {type(time).__name__}.")
    if time.utcoffset() is None:
        raise ConfigurationError(
            f"`{what}` must be an aware datetime, got {time!r}: pass a time zone, as in `datetime.now(UTC)`."
        )


def _shown(name: object) -> str:
    try:
        text = ascii(name)
    except Exception:  # noqa: BLE001  # the repr of an object may raise any exception
        text = f"<{type(name).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
