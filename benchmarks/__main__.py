"""``python -m benchmarks``: install the peers, run the rounds, print and store the figures."""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import figures, machine
from benchmarks.report import LATEST, MEASURED, show
from benchmarks.rounds import Plan, run_rounds
from benchmarks.server import FOLDER, running
from benchmarks.systems import OURS, ROOT, SYSTEMS, make_environment
from benchmarks.works import WORKS

PLOT_REQUIREMENTS = ("matplotlib==3.11.2",)
ROUNDS = 5


def main() -> None:
    """Run the benchmark."""
    options = _options()
    plan = Plan(
        rounds=options.rounds or (1 if options.quick else ROUNDS),
        works=tuple(name for name in WORKS if name.startswith(options.only)),
        systems=tuple(name for name in SYSTEMS if name in {*options.peers, OURS.name}),
        quick=options.quick,
    )
    for name in plan.systems:
        SYSTEMS[name].install()
    with running() as server:
        facts = machine(server)
        measurements = run_rounds(server, plan, _tell)
    if not measurements:
        raise SystemExit("nothing could be measured")
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        **figures(plan, measurements),
    }
    _keep(result, whole=not options.quick and set(plan.works) == set(WORKS))
    show(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round, to see that it works")
    parser.add_argument("--rounds", type=int, help=f"how many rounds ({ROUNDS}; 1 with --quick)")
    parser.add_argument("--only", type=_names(WORKS), default=tuple(WORKS), help=f"works: {','.join(WORKS)}")
    peers = tuple(SYSTEMS)
    parser.add_argument("--peers", type=_names(SYSTEMS), default=peers, help=f"beside pgqrs: {','.join(peers)}")
    return parser.parse_args()


def _names(known: dict[str, Any]) -> Any:
    def names(written: str) -> tuple[str, ...]:
        named = tuple(each for each in written.lower().split(",") if each)
        if unknown := set(named) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return named

    return names


def _tell(line: str) -> None:
    print(line, flush=True)


def _keep(result: dict[str, Any], *, whole: bool) -> None:
    """Write the JSON and the plot; only a full run becomes the latest result, which the README shows."""
    target = LATEST if whole else FOLDER.parent / "bench-partial.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{_short(target)}")
    if any(result[part] for part in MEASURED):
        words = {
            "labels": {name: system.label for name, system in SYSTEMS.items()},
            "titles": {each["work"]: WORKS[each["work"]].title for part in MEASURED for each in result[part]},
        }
        plot = target.with_suffix(".svg")
        python = make_environment("plot", PLOT_REQUIREMENTS)
        program = str(ROOT / "benchmarks" / "plot.py")
        subprocess.run([str(python), program, str(target), str(plot), json.dumps(words)], check=True)
        print(_short(plot))


def _short(path: Path) -> Path:
    return path.relative_to(ROOT)


if __name__ == "__main__":
    main()
