"""Random tokens, which distinguish two claims of one epoch and two workflows of one id.

A server that has lost its last transactions (a promoted asynchronous standby, a restored backup) gives an id or an
epoch a second time. A token of 63 random bits is never given twice.
"""

from __future__ import annotations

from random import getrandbits


def new_token() -> int:
    """Return a new token, which fits a bigint."""
    return getrandbits(63)
