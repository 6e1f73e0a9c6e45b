"""From samples to numbers: accuracy with intervals, by domain, source, length and depth.

The denominator is fixed: every planned item counts. Wrong, truncated, no answer, unscored and error are counted
separately. ``accuracy`` counts the last two as 0 and ``accuracy_without_unscored`` leaves them out, so a judge or a
server that was down shows as a gap between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from pydantic import Field

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.average import Average, average_of
from qwenlong_core.evaluation.qwenlong_l1 import AsPublished, as_published
from qwenlong_core.evaluation.ruler import RulerScores, ruler_scores
from qwenlong_core.evaluation.samples import OUTCOMES, Sample, by_example
from qwenlong_core.records import DOMAINS
from qwenlong_core.settings.base import Block

_LENGTHS = (0, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 1 << 40)
_DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Bootstrap(Block):
    """How the bootstrap intervals are drawn."""

    resamples: int
    confidence: float
    seed: int


class Slice(Block):
    """The numbers of one group of items."""

    accuracy: statistics.Estimate
    """Mean over items of the mean over each item's samples; an unscored sample and an error count 0."""
    accuracy_without_unscored: statistics.Estimate | None
    """The same without unscored samples and errors; ``None`` where none is left."""
    minimum_detectable_effect: float | None
    """True gain that an *unpaired* comparison on this slice would detect with 80% power, if the other model had the
    same standard error. Pairing usually detects smaller ones. ``None`` without a standard error."""
    pass_at_k: dict[int, float]
    """By k = 1, 2, 4 ... up to the number of samples that every item has."""
    metrics: dict[str, float]
    """Mean of each of the benchmarks' own metrics over the samples that have it; an error counts 0."""
    items: int
    documents: int
    samples: int
    outcomes: dict[str, int]
    """Samples by :attr:`~qwenlong_core.evaluation.samples.Sample.outcome`; they sum to ``samples``."""
    truncated_prompts: int
    """Samples whose document lost its middle."""
    mean_completion_tokens: float

    @property
    def is_undecided(self) -> bool:
        """Whether no sample has a verdict. The score is then unknown: its 0 stands for nothing that was measured."""
        return self.accuracy_without_unscored is None


class Scores(Block):
    """All numbers of an evaluation."""

    overall: Slice
    average: Average | None = None
    """Over the paper's seven benchmarks, each counting once; ``None`` where none of them was evaluated."""
    domains: dict[str, Slice]
    sources: dict[str, Slice]
    parts: dict[str, dict[str, Slice]] = Field(default_factory=dict)
    """By benchmark and part of it, for benchmarks that report parts: tasks, bins of lengths, difficulties."""
    as_published: dict[str, AsPublished] = Field(default_factory=dict)
    """The paper's benchmarks under ``evaluation.protocol = "qwenlong-l1"``."""
    ruler: RulerScores | None = None
    """RULER's table, where it was asked."""
    lengths: dict[str, Slice]
    """By tokens of the prompt before any truncation; the key is the range."""
    depths: dict[str, Slice]
    """By depth of the evidence, over the items where it is known."""


def _item_means(groups: Sequence[list[Sample]]) -> list[float]:
    return [float(np.mean([sample.accuracy for sample in group])) for group in groups]


def _documents(groups: Sequence[list[Sample]]) -> list[str]:
    return [group[0].document_id for group in groups]


def _pass_at_k(groups: Sequence[list[Sample]]) -> dict[int, float]:
    counts = [len(group) for group in groups]
    correct = [sum(sample.accuracy == 1 for sample in group) for group in groups]
    # Powers of two: the usual points of a pass@k curve, up to what the item with the fewest samples allows.
    ks = [1 << power for power in range(min(counts).bit_length())]
    return {k: float(statistics.pass_at_k(counts, correct, k).mean()) for k in ks}


def _scored(groups: Sequence[list[Sample]]) -> list[list[Sample]]:
    kept = ([sample for sample in group if sample.has_verdict] for group in groups)
    return [group for group in kept if group]


def _effect(estimate: statistics.Estimate, confidence: float) -> float | None:
    if not estimate.standard_error:
        return None
    error = estimate.standard_error * 2**0.5  # of the difference of two independent means
    return statistics.minimum_detectable_effect(error, estimate.documents, confidence=confidence)


