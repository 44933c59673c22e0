"""A test kit for workflows: crashes at every write, a clock to move, queues without a worker, sent messages.

The pytest plugin, `pytest_pgqrs`, gives each test an `Admin` of its own: the fixture `pgqrs_admin`.
"""

from pgqrs.testing.clock import TestClock, clock_of
from pgqrs.testing.crash import crash_everywhere
from pgqrs.testing.enqueued import assert_enqueued, assert_not_enqueued, run_enqueued
from pgqrs.testing.scheduled import assert_not_scheduled, assert_scheduled
from pgqrs.testing.scratch import scratch_admin
from pgqrs.testing.sent import SentRecord, assert_emitted, assert_not_emitted, assert_not_sent, assert_sent

__all__ = [
    "SentRecord",
    "TestClock",
    "assert_emitted",
    "assert_enqueued",
    "assert_not_emitted",
    "assert_not_enqueued",
    "assert_not_scheduled",
    "assert_not_sent",
    "assert_scheduled",
    "assert_sent",
    "clock_of",
    "crash_everywhere",
    "run_enqueued",
    "scratch_admin",
]
