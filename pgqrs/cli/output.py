"""The output of the commands: tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import click

from pgqrs.types import Unreadable, names_of_fields

MAX_WIDTH = 40
"""Characters, the width of a column from which on longer cells do not widen the other rows."""


def print_json(value: Any) -> None:
    """Print a value as JSON, with times in ISO 8601 and lengths in seconds."""
    click.echo(json.dumps(value, indent=2, default=plain))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings; what a terminal could take for a command is escaped."""
    cells = [head, *([escaped(cell) for cell in row] for row in rows)]
    widths = [min(max(map(len, column)), MAX_WIDTH) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def escaped(text: str) -> str:
    """Return a text with the characters escaped that cannot be printed, such as those of control."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def to_values(record: Any) -> Any:
    """Return a record, or what a record has, as values for JSON; a payload that cannot be read says so."""
    if isinstance(record, Unreadable):
        return {"unreadable": record.error}
    names = names_of_fields(record)
    if names:
        return {name: to_values(getattr(record, name)) for name in names}
    if isinstance(record, (list, tuple)):
        return [to_values(each) for each in cast("Sequence[Any]", record)]
    return record


def cut(text: str, most: int | None) -> str:
    """Return a text with at most `most` characters, None for all of it."""
    return text if most is None or len(text) <= most else f"{text[: most - 3]}..."


def moment(time: datetime | None) -> str:
    """Return a time to the second, in the time zone of this machine, or a dash."""
    return "-" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def shown(time: datetime | None) -> str:
    """Return a time in ISO 8601, or a dash."""
    return "-" if time is None else time.isoformat()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plain(value: Any) -> Any:
    """Return a value that JSON lacks as one that it has."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)
