"""The options of `pgqrs worker`: the queues with their shares, and the form of the log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes that each record of a log has; the others are its `extra`."""


def served_queues(
    _context: click.Context, _option: click.Parameter, given: Sequence[str]
) -> Sequence[str] | Mapping[str, int]:
    """Return the queues of a worker, from NAME or NAME=SHARE: their names, or the share of each."""
    shares = dict(_share(each) for each in given if "=" in each)
    if not shares:
        return given
    if len(shares) < len(given):
        raise click.BadParameter(
            "give each queue a share once, as in --queue mail=20 --queue default=80, or none."
        )
    return shares


def _share(given: str) -> tuple[str, int]:
    queue, _, share = given.rpartition("=")
    if not re.fullmatch("[1-9][0-9]{0,8}", share):
        raise click.BadParameter(f"a share is a whole number of at least 1, as in mail=20, got {given!r}.")
    return queue, int(share)


def set_up_logging(*, as_json: bool) -> None:
    """Log to the standard error stream, as text or as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, with the ids and numbers of its `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            own["exception"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _OWN}
        return json.dumps(extra | own, default=str)
