"""The output of the commands: tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import click

MAX_WIDTH = 40
"""Characters, the width of a column from which on longer cells do not widen the other rows."""


def print_json(value: Any) -> None:
    """Print a value as JSON, with times in ISO 8601 and lengths in seconds."""
    click.echo(json.dumps(value, indent=2, default=_plain))


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


def shown(time: datetime | None) -> str:
    """Return a time in ISO 8601, or a dash."""
    return "-" if time is None else time.isoformat()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)
