"""How certain a benchmark number is: intervals, tests and power that account for shared documents.

Questions about one document succeed and fail together, so the unit of resampling is the document (the *cluster*), not
the item. Ignoring that makes intervals too narrow and promotions too easy (E. Miller, "Adding Error Bars to Evals",
arXiv 2411.00640, section 2.2).

Shapes: ``values`` is ``[N]``, one number per item; ``clusters`` is ``[N]``, the id of each item's document; C is the
number of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr, stdtrit

Floats = NDArray[np.float64]

_FEW = 8
"""With fewer documents than this an interval is at least as wide as the t interval. Resampling so few does not
spread far enough: two documents that both gained never resample to a loss. Simulated without a true gain, the
bootstrap's lower end was above 0 in 19%, 8% and 5% of comparisons on 2, 3 and 4 documents, instead of 2.5%."""

_BLOCK = 2_000_000
"""Indices drawn at once (16 MB). The draws are the same for any value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and its uncertainty."""

    mean: float
    low: float | None
    """Lower end of the two-sided interval; ``None`` with fewer than two documents."""
    high: float | None
    standard_error: float | None
    """Cluster-robust; ``None`` with fewer than two documents."""
    items: int
    documents: int


def _cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum of values and number of items of each cluster, both ``[C]``, in order of cluster id."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) != len(clusters) or not len(array):
        raise ValueError(
            f"{array.shape} values for {len(clusters)} clusters: give one cluster id per value, at least one"
        )
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    return np.bincount(index, weights=array).astype(np.float64), sizes


def _robust_error(sums: Floats, sizes: Floats) -> float | None:
    """Cluster-robust standard error of the ratio ``sums.sum() / sizes.sum()``; ``None`` for one cluster."""
    count = len(sums)
    if count < 2:
        return None
    # A cluster's residual is against its size times the mean: clusters with many items weigh more.
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / sizes.sum())


def standard_error(values: ArrayLike, clusters: Sequence[str]) -> float | None:
    """Cluster-robust standard error of the mean; ``None`` with fewer than two clusters.

    arXiv 2411.00640, equation 4, with the small-sample factor C / (C - 1).
    """
    return _robust_error(*_cluster_sums(values, clusters))


