"""The works, and the number of workflows of each system."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Filling:
    """The content of the tables before a work: finished workflows, each with `steps`, and queued workflows.

    The queued workflows have the partition key `key`.
    """

    database: str
    finished: int = 0
    steps: int = 0
    queued: int = 0
    quick: int = 5_000
    key: str | None = None

    def size(self, *, quick: bool) -> Filling:
        """Return the filling, reduced for a quick run."""
        if not quick:
            return self
        finished, queued = (min(each, self.quick) for each in (self.finished, self.queued))
        return replace(self, finished=finished, queued=queued)


@dataclass(frozen=True)
class Work:
    """A work; `fewer` is for systems that need more than about ten seconds for all workflows.

    `workers` is the number of worker processes of a queue. `filled` is the content of the tables before the work.
    """

    name: str
    title: str
    workflows: int
    concurrency: int = 1
    steps: int = 5
    systems: tuple[str, ...] = ("pgqrs",)
    fewer: dict[str, int] = field(default_factory=dict)
    quick_workflows: int = 1
    quick_steps: int = 5
    workers: int = 0
    filled: Filling | None = None

    def size(self, system: str, *, quick: bool) -> tuple[int, int]:
        """Return the number of workflows of the system, and the number of steps of each workflow."""
        if quick:
            return self.quick_workflows, self.quick_steps
        return self.fewer.get(system, self.workflows), self.steps


CHILDREN = int(os.environ.get("PGQRS_BENCH_CHILDREN", "10000"))
"""The children of C1: `PGQRS_BENCH_CHILDREN=100000` sets another number."""

QUEUED = int(os.environ.get("PGQRS_BENCH_QUEUED", "1000000"))
"""The workflows of the full key of Q3: `PGQRS_BENCH_QUEUED=10000000` sets another number."""

KEYS = int(os.environ.get("PGQRS_BENCH_KEYS", "10000"))
"""The partition keys of Q2: `PGQRS_BENCH_KEYS=100000` sets another number."""

SCHEDULES = int(os.environ.get("PGQRS_BENCH_SCHEDULES", "10000"))
"""The schedules of S1: `PGQRS_BENCH_SCHEDULES=100000` sets another number."""

ALL = ("pgqrs", "rust", "dbos", "absurd", "pgbench")

_WORKS = (
    Work("w1", "one at a time", 1500, systems=ALL, fewer={"dbos": 400}, quick_workflows=10),
    Work(
        "w2",
        "50 at a time",
        2000,
        concurrency=50,
        systems=ALL,
        fewer={"dbos": 400, "absurd": 1000},
        quick_workflows=60,
    ),
    Work(
        "w6",
        "W2 with 1,000,000 finished workflows in the tables",
        2000,
        concurrency=50,
        quick_workflows=60,
        filled=Filling("bench_filled", finished=1_000_000, steps=5),
    ),
    Work(
        "w3",
        "500 at a time",
        5000,
        concurrency=500,
        systems=ALL,
        fewer={"rust": 3000, "dbos": 500, "absurd": 1000},
        quick_workflows=100,
    ),
    *(
        Work(
            name,
            f"{each} in each outcome, 10 at a time",
            workflows,
            concurrency=10,
            systems=("pgqrs", "dbos"),
            fewer={"dbos": workflows // 4},
            quick_workflows=10,
        )
        for name, each, workflows in (("v10k", "10 KB", 1000), ("v100k", "100 KB", 160), ("v1m", "1 MB", 40))
    ),
    Work("w4", "one workflow of 2,000 steps (three, one after another)", 3, steps=2000, quick_steps=300),
    Work("w5", "resume with 10,000 recorded steps of 1 KB", 1, steps=10_000, quick_steps=1000),
    Work(
        "w7",
        "enqueued, and worked off by one worker process",
        5000,
        concurrency=500,
        systems=("pgqrs", "dbos", "absurd"),
        fewer={"dbos": 300, "absurd": 1000},
        quick_workflows=100,
        workers=1,
    ),
    Work("w7x2", "the same by two worker processes", 5000, concurrency=500, quick_workflows=100, workers=2),
    Work("w8", "claims of 50, empty tables", 5000, concurrency=50, quick_workflows=1000),
    Work(
        "w8queued",
        "claims of 50, 1,000,000 queued",
        5000,
        concurrency=50,
        quick_workflows=1000,
        filled=Filling("bench_queued", queued=1_000_000, quick=1_000_000),
    ),
    Work(
        "w8finished",
        "claims of 50, 10,000,000 finished",
        5000,
        concurrency=50,
        quick_workflows=1000,
        filled=Filling("bench_finished", finished=10_000_000, quick=2_000_000),
    ),
    Work(
        "m1",
        "milliseconds from a message to the next step of its receiver",
        100,
        systems=("pgqrs", "dbos", "absurd"),
        quick_workflows=20,
        workers=1,
    ),
    Work(
        "m2",
        "messages between 50 pairs of workflows",
        2000,
        concurrency=50,
        systems=("pgqrs", "dbos", "absurd"),
        fewer={"dbos": 1000, "absurd": 1000},
        quick_workflows=200,
        workers=1,
    ),
    Work(
        "m3",
        "messages of 50 senders in one process",
        10_000,
        concurrency=50,
        systems=("pgqrs", "dbos", "absurd"),
        fewer={"dbos": 2000, "absurd": 4000},
        quick_workflows=200,
    ),
    Work(
        "c1",
        "children of one step, run by two worker processes",
        CHILDREN,
        systems=("pgqrs", "dbos"),
        fewer={"dbos": 300},
        quick_workflows=100,
        workers=2,
    ),
    Work(
        "q1",
        "a limit of 4, workflows of one step of a millisecond, run by two worker processes",
        2000,
        concurrency=50,
        steps=1,
        systems=("pgqrs", "dbos"),
        fewer={"dbos": 60},
        quick_workflows=50,
        quick_steps=1,
        workers=2,
    ),
    Work(
        "q2free",
        f"{2 * KEYS:,} workflows without a limit, run by eight worker processes",
        2 * KEYS,
        concurrency=100,
        quick_workflows=400,
        workers=8,
    ),
    Work(
        "q2",
        f"the same with a limit of 2 for each of {KEYS:,} partition keys",
        2 * KEYS,
        concurrency=100,
        quick_workflows=400,
        workers=8,
    ),
    Work(
        "q2ordered",
        f"the same in an ordered queue with {KEYS // 10:,} partition keys",
        2 * KEYS,
        concurrency=100,
        quick_workflows=400,
        workers=8,
    ),
    Work("q3", "claims of 50 from 100 partition keys, empty tables", 5000, concurrency=50, quick_workflows=1000),
    Work(
        "q3full",
        f"claims of 50 from 100 partition keys, {QUEUED:,} queued in another one, which is full",
        5000,
        concurrency=50,
        quick_workflows=1000,
        filled=Filling("bench_full", queued=QUEUED, quick=50_000, key="full"),
    ),
    Work(
        "s1",
        f"{SCHEDULES:,} schedules due at once, two worker processes",
        SCHEDULES,
        concurrency=100,
        quick_workflows=200,
        workers=2,
    ),
    Work("r1free", "milliseconds of a step, 50 workflows at a time", 20_000, concurrency=50, quick_workflows=200),
    Work("r1", "the same while old workflows are deleted", 20_000, concurrency=50, quick_workflows=200),
)

WORKS = {work.name: work for work in _WORKS}
THROUGHPUT = ("w1", "w2", "w3")
VALUES = ("v10k", "v100k", "v1m")
QUEUE = ("w7", "w7x2", "q1", "q2free", "q2", "q2ordered")
MESSAGES = ("m2", "m3", "c1")
LATENCY = ("m1", "r1free", "r1")
CLAIMS = ("w8", "w8queued", "w8finished")
LIMITED_CLAIMS = ("q3", "q3full")
