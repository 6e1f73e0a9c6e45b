"""Has tonight's score fallen? Paired with earlier nights on the same items, corrected for many looks.

One look at several benchmarks every night finds a "significant" fall by chance within weeks. So the
p-values are Holm-adjusted over the benchmarks of a night, and a fall counts only when a second seed
shows it too (:func:`confirmed_falls`).
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
    """Tonight minus the mean of earlier nights, over the items that were scored in all of them."""
    items: int
    p: float
    """Holm-adjusted, one-sided: small means that a fall is hard to explain by chance."""
    significant: bool

    @property
    def words(self) -> str:
        """``math fell by 0.120 over 50 items (p = 0.003)``."""
        moved = "fell" if self.mean < 0 else "rose"
        return f"{self.name} {moved} by {abs(self.mean):.3f} over {self.items} items (p = {self.p:.3f})"


def _scored_means(evaluation: Evaluation) -> dict[str, float]:
    """Mean accuracy of each item over its scored samples. A judge that was down is not a fall: items
    without a scored sample are left out here, and the unscored rate has a ceiling of its own."""
    scored = (sample for sample in evaluation.samples if sample.has_verdict)
    return {item: fmean(sample.accuracy for sample in group) for item, group in by_example(scored)}


def changes(tonight: Evaluation, before: Sequence[Evaluation], *, confidence: float = 0.95) -> list[Change]:
    """Tonight against the mean of earlier nights, for each benchmark.

    Args:
        confidence: over all benchmarks together, a fall is called significant by chance in at most
            ``1 - confidence`` of nights without one.

    Raises:
        ValueError: there are no earlier nights, or they answered other rows.
    """
    if not before or any(night.plan.dataset_digest != tonight.plan.dataset_digest for night in before):
        raise ValueError("nights can be compared on the same rows alone: give earlier evaluations of tonight's dataset")
    means = [_scored_means(night) for night in before]
    new, benchmarks = _scored_means(tonight), benchmark_names(tonight.samples)
    rows: dict[str, list[tuple[float, str]]] = {}
    for item, group in by_example(tonight.samples):
        if item in new and all(item in night for night in means):
            gain = new[item] - fmean(night[item] for night in means)
            rows.setdefault(benchmarks[group[0].source, group[0].domain], []).append((gain, group[0].document_id))
    names = sorted(rows)
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
    """Benchmarks that fell significantly under both of tonight's seeds, as the second one saw them."""
    fell = {change.name for change in first if change.significant}
    return [change for change in second if change.significant and change.name in fell]


def unscored_share(evaluation: Evaluation) -> float:
    """Share of samples that the judge could not score, to hold against a ceiling."""
    return float(np.mean([not sample.has_verdict for sample in evaluation.samples]))
