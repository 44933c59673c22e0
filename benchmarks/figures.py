"""Computes figures from measurements: medians with minimum and maximum, ratios within a round, and targets."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rounds import Measurement, Plan
from benchmarks.server import Server
from benchmarks.systems import SYSTEMS
from benchmarks.works import CLAIMS, LATENCY, LIMITED_CLAIMS, MESSAGES, QUEUE, THROUGHPUT, VALUES, WORKS

Spread = dict[str, float]
Value = Callable[[Measurement], float]

SETTINGS = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_connections")


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the minimum and the maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def machine(server: Server) -> dict[str, Any]:
    """Return the facts of this machine."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "postgresql": {name: server.setting(name) for name in SETTINGS},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def figures(plan: Plan, measurements: list[Measurement]) -> dict[str, Any]:
    """Return all figures that the report prints."""
    return {
        "rounds": plan.rounds,
        "quick": plan.quick,
        "versions": {each["system"]: each["version"] for each in measurements},
        "throughput": _rates(measurements, (*THROUGHPUT, *VALUES), rate),
        "queue": _rates(measurements, QUEUE, _workflows_rate),
        "messages": _rates(measurements, MESSAGES, rate),
        "latency": _latencies(measurements),
        "reaches": [reach for reach in _reaches(measurements, plan) if reach],
        "others": [other for other in _others(measurements) if other],
        "measurements": measurements,
    }


def rate(measured: Measurement) -> float:
    """Return the steps per second (for pgbench: the commits)."""
    return float(measured["steps"]) / float(measured["seconds"])


def _workflows_rate(measured: Measurement) -> float:
    return float(measured["workflows"]) / float(measured["seconds"])


def _claim(measured: Measurement) -> float:
    """Return the median latency of a claim, in seconds."""
    return float(measured["claim"])


def _milliseconds(measured: Measurement) -> float:
    return 1000 * _claim(measured)


def _rates(measurements: list[Measurement], works: Sequence[str], value: Value) -> list[dict[str, Any]]:
    """Return the rate of each work and system, and the ratio of pgqrs's rate to it."""
    found = []
    for work in works:
        for system in SYSTEMS:
            mine = [each for each in measurements if (each["work"], each["system"]) == (work, system)]
            if mine:
                found.append(
                    {
                        "work": work,
                        "system": system,
                        "workflows": mine[0]["workflows"],
                        "clients": mine[0].get("clients", mine[0]["concurrency"]),
                        "rate": spread([value(each) for each in mine]),
                        "ratio": _ratio(measurements, (work, "pgqrs", value), (work, system, value)),
                    }
                )
    return found


