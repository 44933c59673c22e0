"""Draws latest.svg from latest.json, in an environment with Matplotlib and without pgqrs."""

from __future__ import annotations

import json
import sys
from math import floor, log10
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = {"pgqrs": "#1f6feb", "rust": "#b7410e", "dbos": "#6b7280", "absurd": "#a3a3a3", "pgbench": "#d4d4d4"}
WIDTH = 0.16
TEN = 10


def draw(result: dict[str, Any], labels: dict[str, str], titles: dict[str, str]) -> Figure:
    """Draw the figures of all systems in all works on logarithmic scales, with minimum and maximum as whiskers."""
    lines = [
        {
            "steps/s (pgbench: commits/s), log scale": result["throughput"],
            "workflows/s from a queue, log scale": result.get("queue", []),
        },
        {
            "messages/s and children/s, log scale": result.get("messages", []),
            "median milliseconds, log scale": result.get("latency", []),
        },
    ]
    lines = [{unit: found for unit, found in line.items() if found} for line in lines]
    lines = [line for line in lines if line]
    works = [[len({each["work"] for each in found}) for found in line.values()] for line in lines]
    width = max(9, 3 * max(map(sum, works)))
    figure = Figure(figsize=(width, 4.2 * len(lines)), layout="constrained", facecolor="white")
    drawn = []
    for part, line, shares in zip(figure.subfigures(len(lines), squeeze=False)[:, 0], lines, works, strict=True):
        panels = part.subplots(1, len(line), width_ratios=shares, squeeze=False)[0]
        for axes, (unit, found) in zip(panels, line.items(), strict=True):
            draw_panel(axes, found, labels, titles)
            axes.set_ylabel(unit)
        drawn += [*panels]
    legends = [axes.get_legend_handles_labels() for axes in drawn]
    known = {text: handle for handles, texts in legends for handle, text in zip(handles, texts, strict=True)}
    figure.legend(known.values(), known, ncols=len(known), loc="outside upper center", frameon=False, fontsize=8)
    return figure


def draw_panel(axes: Any, measured: list[dict[str, Any]], labels: dict[str, str], titles: dict[str, str]) -> None:
    """Draw the rates of one unit: a group of bars for each work, a bar for each system."""
    works = [work for work in titles if any(each["work"] == work for each in measured)]
    systems = [name for name in COLOURS if any(each["system"] == name for each in measured)]
    for place, system in enumerate(systems):
        found = [each for each in measured if each["system"] == system]
        at = [works.index(each["work"]) + (place - (len(systems) - 1) / 2) * WIDTH for each in found]
        rates = [each["rate"] for each in found]
        medians = [rate["median"] for rate in rates]
        whiskers = [
            [rate["median"] - rate["min"] for rate in rates],
            [rate["max"] - rate["median"] for rate in rates],
        ]
        style = {"hatch": "//", "edgecolor": "#777777"} if system == "pgbench" else {}
        bars = axes.bar(
            at,
            medians,
            WIDTH * 0.94,
            yerr=whiskers,
            label=labels[system],
            color=COLOURS[system],
            capsize=2,
            **style,
        )
        axes.bar_label(
            bars, [f"{value:,.0f}" if value >= TEN else f"{value:.1f}" for value in medians], padding=2, fontsize=8
        )
    axes.set_yscale("log")
    least = min(each["rate"]["min"] for each in measured)
    axes.set_ylim(10 ** floor(log10(least)), axes.get_ylim()[1] * 1.6)
    axes.set_xticks(range(len(works)), [fill(f"{work.upper()}: {titles[work]}", 40) for work in works])
    axes.spines[["top", "right"]].set_visible(False)


def main(source: str, target: str, words: str) -> None:
    """Read the result and draw it; `words` is JSON with the labels of the systems and the titles of the works."""
    mpl.rcParams |= {"svg.hashsalt": "pgqrs", "svg.fonttype": "none", "font.family": "sans-serif"}
    told = json.loads(words)
    figure = draw(json.loads(Path(source).read_text()), told["labels"], told["titles"])
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
