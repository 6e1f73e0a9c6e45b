"""The gate's verdict, how it is stored, and how people read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwenlong_core.evaluation.statistics import Estimate
from qwenlong_core.markdown import markdown_table
from qwenlong_core.promotion.flips import Flip

DECISION, DECISION_TEXT = "decision.json", "decision.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition of the gate, with its numbers in words."""

    name: str
    passed: bool
    detail: str
    undecided: bool = False
    """It failed for want of evidence: more items could show either."""


Verdict = Literal["PROMOTED", "REFUSED", "INCONCLUSIVE"]
"""``INCONCLUSIVE`` is a refusal too: all that failed failed for want of evidence."""


def verdict_of(conditions: Sequence[Condition]) -> Verdict:
    """The verdict that follows from conditions; one that failed and is decided refuses, whatever else holds."""
    failed = [condition for condition in conditions if not condition.passed]
    if not failed:
        return "PROMOTED"
    return "INCONCLUSIVE" if all(condition.undecided for condition in failed) else "REFUSED"


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
    items_to_decide: int | None = None
    """Where only the gain is undecided: items with which a gain like this one would be decided with 80% power."""
    flips: tuple[Flip, ...] = ()
    """The items that the two score differently; none where they could not be paired."""

    @property
    def verdict(self) -> Verdict:
        """What follows from the conditions; ``PROMOTED`` exactly where :attr:`promote` is true."""
        return verdict_of(self.conditions)


def decision_markdown(decision: Decision) -> str:
    """The decision as people read it in a console or in Prefect."""
    # A list, because Prefect's tables cut long cells off.
    lines = [f"- {'pass' if c.passed else '**FAIL**'} **{c.name}**: {c.detail}" for c in decision.conditions]
    return "\n".join([f"# {_TITLE[decision.verdict]}", "", *lines, "", *_flip_lines(decision.flips)])


_TITLE = {"PROMOTED": "Promoted", "REFUSED": "Refused", "INCONCLUSIVE": "Inconclusive: not promoted"}


def _flip_lines(flips: Sequence[Flip]) -> list[str]:
    """The largest flips both ways; ``qwenlong compare`` shows all of them with their evidence."""
    gained, lost = [flip for flip in flips if flip.gain > 0], [flip for flip in reversed(flips) if flip.gain < 0]
    if not flips:
        return []
    lines = [f"The challenger scores {len(gained)} items higher and {len(lost)} lower than the champion.", ""]
    for title, chosen in (("Higher", gained[:_SHOWN]), ("Lower", lost[:_SHOWN])):
        rows = [
            {"item": flip.item, "benchmark": flip.benchmark, "challenger": _quoted(flip.challenger),
             "champion": _quoted(flip.champion)}
            for flip in chosen
        ]  # fmt: skip
        lines += [f"## {title}", "", markdown_table(rows)] if rows else []
    return lines


_SHOWN = 10


def _quoted(answer: str) -> str:
    """A model's answer as code, so that nothing in it is read as markup."""
    return f"`{answer.replace('`', chr(39))}`"


def write_decision(decision: Decision, folder: Path) -> None:
    """Write ``decision.json`` and ``decision.md``."""
    (folder / DECISION).write_text(json.dumps(asdict(decision) | {"verdict": decision.verdict}, indent=1))
    (folder / DECISION_TEXT).write_text(decision_markdown(decision))


def read_decision(folder: Path) -> dict[str, Any]:
    """What ``decision.json`` holds: the fields of :class:`Decision` and its verdict, as plain JSON."""
    content: dict[str, Any] = json.loads((folder / DECISION).read_text())
    # A decision that was made before there was a third verdict knows two.
    return {"verdict": "PROMOTED" if content["promote"] else "REFUSED", "flips": []} | content
