"""Workflows that several submissions ask for, and that fail as long as a test wants."""

from pgqrs import PyWorkflow, RetryPolicy, TransientError, workflow
from tests.support.workflows import note

FAILING: set[str] = set()
"""The arguments with which `sync` fails."""


@workflow
async def sync(ctx: PyWorkflow, what: str = "all") -> str:
    """Execute one step, or fail for the time being."""
    await note(ctx, what)
    if what in FAILING:
        raise TransientError("the other side is away")
    return f"synced {what}"


@workflow(retry=RetryPolicy(initial=3600, maximum=3600))
async def patient(ctx: PyWorkflow, what: str = "all") -> None:
    """Fail, and wait an hour for the next attempt."""
    raise TransientError("not yet")
