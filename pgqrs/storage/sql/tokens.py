"""Random tokens, which distinguish two claims of one epoch and two workflows of one id.

A server that has lost its last transactions (a promoted asynchronous standby, a restored backup) gives an id or an
epoch a second time. A token of 63 random bits is never given twice.
"""

from __future__ import annotations

from random import getrandbits

from pgqrs.errors import WorkflowNotFoundError


def new_token() -> int:
    """Return a new token, which fits a bigint."""
    return getrandbits(63)


def check_token(workflow_id: int, expected: int | None, found: int | None) -> None:
    """Raise `WorkflowNotFoundError` if another workflow has the id; `expected` is None if it is unknown."""
    if expected is not None and found != expected:
        raise WorkflowNotFoundError(workflow_id, is_replaced=True)
