"""Draw latest.svg of latest.json; runs in an environment of its own, with Matplotlib and nothing of ours."""

from __future__ import annotations

import json
import sys
from math import floor, log10
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = {"pgqrs": "#1f6feb", "rust": "#b7410e", "dbos": "#6b7280", "absurd": "#a3a3a3", "pgbench": "#d4d4d4"}
WIDTH = 0.16


def draw(result: dict[str, Any], labels: dict[str, str], titles: dict[str, str]) -> Figure:
    """Draw the rates of all systems in all works, on a logarithmic scale, with least and most as whiskers."""
    figure = Figure(figsize=(9, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    works = [work for work in titles if any(each["work"] == work for each in result["throughput"])]
    systems = [name for name in COLOURS if any(each["system"] == name for each in result["throughput"])]
    for place, system in enumerate(systems):
        found = [each for each in result["throughput"] if each["system"] == system]
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
        axes.bar_label(bars, [f"{value:,.0f}" for value in medians], padding=2, fontsize=8)
    axes.set_yscale("log")
    least = min(each["rate"]["min"] for each in result["throughput"])
    axes.set_ylim(10 ** floor(log10(least)), axes.get_ylim()[1] * 1.6)
    axes.set_ylabel("steps/s (pgbench: commits/s), log scale")
    axes.set_xticks(range(len(works)), [f"{work.upper()}: {titles[work]}" for work in works])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(systems), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=8)
    return figure


def main(source: str, target: str, words: str) -> None:
    """Read the result and draw it; `words` is JSON with the systems' labels and the works' titles."""
    mpl.rcParams |= {"svg.hashsalt": "pgqrs", "svg.fonttype": "none", "font.family": "sans-serif"}
    told = json.loads(words)
    figure = draw(json.loads(Path(source).read_text()), told["labels"], told["titles"])
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