def _latencies(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Return the median and the 99th percentile of each system's latency, in milliseconds."""
    found = []
    for work in LATENCY:
        for system in SYSTEMS:
            mine = [each for each in measurements if (each["work"], each["system"]) == (work, system)]
            if mine:
                found.append(
                    {
                        "work": work,
                        "system": system,
                        "workflows": mine[0]["workflows"],
                        "rate": spread([each["median_ms"] for each in mine]),
                        "p99": spread([each["p99_ms"] for each in mine]),
                        "ratio": _ratio(measurements, (work, system, _median_ms), (work, "pgqrs", _median_ms)),
                    }
                )
    return found


def _median_ms(measured: Measurement) -> float:
    return float(measured["median_ms"])


def _ratio(
    measurements: list[Measurement], over: tuple[str, str, Value], under: tuple[str, str, Value]
) -> Spread | None:
    """Return the spread, over the rounds, of one value divided by another value of the same round."""
    values: dict[int, dict[str, float]] = defaultdict(dict)
    for side, (work, system, value) in (("over", over), ("under", under)):
        for each in measurements:
            if (each["work"], each["system"]) == (work, system):
                values[each["round"]][side] = value(each)
    ratios = [both["over"] / both["under"] for both in values.values() if len(both) == len(("over", "under"))]
    return spread(ratios) if ratios else None


def _commits(measured: Measurement) -> float:
    """Return the commits per second: each statement of the journal is a commit."""
    return float(measured["statements"]) / float(measured["seconds"])


def _flatness(measured: Measurement) -> float:
    """Return the rate of the last hundred steps as a multiple of the rate of the first hundred."""
    return float(measured["first_hundred"]) / float(measured["last_hundred"])


def _seconds(measured: Measurement) -> float:
    return float(measured["seconds"])


def _of_enqueues(measured: Measurement) -> float:
    """Return the rate of the sends as a multiple of the rate of the enqueues of the same process."""
    return float(measured["seconds_to_enqueue"]) / float(measured["seconds"])


def _of_parentless(measured: Measurement) -> float:
    """Return the rate of the children as a multiple of the rate of the same workflows without a parent."""
    return float(measured["seconds_without_parent"]) / float(measured["seconds"])


def _reaches(measurements: list[Measurement], plan: Plan) -> list[dict[str, Any] | None]:
    """Return each target and the measured value."""

    def against(work: str, system: str, least: float) -> dict[str, Any] | None:
        ratio = _ratio(measurements, (work, "pgqrs", rate), (work, system, rate))
        return _reach(work, f"steps/s, times {SYSTEMS[system].label}", ratio, least=least)

    commits = _ratio(measurements, ("w1", "pgqrs", _commits), ("w1", "pgbench", rate))
    filled = _ratio(measurements, ("w6", "pgqrs", rate), ("w2", "pgqrs", rate))
    finished = plan.fillings["w6"].finished if "w6" in plan.fillings else 0

    def queue(work: str, system: str, least: float) -> dict[str, Any] | None:
        ratio = _ratio(measurements, (work, "pgqrs", _workflows_rate), ("w7", system, _workflows_rate))
        what = f"times {SYSTEMS[system].label}" if work == "w7" else "two worker processes, times one"
        return _reach(work, f"workflows/s from the queue, {what}", ratio, least=least)

    def flat(work: str) -> dict[str, Any] | None:
        ratio = _ratio(measurements, (work, "pgqrs", _claim), ("w8", "pgqrs", _claim))
        filling = plan.fillings.get(work)
        count = "" if filling is None else f"{filling.queued or filling.finished:,}"
        state = "queued" if filling is not None and filling.queued else "finished"
        return _reach(work, f"latency of a claim with {count} {state} workflows, times W8", ratio, most=1.2)

    return [
        against("w1", "rust", 2),
        against("w1", "dbos", 6),
        _reach("w1", "commits/s, times pgbench with one client", commits, least=0.5),
        against("w2", "rust", 8),
        against("w2", "dbos", 50),
        against("w3", "rust", 12),
        _reach(
            "w4",
            "steps/s of the last hundred, times the first hundred",
            _own(measurements, "w4", _flatness),
            least=0.8,
        ),
        _reach("w5", "seconds to the first new step", _own(measurements, "w5", _seconds), most=0.5),
        _reach("w6", f"steps/s with {finished:,} finished workflows, times W2", filled, least=0.8),
        queue("w7", "absurd", 10),
        queue("w7", "dbos", 40),
        queue("w7x2", "pgqrs", 1),
        *(flat(work) for work in CLAIMS[1:]),
        *_reaches_of_messages(measurements),
        *_reaches_of_queues(measurements, plan),
    ]


def _reaches_of_queues(measurements: list[Measurement], plan: Plan) -> list[dict[str, Any] | None]:
    """Return the targets of queues with limits and of schedules."""
    queued = plan.fillings["q3full"].queued if "q3full" in plan.fillings else 0
    of_dbos = _ratio(measurements, ("q1", "pgqrs", _workflows_rate), ("q1", "dbos", _workflows_rate))
    of_unlimited = _ratio(measurements, ("q2", "pgqrs", _workflows_rate), ("q2free", "pgqrs", _workflows_rate))
    of_ordered = _ratio(
        measurements, ("q2ordered", "pgqrs", _workflows_rate), ("q2free", "pgqrs", _workflows_rate)
    )
    of_empty = _ratio(measurements, ("q3full", "pgqrs", _claim), ("q3", "pgqrs", _claim))
    refill = _own(measurements, "q1", lambda each: each["refill_ms"])
    fired = _own(measurements, "s1", lambda each: each["seconds_to_fire"])
    return [
        _reach("q1", f"workflows/s with a limit of 4, times {SYSTEMS['dbos'].label}", of_dbos, least=100),
        _reach("q1", "milliseconds from an end to the next beginning in its place", refill, most=5),
        _reach("q2", "workflows/s with a limit of each key, times those without a limit", of_unlimited, least=0.5),
        _reach("q2ordered", "workflows/s in an ordered queue, times those without a limit", of_ordered, least=0.4),
        _reach("q3full", f"latency of a claim beside {queued:,} of a full key, times Q3", of_empty, most=1.2),
        _reach("s1", "seconds until all schedules have started their workflows", fired, most=1),
    ]


def _reaches_of_messages(measurements: list[Measurement]) -> list[dict[str, Any] | None]:
    """Return the targets of messages and children."""

    def own(work: str, what: str, value: Value, **target: float) -> dict[str, Any] | None:
        return _reach(work, what, _own(measurements, work, value), **target)

    ratio = _ratio(measurements, ("m2", "pgqrs", rate), ("m2", "dbos", rate))
    return [
        own("m1", "commits for a wait", lambda each: each["commits_of_a_wait"], most=1),
        _reach("m2", f"messages/s, times {SYSTEMS['dbos'].label}", ratio, least=20),
        own("m3", "messages/s, times workflows enqueued/s by 50 tasks", _of_enqueues, least=0.8),
        own("c1", "children/s, times the same workflows without a parent", _of_parentless, least=0.8),
        own(
            "c1",
            "MiB of additional memory of the parent's process",
            lambda each: each["memory_of_parent"],
            most=50,
        ),
    ]


def _own(measurements: list[Measurement], work: str, value: Value) -> Spread | None:
    values = [value(each) for each in measurements if (each["work"], each["system"]) == (work, "pgqrs")]
    return spread(values) if values else None


def _reach(
    work: str, what: str, value: Spread | None, *, least: float | None = None, most: float | None = None
) -> dict[str, Any] | None:
    if value is None:
        return None
    reached = value["median"] >= least if least is not None else value["median"] <= (most or 0)
    return {"work": work, "what": what, "value": value, "least": least, "most": most, "reached": reached}


def _others(measurements: list[Measurement]) -> list[dict[str, Any] | None]:
    """Return further figures of pgqrs."""

    def other(work: str, what: str, value: Value) -> dict[str, Any] | None:
        found = _own(measurements, work, value)
        return None if found is None else {"work": work, "what": what, "value": found}

    def statements(measured: Measurement) -> float:
        return float(measured["statements"]) / float(measured["workflows"])

    def of_a_step(cost: str, scale: float = 1.0) -> Value:
        return lambda measured: scale * float(measured[cost]) / float(measured["steps"])

    costs = (
        ("bytes of WAL for a step, those of its workflow included", of_a_step("wal")),
        ("microseconds of the client's CPU for a step", of_a_step("client_cpu", 1e6)),
        ("microseconds of the server's CPU for a step", of_a_step("server_cpu", 1e6)),
    )
    return [
        *(other(work, what, value) for work in (*THROUGHPUT, *VALUES) for what, value in costs),
        *(
            other(
                work,
                "statements of the journal (each a round trip and a commit) for a workflow of 5 steps",
                statements,
            )
            for work in THROUGHPUT
        ),
        other("w2", "share of HOT updates of pgqrs_workflows", lambda each: each["hot_updates"] / each["updates"]),
        other("w4", "steps/s", rate),
        other("w5", "seconds to the workflow's body, outcomes loaded", lambda each: each["seconds_to_the_body"]),
        other("w6", "steps/s", rate),
        other("w7", "seconds until all were enqueued", lambda each: each["seconds_to_enqueue"]),
        other(
            "m1",
            "commits for a message, from its sending to the end of its receiver",
            lambda each: each["commits_of_a_message"],
        ),
        *(
            other(work, f"milliseconds for a claim of 50: {WORKS[work].title}", _milliseconds)
            for work in (*CLAIMS, *LIMITED_CLAIMS)
        ),
        other("q1", "the most that were executed at once", lambda each: each["most_at_once"]),
        other("q1", "milliseconds to the next beginning, 99th percentile", lambda each: each["refill_p99_ms"]),
        other("s1", "seconds until all of the workflows have ended", lambda each: each["seconds_to_end"]),
    ]


def titles() -> dict[str, str]:
    """Return the titles of the works."""
    return {name: work.title for name, work in WORKS.items()}
