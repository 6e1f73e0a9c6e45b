"""What a claim's results say: a table of its arms, and each difference with its intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from arms import Claim
from outcome import gain_cell, interval

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "claims"  # else the names of the parts are drawn anew each time

Row = dict[str, Any]
Results = dict[str, list[Row]]
"""Results by arm, in the order of the seeds."""
OTHER_WORDS = ("by construction", "wrong, other words")
"""Shown of claims in which an answer is in other words."""
COLUMNS = ("start", "end", "gain", "greedy", *OTHER_WORDS, "KL", "1000 tokens", "entropy", "norm")


def numbers(result: Row) -> dict[str, float]:
    """The columns of one arm and seed."""
    first, last = result["points"][0], result["points"][-1]
    return {
        "start": mean(first["accuracy"]),
        "end": mean(last["accuracy"]),
        "gain": mean(last["accuracy"]) - mean(first["accuracy"]),
        "greedy": mean(result["greedy"]["end"]),
        "by construction": mean(last["by_construction"]),
        "wrong, other words": mean(last["other_words"]),
        "KL": last["kl"],
        "1000 tokens": last["tokens"] / 1000,
        "entropy": result["last"]["entropy"],
        "norm": result["last"]["grad_norm"],
    }


def mean(by_question: dict[str, float]) -> float:
    """Over the questions."""
    return fmean(by_question.values())


def reached(points: Sequence[Row], level: float, what: str, column: str = "accuracy") -> float:
    """``what`` (step, tokens, kl) where ``column`` first reaches ``level``, on straight lines between the points."""
    before = points[0]
    for point in points:
        here, there = mean(point[column]), mean(before[column])
        if here >= level:
            share = 1.0 if here == there else min(1.0, max(0.0, (level - there) / (here - there)))
            return float(before[what] + share * (point[what] - before[what]))
        before = point
    raise ValueError(f"no point reaches {level}")


def at_the_level_of_both(one: Row, other: Row, what: str, column: str = "accuracy") -> tuple[float, float] | None:
    """``what`` each has spent at the best accuracy that both reach; ``None`` if one of them never gained."""
    level = min(max(mean(point[column]) for point in result["points"]) for result in (one, other))
    if level <= max(mean(result["points"][0][column]) for result in (one, other)):
        return None
    return reached(one["points"], level, what, column), reached(other["points"], level, what, column)


def saved(ones: Sequence[Row], others: Sequence[Row], what: str, column: str = "accuracy") -> str:
    """Share of ``what`` that the first needs less than the second for an accuracy that both reach, over the seeds.

    The mean and its interval are of the logarithms of the ratios: half as much and twice as much weigh the same.
    """
    pairs = [at_the_level_of_both(one, other, what, column) for one, other in zip(ones, others, strict=True)]
    logs = [math.log(pair[0] / pair[1]) for pair in pairs if pair]
    if len(logs) < 2:
        return f"the curves overlap in {len(logs)} of {len(pairs)} seeds"
    mean_log, low, high = interval(logs)
    shares = [1 - math.exp(value) for value in (mean_log, high, low)]
    seeds = "" if len(logs) == len(pairs) else f" ({len(logs)} of {len(pairs)} seeds)"
    return f"{shares[0]:+.0%} [{shares[1]:+.0%}, {shares[2]:+.0%}]{seeds}"


def by_question(pairs: Sequence[tuple[Row, Row]]) -> str:
    """First less second by question, as means over the seeds."""
    return gain_cell([fmean(one[key] - other[key] for one, other in pairs) for key in sorted(pairs[0][0])])


def by_seed(pairs: Sequence[tuple[Row, Row]]) -> str:
    """First less second by seed, as means over the questions."""
    return gain_cell([mean(one) - mean(other) for one, other in pairs])


def differences(claim: Claim, ones: Sequence[Row], others: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Each measure of one arm less that of another, with 95% intervals over seeds and, where questions have it, over
    questions."""
    both = list(zip(ones, others, strict=True))
    lines = {}
    columns = {"accuracy": "accuracy", "by_construction": "by construction", "other_words": "wrong, other words"}
    for key, name in columns.items():
        pairs = [(one["points"][-1][key], other["points"][-1][key]) for one, other in both]
        lines[name] = by_seed(pairs), by_question(pairs)
    pairs = [(one["greedy"]["end"], other["greedy"]["end"]) for one, other in both]
    lines["greedy"] = by_seed(pairs), by_question(pairs)
    for name in ("gain", "KL", "entropy", "norm"):
        lines[name] = gain_cell([numbers(one)[name] - numbers(other)[name] for one, other in both]), ""
    for what, name in (("step", "steps"), ("tokens", "tokens"), ("kl", "KL")):
        lines[f"{name} saved"] = saved(ones, others, what, claim.drawn), ""
    return lines


