"""Puts ready submissions into batches, through any connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pgqrs.storage.batches.statements import form
from pgqrs.storage.sql.tokens import new_token

Fetch: TypeAlias = Callable[[Callable[[], Any], dict[str, Any]], Awaitable[Sequence[Mapping[Any, Any]]]]
"""A function that runs the statement of its first argument, with the values of its binds, and returns the rows."""


class BatchedWorkflow(NamedTuple):
    """A workflow whose submissions run in batches: its name, and the name, the size and the timeout of a batch.

    A smaller batch starts `within` seconds after its oldest submission became ready.
    """

    name: str
    run: str
    size: int
    within: float
    timeout: float | None


class FormedBatches(NamedTuple):
    """The batches that one statement has made: their number, the lowest id, 0 without one, and their queues.

    `next_due` is the seconds until the next batch starts that is not complete, None without one. `is_left` says
    that submissions which another transaction has locked make a further batch.
    """

    made: int
    lowest: int
    queues: tuple[str, ...]
    next_due: float | None
    is_left: bool


NO_BATCHES = FormedBatches(0, 0, (), None, is_left=False)
"""The result of a search that was not made."""


async def form_batches(
    fetch: Fetch, workflows: Sequence[BatchedWorkflow], queues: Sequence[str], *, sequence: str, codec: str | None
) -> FormedBatches:
    """Make batches of the ready submissions of these workflows and queues, and make the batches ready.

    `sequence` is the qualified name of the sequence of the ids, and `codec` names the codec of the submissions.
    """
    names, runs, sizes, withins, timeouts = zip(*workflows, strict=True)
    values = {
        "names": list(names),
        "runs": list(runs),
        "sizes": list(sizes),
        "withins": list(withins),
        "timeouts": list(timeouts),
        "queues": list(queues),
        "sequence": sequence,
        "written_with": codec,
        "new_token": new_token(),
    }
    (found,) = await fetch(form, values)
    queues_of = tuple(found["queues"] or ())
    return FormedBatches(found["made"], found["lowest"] or 0, queues_of, found["next_due"], found["is_left"])
