"""Parameters of a DSN: parameters of libpq, some of which the driver accepts, and settings of the server.

libpq's parameters are listed at https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS.
asyncpg sends an unknown parameter to the server as a setting, and the server's refusal does not mention the DSN.
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

_logger = logging.getLogger("pgqrs.storage")

# Details of libpq's own connections, which change neither the server nor the safety of the connection.
_IGNORED = {
    "gssdelegation", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "load_balance_hosts", "max_protocol_version", "min_protocol_version", "sslcompression", "sslkeylogfile",
    "sslsni", "tcp_user_timeout",
}  # fmt: skip

# Parameters for a safer or a different connection that asyncpg does not support, with their harmless values.
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

# The SQLSTATE codes of an unknown setting, of an invalid value, and PgBouncer's code of an unknown setting.
_REFUSALS = {"42704", "22023", "08P01"}

_UNICODE = {"auto", "utf8", "utf-8", "unicode"}


class Parameters(NamedTuple):
    """Parameters of a DSN, which follow its `?`.

    `passed` holds the parameters for the driver, as written. `pooler` is the value of the option `pgqrs_pooler`,
    and `connect_timeout` limits a connection attempt, in seconds; each is None if the DSN does not set it.
    """

    passed: list[str]
    pooler: str | None
    connect_timeout: float | None


def parameters_of(written: Iterable[str]) -> Parameters:
    """Read percent-encoded parameters of the form ``name=value``.

    Raises `InvalidDSNError`, which names the parameter, for a parameter of libpq that asyncpg cannot honour.
    """
    reading = _Reading()
    for each in written:
        name, _, value = each.partition("=")
        reading.take(unquote_plus(name), unquote_plus(value), each)
    return reading.parameters()


def refused_parameter(error: asyncpg.PostgresError) -> str | None:
    """Return the parameter for which the server or a pooler refused a connection, or None for another reason.

    It is "?" if the error does not name the parameter.
    """
    if error.sqlstate not in _REFUSALS:
        return None
    found = re.search(r"parameter:? \"?([\w.]+)", str(error))
    return "?" if found is None else found[1]


class _Reading:
    """The parameters that are read so far."""

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
        # Other libraries use this parameter for a PgBouncer in transaction mode.
        if value == "true" and self._pooler is None:
            self._pooler = "transaction"

    def _take_channel_binding(self, value: str) -> None:
        # The DSNs of hosted servers contain it, so it is not refused.
        if value == "require":
            _logger.warning(
                "pgqrs: the DSN has channel_binding=require, but the driver asyncpg has no channel binding. Use "
                "sslmode=verify-full to verify the identity of the server."
            )

    def _take_client_encoding(self, value: str) -> None:
        if value.lower() not in _UNICODE:
            raise InvalidDSNError("the DSN's client_encoding must be utf8: correct or remove it.")

    def _take_connect_timeout(self, value: str) -> None:
        if not value.removeprefix("-").isdecimal():
            raise InvalidDSNError("the DSN's connect_timeout must be a whole number of seconds: correct it.")
        if int(value) > 0:  # libpq sets no limit for 0 or less; Admin's `timeout` still applies
            self._connect_timeout = float(value)


def _check_asks_for_nothing(name: str, value: str) -> None:
    if value not in _REFUSED.get(name, set()):
        raise InvalidDSNError(
            f"the DSN's {name} requests a feature that the driver asyncpg does not support. Remove it, or give "
            "Admin an engine that connects as required."
        )
