"""The parameters of a DSN: libpq's, of which the driver takes some, and those of the server's settings.

libpq's are those of https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS. asyncpg takes
what it does not know for a setting of the server, which refuses it in words that do not speak of the DSN.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote_plus

import asyncpg

from pgqrs.errors import InvalidDSNError
from pgqrs.storage.connections.pooler import OPTION

_logger = logging.getLogger("pgqrs")

# How libpq looks after its socket: nothing that decides what is reached, or how safely.
_IGNORED = {
    "gssdelegation", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "load_balance_hosts", "max_protocol_version", "min_protocol_version", "sslcompression", "sslkeylogfile",
    "sslsni", "tcp_user_timeout",
}  # fmt: skip

# What makes a connection safer, or another one, and what asyncpg cannot do: with the values that ask for nothing.
_REFUSED: dict[str, set[str]] = {
    "gssencmode": {"disable", "prefer"},
    "hostaddr": set(),
    "replication": {"false", "off", "no", "0"},
    "require_auth": set(),
    "requirepeer": set(),
    "scram_client_key": set(),
    "scram_server_key": set(),
    "sslcertmode": {"disable", "allow"},
    "sslcrldir": set(),
}

# An unknown setting, a value that it cannot have, and PgBouncer's word for the former.
_REFUSALS = {"42704", "22023", "08P01"}

_UNICODE = {"auto", "utf8", "utf-8", "unicode"}


class Parameters(NamedTuple):
    """What a DSN says behind its `?`.

    `passed` are those for the driver, as they are written. `pooler` is our own option, and `connect_timeout`
    bounds a connection attempt, in seconds; None where it does not say.
    """

    passed: list[str]
    pooler: str | None
    connect_timeout: float | None


def parameters_of(written: Iterable[str]) -> Parameters:
    """Read parameters that are written ``name=value``, percent-encoded.

    Raises `InvalidDSNError`, which names the parameter, for one of libpq's that cannot be honoured.
    """
    reading = _Reading()
    for each in written:
        name, _, value = each.partition("=")
        reading.take(unquote_plus(name), unquote_plus(value), each)
    return reading.parameters()


def refused_parameter(error: asyncpg.PostgresError) -> str | None:
    """Return the parameter that the server, or a pooler, has refused a connection for, None for another reason."""
    if error.sqlstate not in _REFUSALS:
        return None
    found = re.search(r"parameter:? \"?([\w.]+)", str(error))
    return "?" if found is None else found[1]


class _Reading:
    """Parameters as far as they are read."""

    def __init__(self) -> None:
        self._passed: dict[str, list[str]] = {}
        self._pooler: str | None = None
        self._connect_timeout: float | None = None
        self._instead: list[tuple[str, str]] = []
        self._ours: dict[str, Callable[[str], None]] = {
            OPTION: self._take_pooler,
            "channel_binding": self._take_channel_binding,
            "client_encoding": self._take_client_encoding,
            "connect_timeout": self._take_connect_timeout,
            "fallback_application_name": lambda value: self._instead.append(("application_name", value)),
            "pgbouncer": self._take_pgbouncer,
            "requiressl": lambda value: self._instead.append(("sslmode", "require" if value == "1" else "prefer")),
        }

    def take(self, name: str, value: str, written: str) -> None:
        if name in self._ours:
            self._ours[name](value)
        elif name in _REFUSED or name.startswith("oauth_"):
            _check_asks_for_nothing(name, value)
        elif name not in _IGNORED:
            self._passed.setdefault(name, []).append(written)

    def parameters(self) -> Parameters:
        for name, value in self._instead:
            self._passed.setdefault(name, [f"{name}={quote(value, safe='')}"])
        passed = [each for several in self._passed.values() for each in several]
        return Parameters(passed, self._pooler, self._connect_timeout)

    def _take_pooler(self, value: str) -> None:
        self._pooler = value

    def _take_pgbouncer(self, value: str) -> None:
        # The word of other libraries for a PgBouncer in transaction mode.
        if value == "true" and self._pooler is None:
            self._pooler = "transaction"

    def _take_channel_binding(self, value: str) -> None:
        # Hosted servers have it in the DSN that they hand out, so it is not refused.
        if value == "require":
            _logger.warning(
                "pgqrs: the DSN has channel_binding=require, and asyncpg, which connects, has no channel binding: "
                "sslmode=verify-full is what proves to it that the server is the right one."
            )

    def _take_client_encoding(self, value: str) -> None:
        if value.lower() not in _UNICODE:
            raise InvalidDSNError("the DSN's client_encoding must be utf8, which pgqrs speaks: leave it out.")

    def _take_connect_timeout(self, value: str) -> None:
        if not value.removeprefix("-").isdecimal():
            raise InvalidDSNError("the DSN's connect_timeout must be a whole number of seconds.")
        if int(value) > 0:  # libpq's word for no bound, which Admin's `timeout` is all the same
            self._connect_timeout = float(value)


def _check_asks_for_nothing(name: str, value: str) -> None:
    if value not in _REFUSED.get(name, set()):
        raise InvalidDSNError(
            f"the DSN's {name} asks for something that asyncpg, the driver, cannot do: leave it out, or give "
            "Admin an engine that connects as you need it."
        )
