"""Two evaluations of the same items, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from qwenlong_core.evaluation.samples import Sample, benchmark_names, by_example


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Item scores ``[N]`` of both models, in the same order."""

    challenger: Sequence[float]
    champion: Sequence[float]
    documents: Sequence[str]
    benchmarks: Sequence[str]


def _item_value(group: Sequence[Sample], unscored: float) -> float:
    return fmean(sample.accuracy if sample.has_verdict else unscored for sample in group)


def pair_items(challenger: Sequence[Sample], champion: Sequence[Sample]) -> Pairs:
    """Item scores of both: an unscored sample counts 0 for the challenger and 1 for the champion.

    So a judge that was down can hide a gain, but never make one.

    Raises:
        ValueError: the two do not hold the same items.
    """
    new, old = dict(by_example(challenger)), dict(by_example(champion))
    names = benchmark_names(challenger)
    if new.keys() != old.keys():
        raise ValueError("the two evaluations hold different items: evaluate both on the same rows")
    return Pairs(
        challenger=[_item_value(group, 0.0) for group in new.values()],
        champion=[_item_value(old[item], 1.0) for item in new],
        documents=[group[0].document_id for group in new.values()],
        benchmarks=[names[group[0].source, group[0].domain] for group in new.values()],
    )
