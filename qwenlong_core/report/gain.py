"""What the gain of a training is made of, so that a model that only learned the form of the answer is seen as such.

A gain has three sources: answers became readable at all, readable answers became right, and what was learned carries
over to questions of a form that was never trained on. Each has a row of its own, and so has GRPO's own share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.pairs import pair_items
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample, by_example
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.report.tables import Interval, baseline_of

_START = "sft"
"""The stage that GRPO starts from."""


def gain_rows(evaluations: Mapping[str, Evaluation], bootstrap: Bootstrap | None = None) -> list[dict[str, Any]]:
    """The last stage against the baseline, on all items and on parts of them; then against SFT. Empty for one stage.

    Args:
        evaluations: By stage, from the first to the last; all answered the same items.
        bootstrap: How the intervals are drawn; by default as in the last stage's scores.
    """
    names = list(evaluations)
    first, last = baseline_of(names), names[-1]
    if first == last:
        return []
    before, after = evaluations[first].samples, evaluations[last].samples
    drawn = bootstrap or evaluations[last].bootstrap
    rows = [
        _row(f"{last} over {first}: {label}", before, after, items, drawn) for label, items in _parts(before) if items
    ]
    if _START in names[:-1]:
        before = evaluations[_START].samples
        rows.append(_row(f"{last} over {_START}: all items", before, after, _items(before), drawn))
    return rows


def _parts(before: tuple[Sample, ...]) -> Iterator[tuple[str, set[str]]]:
    yield "all items", _items(before)
    yield "the answer was readable before", _items(before) - {s.example_id for s in before if not s.is_readable}
    untrained = sorted({(sample.domain, sample.kind) for sample in before if sample.untrained})
    if untrained:
        yield "forms of question trained on", {sample.example_id for sample in before if not sample.untrained}
    for domain, kind in untrained:
        items = {sample.example_id for sample in before if (sample.domain, sample.kind) == (domain, kind)}
        yield f"{domain}, never trained on: {kind}", items


def _items(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.example_id for sample in samples}


def _row(
    label: str, before: tuple[Sample, ...], after: tuple[Sample, ...], items: set[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    old, new = (tuple(s for s in samples if s.example_id in items) for samples in (before, after))
    pairs = pair_items(new, old)
    gain = statistics.paired_difference(pairs.challenger, pairs.champion, pairs.documents, **bootstrap.model_dump())
    return {
        "part": label,
        "items": len(items),
        "readable before": _readable(old),
        "readable after": _readable(new),
        "score before": fmean(pairs.champion),
        "score after": fmean(pairs.challenger),
        "gain": Interval(gain, signed=True),
    }


def _readable(samples: tuple[Sample, ...]) -> float:
    """Mean over items of the share of readable answers."""
    return fmean(fmean(sample.is_readable for sample in group) for _, group in by_example(samples))
