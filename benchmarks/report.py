"""Prints the figures in the terminal, and as Markdown for the README (``python -m benchmarks.report``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.systems import ROOT, SYSTEMS
from benchmarks.works import LATENCY, MESSAGES, QUEUE, THROUGHPUT, VALUES, WORKS

RESULTS = ROOT / "benchmarks" / "results"
LATEST = RESULTS / "latest.json"

MEASURED = ("throughput", "queue", "messages", "latency")
"""The parts of a result that compare systems."""

Row = Sequence[str]
Table = tuple[str, Row, Sequence[Row]]


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the tables: a title, the heads of the columns, the rows."""
    found = [
        _throughput_table(result),
        _queue_table(result),
        _message_table(result),
        _latency_table(result),
        _reach_table(result),
        _other_table(result),
    ]
    return [each for each in found if each[2]]  # skip a table without rows


def _throughput_table(result: dict[str, Any]) -> Table:
    title = "Steps/s (pgbench: commits/s); in brackets how many times as fast pgqrs is"
    return title, *_rates(result, result["throughput"], (*THROUGHPUT, *VALUES), tuple(SYSTEMS))


def _queue_table(result: dict[str, Any]) -> Table:
    measured = result.get("queue", [])
    title = "Workflows/s from a queue (W7 and Q2: of 5 steps); in brackets how many times as fast pgqrs is"
    return title, *_rates(result, measured, QUEUE, _systems(measured))


def _message_table(result: dict[str, Any]) -> Table:
    measured = result.get("messages", [])
    title = "Messages/s, and children/s; in brackets how many times as fast pgqrs is"
    return title, *_rates(result, measured, MESSAGES, _systems(measured))


def _latency_table(result: dict[str, Any]) -> Table:
    measured = result.get("latency", [])
    title = "Milliseconds; in brackets how many times as long the other takes"
    systems = _systems(measured)
    heads, rows = _rates(result, measured, LATENCY, systems)
    found = {(each["work"], each["system"]): each for each in measured}
    slowest = [
        [f"{work.upper()}: the 99th percentile", *(_p99(found.get((work, system))) for system in systems)]
        for work in LATENCY
        if any(each["work"] == work for each in measured)
    ]
    return title, heads, [*rows, *slowest]


def _p99(latency: dict[str, Any] | None) -> str:
    return "-" if latency is None else _shown(latency["p99"])


def _systems(measured: list[dict[str, Any]]) -> list[str]:
    return [name for name in SYSTEMS if any(each["system"] == name for each in measured)]


def _rates(
    result: dict[str, Any], measured: list[dict[str, Any]], works: Sequence[str], systems: Sequence[str]
) -> tuple[Row, list[Row]]:
    heads = ["work", *(_label(result, system) for system in systems)]
    found = {(each["work"], each["system"]): each for each in measured}
    rows = [
        [f"{work.upper()}: {WORKS[work].title}", *(_cell(found.get((work, system))) for system in systems)]
        for work in works
        if any(each["work"] == work for each in measured)
    ]
    return heads, rows


def _label(result: dict[str, Any], system: str) -> str:
    version = result["versions"].get(system)
    label = SYSTEMS[system].label
    return f"{label} {version}" if system in {"dbos", "absurd"} and version else label


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["system"] in {"pgqrs", "pgbench"} or found["ratio"] is None:
        return _shown(found["rate"])
    return f"{_shown(found['rate'])} [{_shown(found['ratio'])} x]"


def _reach_table(result: dict[str, Any]) -> Table:
    rows = [
        [
            each["work"].upper(),
            each["what"],
            _shown(each["value"]),
            f"at least {each['least']:g}" if each["least"] is not None else f"at most {each['most']:g}",
            "yes" if each["reached"] else "NO",
        ]
        for each in result["reaches"]
    ]
    return "Reaches", ["work", "what", "measured", "wanted", "reached"], rows


def _other_table(result: dict[str, Any]) -> Table:
    rows = [[each["work"].upper(), each["what"], _shown(each["value"])] for each in result["others"]]
    return "Further figures of pgqrs", ["work", "what", "measured"], rows


def _shown(value: dict[str, float]) -> str:
    """Return a median, followed by the minimum and the maximum."""
    digits = _digits(value["median"])
    middle, least, most = (f"{value[each]:,.{digits}f}" for each in ("median", "min", "max"))
    return middle if least == most else f"{middle} ({least} to {most})"


def _digits(value: float) -> int:
    steps = ((100, 0), (10, 1), (0, 2))
    return next(digits for least, digits in steps if abs(value) >= least)


def facts(result: dict[str, Any]) -> str:
    """Return the facts of the machine and the server."""
    machine, postgresql = result["machine"], result["machine"]["postgresql"]
    return (
        f"{result['when'][:10]}, {machine['cores']} cores ({machine['processor']}), {machine['system']}, "
        f"Python {machine['python']}, PostgreSQL {postgresql['server_version']} with its default settings "
        f"(fsync {postgresql['fsync']}, synchronous_commit {postgresql['synchronous_commit']}, shared_buffers "
        f"{postgresql['shared_buffers']}; max_connections {postgresql['max_connections']}). Medians of "
        f"{result['rounds']} interleaved rounds, with the least and the most; a ratio is taken within a round. "
        f"The load average before the first round was {machine['load_before']:.1f}."
    )


def honesty(result: dict[str, Any]) -> list[str]:
    """Return each system's operations behind its figure, and the number of its workflows."""
    lines = []
    measured = [each for part in MEASURED for each in result.get(part, [])]
    for name, system in SYSTEMS.items():
        counts = [
            f"{each['work'].upper()} {each['workflows']:,}"
            for each in measured
            if each["system"] == name and each["workflows"]
        ]
        if any(each["system"] == name for each in measured):
            ran = f" Workflows run: {', '.join(counts)}." if counts else ""
            lines.append(f"{_label(result, name)}: {system.does}{ran}")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Render the result for the README."""
    blocks = []
    for title, heads, rows in tables(result):
        lines = [f"**{title}**", "", _line(heads), _line(["---"] * len(heads)), *map(_line, rows)]
        blocks.append("\n".join(lines))
    blocks.extend((facts(result), "\n".join(f"* {line}" for line in honesty(result))))
    text = "\n\n".join(blocks).replace(" x]", " \N{MULTIPLICATION SIGN}]")
    return f"> Sizes of a quick trial, no result.\n\n{text}" if result["quick"] else text


def _line(cells: Row) -> str:
    return "| " + " | ".join(cells) + " |"


def show(result: dict[str, Any]) -> None:
    """Print the result in the terminal, with rich if it is installed."""
    try:
        _show_richly(result)
    except ImportError:
        print(markdown(result))


def _show_richly(result: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415  # rich may be missing
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table as RichTable  # noqa: PLC0415

    console = Console(highlight=False)
    for title, heads, rows in tables(result):
        table = RichTable(title=title, title_justify="left")
        for head in heads:
            table.add_column(escape(head))
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print(facts(result))
    for line in honesty(result):
        console.print(f"* {escape(line)}")
    if result["quick"]:
        console.print("These are the sizes of a quick trial, no result.")


if __name__ == "__main__":
    print(markdown(json.loads(LATEST.read_text())))
