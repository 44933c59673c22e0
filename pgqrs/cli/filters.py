"""The options by which a command finds workflows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from pgqrs.cli.connection import errors_in_one_line
from pgqrs.client.lists.conditions import attribute_of, time_of
from pgqrs.storage.selection.filters import WorkflowFilter
from pgqrs.types import WorkflowStatus

P = ParamSpec("P")
R = TypeVar("R")


def parsed_time(_context: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    """Return the time that an option names: ISO 8601 with an offset, or an age such as 90s, 15m, 2h or 7d."""
    try:
        return None if given is None else time_of(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _parsed_attributes(
    _context: click.Context, _option: click.Parameter, given: Sequence[str]
) -> dict[str, Any] | None:
    try:
        return dict(map(attribute_of, given)) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_several = partial(click.option, multiple=True)
_time = partial(click.option, metavar="TIME", callback=parsed_time)

_OPTIONS = (
    _several("--name", help="The name of the workflows; repeat the option for further names."),
    _several(
        "--status",
        type=click.Choice([each.value for each in WorkflowStatus], case_sensitive=False),
        help="The status of the workflows; repeat the option for further statuses.",
    ),
    _several("--queue", help="The queue of the workflows; repeat the option for further queues."),
    click.option("--key", help="The idempotency key of the workflows."),
    click.option("--partition-key", help="The partition key of the workflows."),
    _several("--tag", "tags", help="A tag that the workflows have; repeat the option for further tags."),
    _several("--any-tag", "any_tags", help="A tag; with several, the workflows have one of them at least."),
    _several(
        "--attribute",
        "attributes",
        metavar="NAME=VALUE",
        callback=_parsed_attributes,
        help="An attribute that the workflows have, with its value as JSON or as text, as in customer=7.",
    ),
    click.option("--parent", type=int, help="The id of the workflow of which the workflows are children."),
    click.option("--error", help="A text that the recorded error contains."),
    _time("--since", "created_since", help="Created at this time or later: an age such as 2h, or ISO 8601."),
    _time("--until", "created_until", help="Created before this time."),
    _time("--ended-since", help="Ended at this time or later."),
    _time("--ended-until", help="Ended before this time."),
)


def filter_options(command: Callable[Concatenate[WorkflowFilter, P], R]) -> Callable[..., R]:
    """Add the options that find workflows to a command, whose first argument is the filter."""

    @wraps(command)
    def with_filter(
        *arguments: Any,
        created_since: datetime | None,
        created_until: datetime | None,
        ended_since: datetime | None,
        ended_until: datetime | None,
        **given: Any,
    ) -> R:
        conditions = {name: given.pop(name) for name in _CONDITIONS}
        with errors_in_one_line():
            matching = WorkflowFilter(
                **{name: value for name, value in conditions.items() if value not in ((), None)},
                created=_range(created_since, created_until),
                completed=_range(ended_since, ended_until),
            )
        return command(matching, *arguments, **given)

    decorated: Callable[..., R] = with_filter
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


_CONDITIONS = (
    "name",
    "status",
    "queue",
    "key",
    "partition_key",
    "tags",
    "any_tags",
    "attributes",
    "parent",
    "error",
)


def _range(first: datetime | None, end: datetime | None) -> tuple[datetime | None, datetime | None] | None:
    return None if first is None and end is None else (first, end)
