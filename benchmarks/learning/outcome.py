"""Results of the learning benchmark: accuracy before and after by seed, the mean gain, and the curves."""

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
"""Number of steps over which the training curve is averaged."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Held-out accuracy of the start and the trained policy by question."""

    by_question: list[tuple[float, float]]
    """For each question the mean over its answers, of the start and of the trained policy."""

    @property
    def start(self) -> float:
        return fmean(start for start, _ in self.by_question)

    @property
    def trained(self) -> float:
        return fmean(trained for _, trained in self.by_question)

    @property
    def gain(self) -> float:
        """Trained minus start."""
        return self.trained - self.start


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one seed."""

    seed: int
    sampled: Pair
    """Answers sampled as in training, with the same random numbers for both policies: what GRPO optimises."""
    greedy: Pair
    """Greedy answers; the start is the same for all seeds."""
    curve: list[float]
    """Accuracy of all completions sampled in training, by step."""


def interval(gains: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t."""
    mean = fmean(gains)
    half = float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains))
    return mean, mean - half, mean + half


def table(outcomes: Sequence[Outcome]) -> str:
    """A markdown table: one row per seed, then the mean gains with their intervals.

    The interval over the seeds tells what another seed would give on these questions; the interval over the questions
    tells what other questions would give.
    """
    lines = [
        "| seed | sampled: start | after GRPO | gain | greedy: start | after GRPO | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        cells = [f"{p.start:.3f} | {p.trained:.3f} | {p.gain:+.3f}" for p in (o.sampled, o.greedy)]
        lines.append(f"| {o.seed} | {' | '.join(cells)} |")
    both = [o.sampled for o in outcomes], [o.greedy for o in outcomes]
    means = [
        f"{fmean(pair.start for pair in pairs):.3f} | {fmean(pair.trained for pair in pairs):.3f} | "
        f"{gain_cell([pair.gain for pair in pairs])}"
        for pairs in both
    ]
    questions = [f" | | {gain_cell(question_gains(pairs))}" for pairs in both]
    return "\n".join(
        [*lines, f"| mean, over seeds | {' | '.join(means)} |", f"| over questions |{' |'.join(questions)} |", ""]
    )


def question_gains(pairs: Sequence[Pair]) -> list[float]:
    """The gain on each question, averaged over the seeds."""
    gains = ([trained - start for start, trained in pair.by_question] for pair in pairs)
    return [fmean(of_question) for of_question in zip(*gains, strict=True)]


def gain_cell(gains: Sequence[float]) -> str:
    """A mean with its interval."""
    mean, low, high = interval(gains)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot training accuracy by step, averaged over :data:`WINDOW` steps, one line per seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for outcome in outcomes:
        curve = outcome.curve
        means = [fmean(curve[max(0, end - WINDOW) : end]) for end in range(1, len(curve) + 1)]
        axes.plot(range(1, len(curve) + 1), means, label=f"seed {outcome.seed}")
    axes.set(xlabel="GRPO step", ylabel=f"accuracy of sampled completions, mean of {WINDOW} steps")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
