"""The paper's headline number: the mean of the seven benchmarks, in which each counts once.

It is not the mean over items: FRAMES has 824 of the 2,024 questions, and would be two fifths of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.samples import Sample, by_example
from qwenlong_core.settings.base import Block

AVERAGE = "average of the seven"
"""Its name in tables, metrics and conditions."""


class Average(Block):
    """The mean over the seven benchmarks, or why there is none."""

    accuracy: statistics.Estimate | None
    """Mean of the seven scores over fixed denominators: an unscored sample counts 0, and ``highest`` says how much that
    may hide. ``None`` where a benchmark is missing or has no verdict at all."""
    highest: float | None
    """The same if every unscored sample and error were right."""
    missing: tuple[str, ...]
    """Benchmarks that were not evaluated."""
    undecided: tuple[str, ...]
    """Benchmarks of which no answer has a verdict: their score is unknown, not 0."""
    unscored: dict[str, int]
    """Samples without a verdict, by benchmark that has any."""

    @property
    def words(self) -> str:
        """Why there is no number, or what it leaves open; empty if it is complete."""
        gaps = []
        if self.missing:
            gaps.append(f"not evaluated: {', '.join(self.missing)}")
        if self.undecided:
            gaps.append(f"no answer has a verdict: {', '.join(self.undecided)}")
        if gaps:
            return f"no {AVERAGE} ({'; '.join(gaps)})"
        if not self.unscored:
            return ""
        counts = ", ".join(f"{name} {count}" for name, count in self.unscored.items())
        return f"answers without a verdict count 0 ({counts}); if all were right it would be {self.highest:.2f}"


def average_of(samples: Iterable[Sample], accuracies: Mapping[str, statistics.Estimate]) -> Average | None:
    """The average of an evaluation, or ``None`` if it holds none of the seven.

    Args:
        samples: All samples.
        accuracies: Mean over items of each source.
    """
    seven = [sample for sample in samples if sample.source in BENCHMARKS]
    if not seven:
        return None
    answers = Counter(sample.source for sample in seven)
    without = Counter(sample.source for sample in seven if not sample.has_verdict)
    unscored = {name: without[name] for name in BENCHMARKS if without[name]}
    missing = tuple(name for name in BENCHMARKS if not answers[name])
    undecided = tuple(name for name, count in unscored.items() if count == answers[name])
    accuracy = highest = None
    if not missing and not undecided:
        accuracy = statistics.mean_of_means([accuracies[name] for name in BENCHMARKS])
        highest = fmean(_highest([sample for sample in seven if sample.source == name]) for name in BENCHMARKS)
    return Average(accuracy=accuracy, highest=highest, missing=missing, undecided=undecided, unscored=unscored)


def _highest(samples: Iterable[Sample]) -> float:
    """The score of a benchmark if every sample without a verdict were right."""
    groups = (group for _, group in by_example(samples))
    return fmean(fmean(sample.accuracy if sample.has_verdict else 1.0 for sample in group) for group in groups)


def average_gain(gains: Mapping[str, statistics.Estimate]) -> statistics.Estimate | None:
    """The paired gain in the average, from the gains by benchmark; ``None`` where one of the seven is missing."""
    if any(name not in gains for name in BENCHMARKS):
        return None
    return statistics.mean_of_means([gains[name] for name in BENCHMARKS])
