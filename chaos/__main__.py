"""``python -m chaos``: run a workload under faults, print the results, and fail on any violation."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chaos.report import show
from chaos.run import Chaos, Plan, Tell
from chaos.server import FOLDER, Server

LINES_EVERY = 5.0
"""Seconds between two lines of output where no progress bar can be drawn."""


def main() -> None:
    """Run chaos."""
    console = Console()
    options = _options()
    plan, server = _plan(options), Server(options.folder.resolve())
    console.print(f"seed {plan.seed}; logs in {server.folder}")
    server.start()
    try:
        with _progress(console) as progress:
            result = asyncio.run(Chaos(plan, server, _teller(console, progress, plan)).run())
    finally:
        server.stop()
    show(console, result)
    raise SystemExit(1 if result.violations else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run 150 workflows and 20 faults in 14 s")
    parser.add_argument("--workflows", type=int, help="number of workflows (10,000; 150 if quick)")
    parser.add_argument("--faults", type=int, help="number of faults (500; 20 if quick)")
    parser.add_argument("--seconds", type=float, help="seconds for enqueuing and faults (600; 14 if quick)")
    parser.add_argument("--workers", type=int, help="number of worker processes (4; 3 if quick)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="seed of the random faults")
    parser.add_argument(
        "--patience", type=float, default=180, help="seconds without the end of a workflow until it gives up (180)"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="folder of the server and the logs; emptied first"
    )
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    workflows, faults, seconds = (150, 20, 14.0) if options.quick else (10_000, 500, 600.0)
    return Plan(
        options.workflows or workflows,
        faults if options.faults is None else options.faults,
        options.seconds or seconds,
        max(2, options.workers or (3 if options.quick else 4)),
        options.seed,
        options.patience,
    )


def _progress(console: Console) -> Progress:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _teller(console: Console, progress: Progress, plan: Plan) -> Tell:
    ended = progress.add_task("workflows", total=plan.workflows, what="")
    injected = progress.add_task("faults", total=plan.faults, what="")
    told = began = time.monotonic()

    def tell(what: str, workflows: int, faults: int) -> None:
        nonlocal told
        progress.update(ended, completed=workflows)
        progress.update(injected, completed=faults)
        if what:
            progress.update(injected, what=what)
        if not console.is_terminal and time.monotonic() - told > LINES_EVERY:
            told = time.monotonic()
            console.print(f"{told - began:5.0f} s: {workflows} workflows ended, {faults} faults")

    return tell


if __name__ == "__main__":
    main()
