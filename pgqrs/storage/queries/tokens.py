"""Random numbers that tell apart two things of one number: two claims of one epoch, two workflows of one id.

A server that lost its last moments (an asynchronous standby that was promoted, a restored backup) gives an id, or
an epoch, a second time. A token of 63 random bits is never given twice.
"""

from __future__ import annotations

from random import getrandbits


def new_token() -> int:
    """Return a token, which fits a bigint."""
    return getrandbits(63)
