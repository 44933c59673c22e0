"""The works, and how many workflows each system is given of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """A work. `fewer` is for systems that would take more than some ten seconds for all of it."""

    name: str
    title: str
    workflows: int
    concurrency: int = 1
    steps: int = 5
    systems: tuple[str, ...] = ("pgqrs",)
    fewer: dict[str, int] = field(default_factory=dict)
    quick_workflows: int = 1
    quick_steps: int = 5

    def size(self, system: str, *, quick: bool) -> tuple[int, int]:
        """Return how many workflows the system runs, and of how many steps."""
        if quick:
            return self.quick_workflows, self.quick_steps
        return self.fewer.get(system, self.workflows), self.steps


ALL = ("pgqrs", "rust", "dbos", "absurd", "pgbench")

_WORKS = (
    Work("w1", "one at a time", 600, systems=ALL, fewer={"dbos": 200}, quick_workflows=10),
    Work(
        "w2",
        "50 at a time",
        2000,
        concurrency=50,
        systems=ALL,
        fewer={"dbos": 400, "absurd": 1000},
        quick_workflows=60,
    ),
    Work("w6", "W2 with 1,000,000 finished workflows in the tables", 2000, concurrency=50, quick_workflows=60),
    Work(
        "w3",
        "500 at a time",
        5000,
        concurrency=500,
        systems=ALL,
        fewer={"rust": 3000, "dbos": 500, "absurd": 1000},
        quick_workflows=100,
    ),
    Work("w4", "one workflow of 2,000 steps (three, one after another)", 3, steps=2000, quick_steps=300),
    Work("w5", "resume with 10,000 recorded steps of 1 KB", 1, steps=10_000, quick_steps=1000),
)

WORKS = {work.name: work for work in _WORKS}
THROUGHPUT = ("w1", "w2", "w3")

FINISHED_WORKFLOWS = 1_000_000
QUICK_FINISHED_WORKFLOWS = 5_000