def _bootstrap_means(sums: Floats, sizes: Floats, resamples: int, seed: int) -> Floats:
    """Means ``[R]`` of R = ``resamples`` draws of C clusters with replacement."""
    rng = np.random.default_rng(seed)
    count = len(sums)
    means = np.empty(resamples)
    rows = max(1, _BLOCK // count)
    for start in range(0, resamples, rows):
        drawn = rng.integers(count, size=(min(rows, resamples - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _tail(confidence: float, clusters: int) -> float:
    """Share to cut from each tail of the bootstrap distribution.

    With few clusters the plain percentile interval is too narrow: it lacks the factor sqrt(C / (C - 1)) and the heavier
    tails of Student's t. Cutting a smaller share makes up for both (the expanded percentile interval of T. Hesterberg,
    "What Teachers Should Know About the Bootstrap", 2015, section 3.3).
    """
    quantile = float(stdtrit(clusters - 1, (1 + confidence) / 2))
    return float(ndtr(-quantile * np.sqrt(clusters / (clusters - 1))))


def clustered_mean(
    values: ArrayLike, clusters: Sequence[str], *, resamples: int, confidence: float, seed: int
) -> Estimate:
    """Mean with a bootstrap interval over clusters (expanded percentile); with few clusters at least the t interval.

    Raises:
        ValueError: there are no values, or not one cluster per value.
    """
    sums, sizes = _cluster_sums(values, clusters)
    count, mean, error = len(sums), float(sums.sum() / sizes.sum()), _robust_error(sums, sizes)
    low = high = None
    if error is not None:
        tail = _tail(confidence, count)
        means = _bootstrap_means(sums, sizes, resamples, seed)
        low, high = (float(bound) for bound in np.quantile(means, [tail, 1 - tail]))
        if count < _FEW:
            reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
            low, high = min(low, mean - reach), max(high, mean + reach)
    return Estimate(mean=mean, low=low, high=high, standard_error=error, items=int(sizes.sum()), documents=count)


def _unseen_share(confidence: float, documents: int) -> float:
    """Upper bound on the share of documents that behave differently, when none of those seen did.

    Clopper-Pearson; at 95% about 3.7 / C, close to the "rule of three".
    """
    return float(1 - ((1 - confidence) / 2) ** (1 / documents))


def _bounded(
    values: Floats, bounds: tuple[float, float], clusters: Sequence[str], resamples: int, confidence: float, seed: int
) -> Estimate:
    """:func:`clustered_mean` of values within ``bounds``, with an interval even where all values are equal.

    Equal values give the bootstrap no spread, so it would claim certainty. The interval then covers what the mean
    would be if the largest share of documents that is not ruled out were at a bound.
    """
    estimate = clustered_mean(values, clusters, resamples=resamples, confidence=confidence, seed=seed)
    if estimate.low is None or estimate.high is None:
        return estimate
    if np.ptp(values) > 0:
        return replace(estimate, low=max(estimate.low, bounds[0]), high=min(estimate.high, bounds[1]))
    share = _unseen_share(confidence, estimate.documents)
    return replace(
        estimate,
        low=estimate.mean - share * (estimate.mean - bounds[0]),
        high=estimate.mean + share * (bounds[1] - estimate.mean),
    )


def clustered_accuracy(
    values: ArrayLike, clusters: Sequence[str], *, resamples: int, confidence: float, seed: int
) -> Estimate:
    """Mean of values in [0, 1] with its interval. 0 of 12 right gives [0, 0.26], not [0, 0]."""
    return _bounded(np.asarray(values, dtype=np.float64), (0.0, 1.0), clusters, resamples, confidence, seed)


def paired_difference(
    challenger: ArrayLike, champion: ArrayLike, clusters: Sequence[str], *, resamples: int, confidence: float, seed: int
) -> Estimate:
    """Mean of ``challenger - champion`` (values in [0, 1]) over the same items, with its interval.

    Pairing takes the difficulty of the items out of the error, so it finds differences that two overlapping unpaired
    intervals would hide. The interval stays wide on few documents: equal answers there do not prove equal models, and
    one more right answer on each of three documents does not prove a gain.
    """
    gains = np.asarray(challenger, dtype=np.float64) - np.asarray(champion, dtype=np.float64)
    return _bounded(gains, (-1.0, 1.0), clusters, resamples, confidence, seed)


def mean_of_means(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates, each counting once; without an interval where one of them has none.

    The distances to the ends of the intervals add up like standard errors (MOVER: G. Zou and A. Donner, "Construction
    of confidence limits about effect measures", 2008), so what the parts know about few documents is kept.
    """
    count = len(estimates)
    mean = sum(part.mean for part in estimates) / count

    def reach(distances: Sequence[float | None]) -> float | None:
        known = [distance for distance in distances if distance is not None]
        return float(np.sqrt(np.square(known).sum())) / count if len(known) == count else None

    below = reach([part.low if part.low is None else part.mean - part.low for part in estimates])
    above = reach([part.high if part.high is None else part.high - part.mean for part in estimates])
    return Estimate(
        mean=mean,
        low=None if below is None else mean - below,
        high=None if above is None else mean + above,
        standard_error=reach([part.standard_error for part in estimates]),
        items=sum(part.items for part in estimates),
        documents=sum(part.documents for part in estimates),
    )


def loss_p_value(gains: ArrayLike, clusters: Sequence[str], margin: float = 0.0) -> float:
    """One-sided p-value of "the mean gain is not below ``-margin``" (cluster-robust t-test).

    Where all documents fell by the same amount a t-test has no spread to compare the mean with, and the sign test
    takes its place: 1/2 to the power of C. If they did not fall, or there is one document, the p-value is 1.0.
    """
    sums, sizes = _cluster_sums(gains, clusters)
    error = _robust_error(sums, sizes)
    beyond = sums.sum() / sizes.sum() + margin
    if error is None:
        return 1.0
    if error < 1e-12:  # rounding leaves a little above 0
        return float(0.5 ** len(sums)) if beyond < 0 else 1.0
    return float(stdtr(len(sums) - 1, beyond / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order. A test is significant where its result is <= alpha.

    S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * (count - np.arange(count))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if count else scaled
    return [float(p) for p in adjusted]


def minimum_detectable_effect(standard_error: float, documents: int, *, confidence: float, power: float = 0.8) -> float:
    """Smallest true gain that a comparison with this standard error detects with probability ``power``.

    The gate requires the lower end of a two-sided interval above 0, which is a one-sided test at level
    ``alpha = (1 - confidence) / 2``, so the effect is ``(t_(1-alpha) + t_power) * standard_error``.
    """
    freedom = documents - 1
    return float((stdtrit(freedom, (1 + confidence) / 2) + stdtrit(freedom, power)) * standard_error)


def items_to_decide(gain: Estimate, *, confidence: float, threshold: float = 0.0) -> int | None:
    """Items, of as many documents each, with which a true gain like this one would show its side of ``threshold``
    with 80% power.

    ``None`` where the interval lies on one side already, and where its width or the distance to go is unknown or 0.
    """
    if gain.low is None or gain.high is None or not gain.low <= threshold <= gain.high:
        return None
    distance = abs(gain.mean - threshold)
    if not gain.standard_error or not distance:
        return None
    # The standard error falls with the square root of the number of documents.
    effect = minimum_detectable_effect(gain.standard_error, gain.documents, confidence=confidence)
    return ceil(gain.items * (effect / distance) ** 2)


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> Floats:
    """Unbiased chance ``[N]`` that at least one of k samples is right: ``1 - C(n-c, k) / C(n, k)``.

    M. Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1.

    Raises:
        ValueError: an item has fewer than k samples.
    """
    n = np.asarray(num_samples, dtype=np.float64)
    c = np.asarray(num_correct, dtype=np.float64)
    if k < 1 or (n < k).any():
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of every item, one has {n.min():.0f}")
    # The ratio of binomials as a product of k factors: the binomials themselves overflow.
    miss = np.ones_like(n)
    for j in range(k):
        miss *= np.clip(n - c - j, 0, None) / (n - j)
    return 1 - miss


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa of two raters' yes/no verdicts; 1.0 where both give the same verdict in every case.

    Raises:
        ValueError: no verdicts, or not the same number from both.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{len(first)} and {len(second)} verdicts: both raters must judge the same cases, at least one"
        )
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    observed = float((a == b).mean())
    expected = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def kappa_interval(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[str],
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """Percentile interval of :func:`kappa` over resampled clusters; ``(None, None)`` for fewer than two."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = int(index.max()) + 1
    if count < 2:
        return None, None
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    # Kappa depends on four counts alone, so a resample adds up the counts of the drawn clusters.
    cells = np.stack([np.bincount(index, weights=cell, minlength=count) for cell in (a & b, a & ~b, ~a & b, ~a & ~b)])
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    both, only_a, only_b, neither = cells[:, drawn].sum(axis=-1)
    total = both + only_a + only_b + neither
    expected = ((both + only_a) * (both + only_b) + (neither + only_b) * (neither + only_a)) / total**2
    values = np.where(
        expected == 1, 1.0, ((both + neither) / total - expected) / np.where(expected == 1, 1.0, 1 - expected)
    )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
