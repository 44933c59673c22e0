"""A test kit for workflows: crashes at every write, a clock that tests move, and queues without a worker.

The pytest plugin, `pytest_pgqrs`, gives each test an `Admin` of its own: the fixture `pgqrs_admin`.
"""

from pgqrs.testing.clock import TestClock, clock_of
from pgqrs.testing.crash import crash_everywhere
from pgqrs.testing.enqueued import assert_enqueued, assert_not_enqueued, run_enqueued
from pgqrs.testing.scratch import scratch_admin

__all__ = [
    "TestClock",
    "assert_enqueued",
    "assert_not_enqueued",
    "clock_of",
    "crash_everywhere",
    "run_enqueued",
    "scratch_admin",
]
