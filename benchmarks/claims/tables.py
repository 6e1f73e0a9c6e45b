"""What a claim's results say: a table of its arms, and each difference with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from arms import Claim
from outcome import gain_cell

matplotlib.use("Agg")

Row = dict[str, Any]
Results = dict[str, list[Row]]
"""Results by arm, in the order of the seeds."""
COLUMNS = (
    "start",
    "end",
    "gain",
    "greedy",
    "by construction",
    "wrong, other words",
    "KL",
    "1000 tokens",
    "entropy",
    "norm",
)


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


def reached(points: Sequence[Row], level: float, what: str) -> float:
    """``what`` (step, tokens, kl) where the accuracy first reaches ``level``, on straight lines between the points."""
    before = points[0]
    for point in points:
        here, there = mean(point["accuracy"]), mean(before["accuracy"])
        if here >= level:
            share = 1.0 if here == there else min(1.0, max(0.0, (level - there) / (here - there)))
            return float(before[what] + share * (point[what] - before[what]))
        before = point
    raise ValueError(f"no point reaches {level}")


def at_the_level_of_both(one: Row, other: Row, what: str) -> tuple[float, float] | None:
    """``what`` each has spent at the best accuracy that both reach; ``None`` if one of them never gained."""
    level = min(max(mean(point["accuracy"]) for point in result["points"]) for result in (one, other))
    if level <= max(mean(result["points"][0]["accuracy"]) for result in (one, other)):
        return None
    return reached(one["points"], level, what), reached(other["points"], level, what)


def saved(ones: Sequence[Row], others: Sequence[Row], what: str) -> str:
    """Share of ``what`` that the first needs less than the second for an accuracy that both reach, over the seeds."""
    pairs = [at_the_level_of_both(one, other, what) for one, other in zip(ones, others, strict=True)]
    shares = [1 - pair[0] / pair[1] for pair in pairs if pair and pair[1]]
    if len(shares) < 2:
        return f"not to be had: {len(shares)} of {len(pairs)} seeds gained in both"
    return f"{gain_cell(shares)} ({len(shares)} of {len(pairs)} seeds)"


def gained(results: Sequence[Row]) -> str:
    """What an arm gained over its start: answers sampled as in training, by rule and by construction, and greedy."""
    parts = []
    for key, name in {"accuracy": "sampled", "by_construction": "by construction"}.items():
        parts.append((name, [(result["points"][-1][key], result["points"][0][key]) for result in results]))
    parts.append(("greedy", [(result["greedy"]["end"], result["greedy"]["start"]) for result in results]))
    cells = []
    for name, pairs in parts:
        of_questions = [fmean(end[key] - start[key] for end, start in pairs) for key in sorted(pairs[0][0])]
        of_seeds = [mean(end) - mean(start) for end, start in pairs]
        cells.append(f"{name} {gain_cell(of_seeds)} over seeds, {gain_cell(of_questions)} over questions")
    return "; ".join(cells)


def by_question(ones: Sequence[Row], others: Sequence[Row], column: str) -> list[float]:
    """Differences at the end, by question, as means over the seeds."""
    pairs = [(one["points"][-1][column], other["points"][-1][column]) for one, other in zip(ones, others, strict=True)]
    return [fmean(one[key] - other[key] for one, other in pairs) for key in sorted(pairs[0][0])]


def table(claim: Claim, results: Results) -> str:
    """Markdown: what was said, the arms' means over the seeds, their gains, and the first arm beside the others.

    One seed alone has only the means, since the rest has no interval.
    """
    head = ["arm", *COLUMNS]
    lines = [f"*{claim.said}*", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, of_arm in results.items():
        rows = [numbers(result) for result in of_arm]
        lines.append(f"| {arm} | {' | '.join(f'{fmean(row[name] for row in rows):.3f}' for name in COLUMNS)} |")
    first, *others = results
    if len(results[first]) == 1:
        return "\n".join(lines) + "\n"
    lines += ["", "Gains over the start:", "", *(f"- {arm}: {gained(of_arm)}" for arm, of_arm in results.items())]
    for other in others:
        found = differences(results[first], results[other])
        lines += ["", f"{first} against {other}:", "", *(f"- {name}: {value}" for name, value in found.items())]
    return "\n".join(lines) + "\n"


def summary(claims: Sequence[tuple[Claim, Results]]) -> str:
    """Markdown: what was said and what was measured, one row for each comparison."""
    lines = ["| claim | said | compared | measured here (first less second) |", "|---|---|---|---|"]
    for claim, results in claims:
        first, *others = results
        for other in others:
            value = differences(results[first], results[other])[claim.measure]
            lines.append(f"| {claim.name} | {claim.said} | {first}, {other} | {claim.measure}: {value} |")
    return "\n".join(lines) + "\n"


def differences(ones: Sequence[Row], others: Sequence[Row]) -> dict[str, str]:
    """Each measure of one arm less that of another, with 95% intervals over seeds and, where questions have it, over
    questions."""
    columns = {"accuracy": "accuracy", "by_construction": "by construction", "other_words": "wrong, other words"}
    lines = {}
    for key, name in columns.items():
        of_seeds = [mean(a["points"][-1][key]) - mean(b["points"][-1][key]) for a, b in zip(ones, others, strict=True)]
        lines[name] = f"{gain_cell(of_seeds)} over seeds, {gain_cell(by_question(ones, others, key))} over questions"
    for name in ("gain", "greedy", "KL", "entropy", "norm"):
        gains = [numbers(a)[name] - numbers(b)[name] for a, b in zip(ones, others, strict=True)]
        lines[name] = f"{gain_cell(gains)} over seeds"
    for what, name in (("step", "steps"), ("tokens", "tokens"), ("kl", "KL")):
        lines[f"{name} saved at the accuracy that both reach"] = saved(ones, others, what)
    return lines


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
