"""The gate's verdict, how it is stored, and how people read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenlong_core.evaluation.statistics import Estimate

DECISION, DECISION_TEXT = "decision.json", "decision.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition of the gate, with its numbers in words."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The gate's verdict."""

    promote: bool
    reason: str
    """One sentence: that every condition holds, or each one that does not."""
    conditions: tuple[Condition, ...]
    gain: Estimate | None = None
    """Challenger minus champion over all items; ``None`` when the items could not be paired."""
    average: Estimate | None = None
    """The same over the paper's seven benchmarks, each counting once; ``None`` where one is missing."""
    benchmarks: Mapping[str, Estimate] = field(default_factory=dict)
    """The same for each benchmark."""


def decision_markdown(decision: Decision) -> str:
    """The decision as people read it in a console or in Prefect."""
    # A list, because Prefect's tables cut long cells off.
    lines = [f"- {'pass' if c.passed else '**FAIL**'} **{c.name}**: {c.detail}" for c in decision.conditions]
    return "\n".join([f"# {'Promoted' if decision.promote else 'Refused'}", "", *lines, ""])


def write_decision(decision: Decision, folder: Path) -> None:
    """Write ``decision.json`` and ``decision.md``."""
    (folder / DECISION).write_text(json.dumps(asdict(decision), indent=1))
    (folder / DECISION_TEXT).write_text(decision_markdown(decision))


def read_decision(folder: Path) -> dict[str, Any]:
    """What ``decision.json`` holds: the fields of :class:`Decision` as plain JSON."""
    content: dict[str, Any] = json.loads((folder / DECISION).read_text())
    return content