def gained(claim: Claim, of_arm: Sequence[Row]) -> list[str]:
    """What an arm gained over its start, sampled and greedy, over the seeds and over the questions."""
    ends = [(result["points"][-1][claim.drawn], result["points"][0][claim.drawn]) for result in of_arm]
    greedy = [(result["greedy"]["end"], result["greedy"]["start"]) for result in of_arm]
    return [by_seed(ends), by_question(ends), by_seed(greedy), by_question(greedy)]


def table(claim: Claim, results: Results) -> str:
    """Markdown: what was said, the arms' means over the seeds, their gains, and the first arm beside the others.

    One seed alone has only the means, since the rest has no interval.
    """
    told = any(mean(point["other_words"]) for of_arm in results.values() for one in of_arm for point in one["points"])
    columns = [name for name in COLUMNS if told or name not in OTHER_WORDS]
    lines = [f"*{claim.said}*", "", *_head("arm", *columns)]
    for arm, of_arm in results.items():
        rows = [numbers(result) for result in of_arm]
        lines.append(_line(arm, *(f"{fmean(row[name] for row in rows):.3f}" for name in columns)))
    first, *others = results
    if len(results[first]) > 1:
        head = (
            "gained over the start",
            "sampled, over seeds",
            "over questions",
            "greedy, over seeds",
            "over questions",
        )
        lines += ["", *_head(*head)]
        lines += [_line(arm, *gained(claim, of_arm)) for arm, of_arm in results.items()]
    for other in others if len(results[first]) > 1 else ():
        found = differences(claim, results[first], results[other])
        lines += ["", *_head(f"{first} minus {other}", "over seeds", "over questions")]
        lines += [_line(name, *cells) for name, cells in found.items() if told or name not in OTHER_WORDS]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def summary(claims: Sequence[tuple[Claim, Results]]) -> str:
    """Markdown: what was said and what was measured, one row for each comparison."""
    lines = _head("said", "compared", "measured here, over seeds", "over questions")
    for claim, results in claims:
        first, *others = results
        for other in others:
            seeds, questions = differences(claim, results[first], results[other])[claim.measure]
            lines.append(_line(claim.said, f"{first} minus {other}", f"{claim.measure}: {seeds}", questions))
    return "\n".join(lines) + "\n"


def plot(claim: Claim, results: Results, path: Path) -> None:
    """Held-out accuracy over steps: a line per arm, the mean over the seeds, between the lowest and highest seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for arm, of_arm in results.items():
        curves = [[mean(point[claim.drawn]) for point in result["points"]] for result in of_arm]
        steps = [point["step"] for point in of_arm[0]["points"]]
        columns = list(zip(*curves, strict=True))
        [line] = axes.plot(steps, [fmean(column) for column in columns], marker="o", label=arm)
        axes.fill_between(steps, list(map(min, columns)), list(map(max, columns)), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="GRPO step", ylabel=f"{claim.drawn.replace('_', ' ')}, held-out questions", title=claim.name)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
