"""`Finding`, and the limits from which on a condition is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["ok", "info", "warning", "error"]
"""How much a finding matters: nothing is wrong, good to know, look at it soon, act now."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "ok")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of `Admin.doctor`; `str()` of it is text for a terminal.

    Attributes:
        kind: The name of the check, such as ``"oldest transaction"``; see `docs/production.md`.
        severity: ``"ok"``, ``"info"``, ``"warning"`` or ``"error"``.
        sentence: The result as a sentence.
        facts: The figures behind it, by name.
        advice: What to do, a sentence; empty if there is nothing to do.
    """

    kind: str
    severity: Severity
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    advice: str = ""

    def __str__(self) -> str:
        lines = [f"{self.severity.upper():7} {self.kind}: {self.sentence}"]
        return "\n".join([*lines, *([f"        {self.advice}"] if self.advice else [])])


def shown_bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1024:  # noqa: PLR2004  # the next unit
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def shown_seconds(seconds: float) -> str:
    """Return a length of time for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