def summarise(samples: Iterable[Sample], bootstrap: Bootstrap) -> Slice:
    """The numbers of a group of samples, which must hold at least one."""
    groups = [group for _, group in by_example(samples)]
    settings = bootstrap.model_dump()
    accuracy = statistics.clustered_accuracy(_item_means(groups), _documents(groups), **settings)
    scored = _scored(groups)
    without = statistics.clustered_accuracy(_item_means(scored), _documents(scored), **settings) if scored else None
    flat = [sample for group in groups for sample in group]
    counted = Counter(sample.outcome for sample in flat)
    return Slice(
        accuracy=accuracy,
        accuracy_without_unscored=without,
        minimum_detectable_effect=_effect(accuracy, bootstrap.confidence),
        pass_at_k=_pass_at_k(groups),
        metrics={
            name: float(np.mean([sample.metrics[name] for sample in flat if name in sample.metrics]))
            for name in sorted({name for sample in flat for name in sample.metrics})
        },
        items=accuracy.items,
        documents=accuracy.documents,
        samples=len(flat),
        outcomes={outcome: counted[outcome] for outcome in OUTCOMES},
        truncated_prompts=sum(sample.lost_tokens > 0 for sample in flat),
        mean_completion_tokens=float(np.mean([sample.num_tokens for sample in flat])),
    )


def _grouped(
    samples: Iterable[Sample], label: Callable[[Sample], str | None], order: Iterable[str], bootstrap: Bootstrap
) -> dict[str, Slice]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        name = label(sample)
        if name is not None:
            groups.setdefault(name, []).append(sample)
    return {name: summarise(groups[name], bootstrap) for name in order if name in groups}


def _tokens(count: int) -> str:
    return f"{count // 1024}K" if count >= 1024 else str(count)


def _length_labels() -> Mapping[tuple[int, int], str]:
    ranges = list(pairwise(_LENGTHS))
    labels = [f"{_tokens(low)}–{_tokens(high)}" for low, high in ranges[:-1]]
    return dict(zip(ranges, [*labels, f"over {_tokens(_LENGTHS[-2])}"], strict=True))


LENGTH_LABELS = _length_labels()
"""Names of the ranges of tokens, in order."""
_DEPTH_LABELS = {(low, high): f"{low:.0%}–{high:.0%}" for low, high in pairwise(_DEPTHS)}


def length_label(sample: Sample) -> str:
    """The range of its prompt's tokens before any truncation, one of :data:`LENGTH_LABELS`."""
    total = sample.prompt_tokens + sample.lost_tokens
    return next(label for (low, high), label in LENGTH_LABELS.items() if low < total <= high)


def _depth_label(sample: Sample) -> str | None:
    depth = sample.depth
    if depth is None:
        return None
    return next(label for (low, high), label in _DEPTH_LABELS.items() if low <= depth < high or depth == high == 1)


def _parts(samples: Iterable[Sample], bootstrap: Bootstrap) -> dict[str, dict[str, Slice]]:
    groups: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        for part in sample.parts:
            groups.setdefault(sample.source, {}).setdefault(part, []).append(sample)
    return {
        source: {part: summarise(groups[source][part], bootstrap) for part in groups[source]}
        for source in sorted(groups)
    }


def compute_scores(samples: Sequence[Sample], bootstrap: Bootstrap) -> Scores:
    """All numbers of a complete evaluation.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("an evaluation without samples has no scores: give it evaluation rows")
    sources = _grouped(samples, lambda s: s.source, sorted({s.source for s in samples}), bootstrap)
    return Scores(
        overall=summarise(samples, bootstrap),
        average=average_of(samples, {name: part.accuracy for name, part in sources.items()}),
        domains=_grouped(samples, lambda sample: sample.domain, DOMAINS, bootstrap),
        sources=sources,
        parts=_parts(samples, bootstrap),
        as_published=as_published(samples),
        ruler=ruler_scores(samples),
        lengths=_grouped(samples, length_label, LENGTH_LABELS.values(), bootstrap),
        depths=_grouped(samples, _depth_label, _DEPTH_LABELS.values(), bootstrap),
    )
