"""Checks of the names that become keys in the database, and the text of a step's key.

The grammar of a step id, in which ``:`` and ``/`` separate::

    ID            a step without a key; the `id` of a decorator holds neither ``:`` nor ``/``
    ID:KEY        a step with a key; KEY holds neither, unless it is a tuple: then ``:`` separates its elements
    now:1         the first ``ctx.now()`` of a workflow's body; ``sleep:1`` likewise
    STEP/now:1    the first ``ctx.now()`` within the step whose id is STEP
    now/NAME      ``ctx.now(id=NAME)``, wherever it is called; ``sleep/NAME`` likewise
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import re
import uuid
from functools import lru_cache
from typing import Any, cast

from pgqrs.errors import ConfigurationError, InvalidNameError

MAX_NAME_BYTES = 512
"""The longest workflow name or step id, in bytes of UTF-8: an index entry must fit a page comfortably."""

MAX_SCHEMA_BYTES = 63
"""The longest identifier that PostgreSQL does not cut short."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _no_string(name: object) -> str:
    return f"it must be a string, not {type(name).__name__}"


@lru_cache(maxsize=4096)  # a step's id is checked at each of its calls
def _flaw(name: str, limit: int) -> str | None:
    if not name:
        return "it is empty"
    if "\x00" in name:
        return "it contains a NUL character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it contains a lone surrogate"
    return f"it has {size} bytes, and the limit is {limit}" if size > limit else None


def check_name(what: str, name: object) -> None:
    """Refuse a workflow name or step id that PostgreSQL could not hold.

    `what` names it in the message, as in ``"step id"``. Raises `InvalidNameError`.
    """
    flaw = _flaw(name, MAX_NAME_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is not None:
        raise InvalidNameError(f"{_shown(name)} cannot be a {what}: {flaw}.")


def check_step_id(name: object, *, keyed: bool) -> None:
    """Refuse the `id` of a decorator that PostgreSQL could not hold, or that could be the id of another step.

    `keyed` says that the step has a key. Raises `InvalidNameError`.
    """
    check_name("step id", name)
    text = cast(str, name)
    if ":" in text or "/" in text:
        raise InvalidNameError(
            f"{_shown(name)} cannot be a step id: ':' and '/' separate the id from a key and from the times that "
            "are recorded in the step. Use '-' or '.', or give a part that varies as the key: `@step(key=...)`."
        )
    if keyed and text in _KINDS:
        raise InvalidNameError(
            f"{_shown(name)} cannot be the id of a step with a key: ctx.{text}() records ids as '{text}:1'. "
            "Give the step another one: `@step(id=..., key=...)`."
        )


def key_text(key: object) -> str:
    """Return the text of a step's key: the same in every process, and for no two keys of one type the same.

    ``%``, ``:`` and ``/`` are escaped in it, so that the key of one step cannot make the id of another. The
    elements of a tuple are joined by ``:``. Raises `InvalidNameError` for a key whose text may differ between
    processes.
    """
    if isinstance(key, tuple) and len(cast("tuple[object, ...]", key)) > 1:
        return ":".join(map(_element, cast("tuple[object, ...]", key)))
    return _element(key)


def escaped(text: str) -> str:
    """Return a text in which nothing separates the parts of a step id."""
    if ":" in text or "/" in text or "%" in text:
        return text.replace("%", "%25").replace(":", "%3A").replace("/", "%2F")
    return text


def is_time(step_id: str) -> bool:
    """Tell whether a step id is that of a recorded time."""
    return "/" in step_id or step_id.startswith(("now:", "sleep:"))


def _element(key: Any) -> str:
    if type(key) is str:
        return escaped(key)
    if type(key) is int:
        return str(key)
    if isinstance(key, enum.Enum):
        return _element(key.value)  # JSON makes the value of it: a replay may have either
    if isinstance(key, tuple):
        return f"%({':'.join(map(_element, cast('tuple[object, ...]', key)))}%)"
    for accepted, text in _TEXTS:
        if isinstance(key, accepted):
            return escaped(text(key))
    name = type(cast(object, key)).__name__
    raise InvalidNameError(
        "the key of a step is a str, int, bool, float, Decimal, UUID, date, time, datetime or Enum, or a tuple of "
        f"them, not {name}: the text of a {name} may differ in the next process, which would execute the step "
        "again. Have `key` return a value of these types, as in `key=lambda order: order.number`."
    )


def _moment(time: dt.datetime) -> str:
    # A replay may have it in another zone.
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
    """Refuse a schema name that PostgreSQL could not hold, or that has control characters.

    Alembic writes a tab into its SQL as spaces, which is the name of another schema. Raises `ConfigurationError`.
    """
    flaw = _flaw(name, MAX_SCHEMA_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is None and _CONTROL.search(cast(str, name)):
        flaw = "it contains a control character"
    if flaw is not None:
        raise ConfigurationError(f"{_shown(name)} cannot be a schema name: {flaw}.")


def check_role(name: object) -> None:
    """Refuse the name of a role that PostgreSQL could not hold; raises `ConfigurationError`."""
    flaw = _flaw(name, MAX_SCHEMA_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is not None:
        raise ConfigurationError(f"{_shown(name)} cannot be the name of a role: {flaw}.")


def _shown(name: object) -> str:
    try:
        text = ascii(name)
    except Exception:  # noqa: BLE001  # the object's class may do anything
        text = f"<{type(name).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
