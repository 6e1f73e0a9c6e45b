"""Two evaluations of the same items: the paired difference, what it decides, and which answers flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample, benchmark_names, by_example
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.evaluation.statistics import Estimate, items_to_decide, paired_difference

Verdict = Literal["A is better", "B is better", "INCONCLUSIVE"]


class Difference(NamedTuple):
    """The scores of some items that both answered, and B's gain over A."""

    name: str
    items: int
    a: float
    b: float
    gain: Estimate

    @property
    def verdict(self) -> Verdict:
        """Decided where the whole interval lies on one side of 0."""
        if self.gain.low is not None and self.gain.low > 0:
            return "B is better"
        if self.gain.high is not None and self.gain.high < 0:
            return "A is better"
        return "INCONCLUSIVE"


class Flip(NamedTuple):
    """An item that one of the two answers better than the other."""

    item: str
    benchmark: str
    a: Sequence[Sample]
    b: Sequence[Sample]
    gain: float
    """B's share of right samples less A's."""


class Comparison(NamedTuple):
    """What two evaluations say beside each other."""

    overall: Difference
    benchmarks: list[Difference]
    flips: list[Flip]
    """Those that B gained first, the largest first."""
    left_out: int
    """Items of which one of the two has an answer without a verdict. They are in no number."""
    items_to_decide: int | None
    """Items, of as many documents each, with which a gain like this would be found with 80% power; ``None`` where it is
    decided already, or there is no gain to find."""


def compare(a: Evaluation, b: Evaluation, bootstrap: Bootstrap) -> Comparison:
    """Compare two evaluations of the same items.

    Raises:
        ValueError: they do not hold the same items, or share none that both have a verdict on.
    """
    ours, theirs = dict(by_example(a.samples)), dict(by_example(b.samples))
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"the two evaluations hold different items ({len(ours.keys() ^ theirs.keys())} are in one alone): evaluate "
            "both on the same rows"
        )
    decided = [item for item in ours if all(s.has_verdict for s in (*ours[item], *theirs[item]))]
    if not decided:
        raise ValueError("no item has a verdict in both evaluations: score them again once the judge answers")
    names = benchmark_names(a.samples)
    benchmarks: dict[str, list[str]] = {}
    for item in decided:
        benchmarks.setdefault(names[ours[item][0].source, ours[item][0].domain], []).append(item)
    parts = [_difference(name, benchmarks[name], ours, theirs, bootstrap) for name in sorted(benchmarks)]
    overall = _difference("all items", decided, ours, theirs, bootstrap)
    flips = [
        Flip(item, name, ours[item], theirs[item], _share(theirs[item]) - _share(ours[item]))
        for name, items in benchmarks.items()
        for item in items
    ]
    flips = sorted((flip for flip in flips if flip.gain), key=lambda flip: (-flip.gain, flip.item))
    needed = items_to_decide(overall.gain, confidence=bootstrap.confidence)
    return Comparison(overall, parts, flips, len(ours) - len(decided), needed)


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.accuracy for sample in samples) / len(samples)


def _difference(
    name: str,
    items: Sequence[str],
    ours: Mapping[str, Sequence[Sample]],
    theirs: Mapping[str, Sequence[Sample]],
    bootstrap: Bootstrap,
) -> Difference:
    first, second = [_share(ours[item]) for item in items], [_share(theirs[item]) for item in items]
    documents = [ours[item][0].document_id for item in items]
    gain = paired_difference(second, first, documents, **bootstrap.model_dump())
    return Difference(name, len(items), sum(first) / len(items), sum(second) / len(items), gain)
