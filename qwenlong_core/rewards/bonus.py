"""The bonus for evidence: what a right answer earns for showing where it comes from (``rewards.evidence``).

Only right answers get it, after LongTraceRL (arXiv 2605.31584): paying wrong ones would teach to cite and guess. In a
group it is measured against the best right answer, so that hard evidence is worth as much as easy evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.evidence import Shown, shown
from qwenlong_core.settings.rewards import EvidenceBonus


def with_bonus(
    examples: Sequence[Example],
    completions: Sequence[Completion],
    scores: Sequence[Score],
    bonus: EvidenceBonus,
    group_size: int,
) -> list[Score]:
    """The scores of whole groups, one after the other, with the bonus of each right answer.

    Args:
        examples: The example of each completion.
        completions: As the scorer reads them, with the thinking that a template has opened.
        scores: Their scores; accuracies, unscored ones and those of wrong answers stay as they are.
        bonus: What counts as evidence, and how much it is worth.
        group_size: Completions of a group.
    """
    found: list[Score] = []
    for first in range(0, len(scores), group_size):
        group = range(first, min(first + group_size, len(scores)))
        shares = [_shown(examples[i], completions[i], scores[i], bonus) for i in group]
        best = max((one.share for one in shares if one), default=0.0)
        found += [_added(scores[i], one, best, bonus.weight) for i, one in zip(group, shares, strict=True)]
    return found


def _shown(example: Example, completion: Completion, score: Score, bonus: EvidenceBonus) -> Shown | None:
    """What a right answer shows; ``None`` for the others."""
    return shown(example, completion.text, bonus) if score.accuracy == 1.0 else None


def _added(score: Score, found: Shown | None, best: float, weight: float) -> Score:
    if found is None or score.value is None:
        return score
    earned = weight * found.share / best if best else 0.0
    reason = f"{score.reason}; evidence {found.share:.2f}: {found.reason}"
    return replace(score, value=score.value + earned, bonus=earned, reason=reason)
