"""Checks of the names that become keys in the database."""

from __future__ import annotations

from functools import lru_cache

from pgqrs.errors import ConfigurationError, InvalidNameError

MAX_NAME_BYTES = 512
"""The longest workflow name or step id, in bytes of UTF-8: an index entry must fit a page comfortably."""

MAX_SCHEMA_BYTES = 63
"""The longest identifier that PostgreSQL does not cut short."""


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


def check_schema(name: object) -> None:
    """Refuse a schema name that PostgreSQL could not hold; raises `ConfigurationError`."""
    flaw = _flaw(name, MAX_SCHEMA_BYTES) if isinstance(name, str) else _no_string(name)
    if flaw is not None:
        raise ConfigurationError(f"{_shown(name)} cannot be a schema name: {flaw}.")


def _shown(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
