"""Has tonight's score fallen? Compared item by item with earlier nights, and corrected for many comparisons.

Several benchmarks tested every night show a "significant" fall by chance within weeks. So the p-values are
Holm-adjusted over the benchmarks of a night, and a fall counts only if a second seed confirms it
(:func:`confirmed_falls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import benchmark_names, by_example


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How one benchmark differs from earlier nights."""

    name: str
    mean: float
    """Tonight minus the mean of the earlier nights, over the items that have a scored answer in every night."""
    items: int
    p: float
    """One-sided, Holm-adjusted: a small value means that chance hardly explains the fall."""
    significant: bool

    @property
    def words(self) -> str:
        """``math fell by 0.120 over 50 items (p = 0.003)``."""
        moved = "fell" if self.mean < 0 else "rose"
        return f"{self.name} {moved} by {abs(self.mean):.3f} over {self.items} items (p = {self.p:.3f})"


def _scored_means(evaluation: Evaluation) -> dict[str, float]:
    """Mean accuracy of each item over its scored samples.

    Items without a scored sample are left out, since a judge that was down is not a fall. The unscored share has a
    ceiling of its own.
    """
    scored = (sample for sample in evaluation.samples if sample.has_verdict)
    return {item: fmean(sample.accuracy for sample in group) for item, group in by_example(scored)}


def changes(tonight: Evaluation, before: Sequence[Evaluation], *, confidence: float = 0.95) -> list[Change]:
    """Tonight against the mean of earlier nights, for each benchmark.

    Args:
        tonight: Tonight's evaluation.
        before: Earlier nights on the same rows, at least one.
        confidence: Without any fall, at most ``1 - confidence`` of nights call one significant, over all benchmarks.

    Raises:
        ValueError: there are no earlier nights, or they answered different rows.
    """
    if not before or any(night.plan.dataset_digest != tonight.plan.dataset_digest for night in before):
        raise ValueError(
            "nights are compared on the same rows only: give earlier evaluations of tonight's dataset, at least one"
        )
    means = [_scored_means(night) for night in before]
    new, benchmarks = _scored_means(tonight), benchmark_names(tonight.samples)
    rows: dict[str, list[tuple[float, str]]] = {}
    for item, group in by_example(tonight.samples):
        if item in new and all(item in night for night in means):
            gain = new[item] - fmean(night[item] for night in means)
            rows.setdefault(benchmarks[group[0].source, group[0].domain], []).append((gain, group[0].document_id))
    names = sorted(rows)
    # A t-test on the item gains of each benchmark, clustered on documents as everywhere.
    raw = [statistics.loss_p_value([g for g, _ in rows[name]], [d for _, d in rows[name]]) for name in names]
    return [
        Change(
            name=name,
            mean=float(np.mean([gain for gain, _ in rows[name]])),
            items=len(rows[name]),
            p=p,
            significant=p <= 1 - confidence,
        )
        for name, p in zip(names, statistics.holm(raw), strict=True)
    ]


def comparable(tonight: Evaluation, earlier: Evaluation) -> bool:
    """Whether two nights answered the same rows under the same protocol."""
    new, old = tonight.plan, earlier.plan
    return (new.dataset_digest, new.samples, new.protocol) == (old.dataset_digest, old.samples, old.protocol)


def confirmed_falls(first: Sequence[Change], second: Sequence[Change]) -> list[Change]:
    """Benchmarks that fell significantly under both of tonight's seeds, with the numbers of the second."""
    fell = {change.name for change in first if change.significant}
    return [change for change in second if change.significant and change.name in fell]


def unscored_share(evaluation: Evaluation) -> float:
    """Share of samples without a score, to compare with its ceiling."""
    return float(np.mean([not sample.has_verdict for sample in evaluation.samples]))
