"""Prints the results as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from chaos.checks import percentile
from chaos.run import Result

SHOWN = 30
"""Maximum violations that are printed."""


def show(console: Console, result: Result) -> None:
    """Print the tables and the violations."""
    console.print(_summary(result))
    console.print(_recoveries(result))
    for each in result.violations[:SHOWN]:
        console.print(f"[bold red]violation[/] {each}", highlight=False)
    if len(result.violations) > SHOWN:
        console.print(f"... and {len(result.violations) - SHOWN} more")


def _summary(result: Result) -> Table:
    ledger, damage = result.ledger, result.damage
    batches = [each for each in ledger.workflows if each.is_batch]
    table = Table("item", "count", title=f"chaos, seed {result.plan.seed}, {result.took:.0f} s")
    table.columns[1].justify = "right"
    rows = {
        "workflows": len(ledger.workflows),
        "  of them SUCCESS": sum(each.status == "SUCCESS" for each in ledger.workflows),
        "  of them undone": sum(each.status in {"CANCELLED", "ERROR"} for each in ledger.workflows),
        "  of them batches": len(batches),
        "submissions in batches": sum(len(each.input) for each in batches),
        "  most in one batch": max((len(each.input) for each in batches), default=0),
        # A submission has no run of its own.
        "runs": sum(each.epoch for each in ledger.workflows if each.batch_id in {None, each.id}),
        "steps recorded": len(ledger.steps),
        "steps executed": ledger.executions,
        "  of them by fenced runs, refused": ledger.stale,
        "requests": len(ledger.replies),
        "  replies to their callers": sum(map(len, ledger.replies.values())),
        "workflows of schedules": sum(each.schedule is not None for each in ledger.workflows),
        "slots taken": len(result.slots.taken),
        "  of them lost to another process": sum(bool(each.is_lost) for each in result.slots.taken),
        **{f"  most at once in {queue!r}": most for queue, most in result.slots.most.items()},
        "changes of limits": sum(map(len, result.slots.changes.values())),
        "worker processes": result.started,
        "faults": damage.counts.total(),
        **{f"  {kind}": count for kind, count in sorted(damage.counts.items())},
        "backends terminated": damage.terminated.total(),
        "  of heartbeats": damage.terminated["pulses"],
        "workers that found no server at the start": damage.unstarted,
        "violations": len(result.violations),
    }
    for name, count in rows.items():
        table.add_row(name, f"{count:,}", style="bold" if name == "violations" else None)
    return table


def _recoveries(result: Result) -> Table:
    calm = [each for each in result.recoveries if each.undisturbed]
    table = Table("SIGKILL to the first step elsewhere, s", "kills", "p50", "p99", "max")
    for column in table.columns[1:]:
        column.justify = "right"
    _add(table, "running, without an outage", [each.running for each in calm])
    _add(table, "recorded, without an outage", [each.recorded for each in calm])
    _add(table, "recorded, all kills", [each.recorded for each in result.recoveries])
    return table


def _add(table: Table, name: str, values: Sequence[float]) -> None:
    figures = [f"{percentile(values, share):.2f}" for share in (0.5, 0.99, 1.0)] if values else ["-"] * 3
    table.add_row(name, str(len(values)), *figures)
