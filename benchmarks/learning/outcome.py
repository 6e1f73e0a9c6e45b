"""What the learning benchmark shows: accuracy before and after by seed, the mean gain, the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from scipy.stats import t

matplotlib.use("Agg")

WINDOW = 5
"""Steps over which the training curve is averaged."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Held-out accuracy of the start and of the trained policy on the same questions."""

    start: float
    trained: float

    @property
    def gain(self) -> float:
        """Trained less start."""
        return self.trained - self.start


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed."""

    seed: int
    sampled: Pair
    """Answers drawn as in training, the same random numbers for both policies: what GRPO raises."""
    greedy: Pair
    """The likeliest answer; without randomness, so the start is the same for all seeds."""
    curve: list[float]
    """Accuracy of all completions drawn in training, by step."""


def interval(gains: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t."""
    mean = fmean(gains)
    half = float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains))
    return mean, mean - half, mean + half


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line a seed, then the means; gains with their interval over the seeds."""
    lines = [
        "| seed | sampled: start | after GRPO | gain | greedy: start | after GRPO | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        cells = [f"{p.start:.3f} | {p.trained:.3f} | {p.gain:+.3f}" for p in (o.sampled, o.greedy)]
        lines.append(f"| {o.seed} | {' | '.join(cells)} |")
    means = [mean_cells([o.sampled for o in outcomes]), mean_cells([o.greedy for o in outcomes])]
    return "\n".join([*lines, f"| mean | {' | '.join(means)} |", ""])


def mean_cells(pairs: Sequence[Pair]) -> str:
    """Three cells of the last line."""
    start, trained = fmean(pair.start for pair in pairs), fmean(pair.trained for pair in pairs)
    mean, low, high = interval([pair.gain for pair in pairs])
    return f"{start:.3f} | {trained:.3f} | {mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Training accuracy by step, averaged over a few steps, one line a seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for outcome in outcomes:
        curve = outcome.curve
        means = [fmean(curve[max(0, end - WINDOW) : end]) for end in range(1, len(curve) + 1)]
        axes.plot(range(1, len(curve) + 1), means, label=f"seed {outcome.seed}")
    axes.set(xlabel="GRPO step", ylabel=f"accuracy of drawn completions, mean of {WINDOW} steps")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
