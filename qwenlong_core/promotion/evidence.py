"""Evidence over all nights of a champion that a benchmark has fallen, valid at whatever night one looks.

A test that is repeated every night finds a fall by chance sooner or later. This one does so with a bounded probability
over all nights together, and it adds up small falls that no single night can show:

    answers of all nights -> permutation p-value of tonight -> bet against it -> evidence

If nothing has changed, a document's answers of tonight might as well be those of any earlier night. The p-value of
tonight among all nights so far is then uniform and independent of the p-values before it, so bets on small ones gain
nothing on average, and the wealth of a bettor who begins with 1 ever reaches 1 / alpha with a probability of at most
alpha (V. Vovk, A. Gammerman and G. Shafer, "Algorithmic Learning in a Random World", second edition, chapter 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import benchmark_names

_DRAWS = 9_999
"""Permutations per p-value; the smallest is about one in so many."""

Scores = Mapping[str, float]
"""Mean accuracy of a night by document."""


def document_scores(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Mean accuracy by benchmark and document; a document with an answer that has no verdict is left out."""
    names = benchmark_names(evaluation.samples)
    found: dict[str, dict[str, list[float | None]]] = {}
    for sample in evaluation.samples:
        documents = found.setdefault(names[sample.source, sample.domain], {})
        documents.setdefault(sample.document_id, []).append(sample.accuracy if sample.has_verdict else None)
    return {
        name: {
            document: fmean(value for value in values if value is not None)
            for document, values in documents.items()
            if None not in values
        }
        for name, documents in found.items()
    }


def night_p_value(tonight: Scores, earlier: Sequence[Scores], seed: int, draws: int = _DRAWS) -> float | None:
    """How probable a night as bad as tonight is if nothing has changed; uniform on (0, 1] then.

    Every document's nights are shuffled by themselves, and tonight's fall against the mean of the others is compared
    with that of the shuffled ones. Equal falls are ordered at random.

    Returns:
        ``None`` where no document was answered on an earlier night.
    """
    shared = [document for document in tonight if any(document in night for night in earlier)]
    if not shared:
        return None
    rng = np.random.default_rng(seed)
    observed, shuffled = 0.0, np.zeros(draws)
    for document in sorted(shared):
        values = np.array([tonight[document], *(night[document] for night in earlier if document in night)])
        # Each night's value less the mean of the others.
        apart = (len(values) * values - values.sum()) / (len(values) - 1)
        observed += apart[0]
        shuffled += apart[rng.integers(len(values), size=draws)]
    # Sums of the same numbers in another order differ by rounding.
    lower, equal = (shuffled < observed - 1e-9).sum(), (abs(shuffled - observed) <= 1e-9).sum()
    return float((lower + rng.uniform() * (equal + 1)) / (draws + 1))


def bet(p: float) -> float:
    """What 1 becomes by the bet: the mean of ``k * p ** (k - 1)`` over k in (0, 1). It is 1 on average for uniform p.

    V. Vovk and R. Wang, "E-values: calibration, combination and applications", 2021, section 2.
    """
    p = min(max(p, 1e-12), 1 - 1e-6)
    log = np.log(p)
    return float((1 - p + p * log) / (p * log**2))


def evidence(p_values: Sequence[float]) -> float:
    """The wealth after betting against these p-values, one a night; 1 before the first.

    The share ``1 / (s (s + 1))`` of the first 1 is held back until night s, so that quiet nights before a fall do not
    use it up.
    """
    playing = 0.0
    for night, p in enumerate(p_values, 1):
        playing = (playing + 1 / (night * (night + 1))) * bet(p)
    return playing + 1 / (len(p_values) + 1)


def enough(benchmarks: int, confidence: float) -> float:
    """The evidence at which a benchmark has fallen: by chance one of them ever reaches it at most
    ``1 - confidence`` of the time."""
    return benchmarks / (1 - confidence)


def night_p_values(seed: int, tonight: Sequence[Evaluation], earlier: Sequence[Evaluation]) -> dict[str, float]:
    """:func:`night_p_value` by benchmark; those that no earlier night asked are left out.

    Of several evaluations of tonight the largest counts, so that a fall must show in all. That can only lower the
    evidence, so it stays valid.
    """
    before, looks = [document_scores(night) for night in earlier], [document_scores(look) for look in tonight]
    found: dict[str, float] = {}
    for number, name in enumerate(sorted(looks[0])):
        nights = [night.get(name, {}) for night in before]
        ps = [night_p_value(look.get(name, {}), nights, seed=seed * 1_000 + number) for look in looks]
        if ps[0] is not None:
            found[name] = max(1.0 if p is None else p for p in ps)
    return found


def drifts(earlier: Sequence[Mapping[str, float]], tonight: Mapping[str, float], confidence: float) -> tuple[str, ...]:
    """The benchmarks that have fallen over the nights, in words.

    Args:
        earlier: the p-values of the earlier nights by benchmark, the oldest first.
        tonight: those of tonight.
        confidence: without any fall, a series ever names one with at most ``1 - confidence``, over all benchmarks.
    """
    limit = enough(len(tonight), confidence)
    found = {name: evidence([*(night[name] for night in earlier if name in night), p]) for name, p in tonight.items()}
    return tuple(
        f"{name} (evidence {value:,.0f}, limit {limit:,.0f})" for name, value in found.items() if value >= limit
    )
