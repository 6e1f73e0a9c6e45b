"""The table of scores by stage and domain, for the console, Prefect and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.pairs import pair_items
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.scores import Bootstrap, Scores, Slice
from qwenlong_core.records import DOMAINS


class Interval(float):
    """A mean that prints as ``0.25 [0.10, 0.42]`` and is a plain number in JSON, metrics and sums."""

    def __new__(cls, estimate: statistics.Estimate, signed: bool = False) -> Interval:
        """``signed`` prints ``+0.05``, for differences."""
        self = super().__new__(cls, estimate.mean)
        self.estimate, self.signed = estimate, signed
        return self

    estimate: statistics.Estimate
    signed: bool

    # Pickle and copy rebuild a float subclass through ``__new__``, which takes these two.
    def __getnewargs__(self) -> tuple[statistics.Estimate, bool]:  # type: ignore[override]
        return self.estimate, self.signed

    def __str__(self) -> str:
        form = "+.2f" if self.signed else ".2f"
        mean = format(self.estimate.mean, form)
        if self.estimate.low is None or self.estimate.high is None:
            return f"{mean} (no interval)"
        return f"{mean} [{self.estimate.low:{form}}, {self.estimate.high:{form}}]"


def baseline_of(names: Sequence[str]) -> str:
    """The evaluation that the others are compared with: ``base``, else ``champion``, else the first."""
    return next((name for name in ("base", "champion") if name in names), names[0])


def gain_over(evaluation: Evaluation, baseline: Evaluation, bootstrap: Bootstrap) -> statistics.Estimate:
    """Paired difference over all items. An unscored answer of either side counts against ``evaluation``.

    Raises:
        ValueError: the two answered different items.
    """
    pairs = pair_items(evaluation.samples, baseline.samples)
    return statistics.paired_difference(pairs.challenger, pairs.champion, pairs.documents, **bootstrap.model_dump())


def score_cell(part: Slice) -> Interval | str:
    """The score with its interval; where no answer has a verdict there is none, and a 0 would be a false one."""
    return "unscored" if part.is_undecided else Interval(part.accuracy)


def average_cell(scores: Scores) -> Interval | str:
    """The average over the paper's seven, or why there is none."""
    average = scores.average
    if average is None or average.accuracy is None:
        return average.words if average else ""
    return Interval(average.accuracy)


def score_rows(evaluations: Mapping[str, Evaluation], bootstrap: Bootstrap | None = None) -> list[dict[str, Any]]:
    """One row per stage: accuracy overall, of the seven and by domain, items, and the paired gain over the baseline.

    ``bootstrap`` says how the intervals of the gains are drawn; by default each evaluation's own settings do.
    """
    baseline = baseline_of(list(evaluations))
    domains = [d for d in DOMAINS if any(d in e.scores.domains for e in evaluations.values())]
    rows = []
    for name, evaluation in evaluations.items():
        scores = evaluation.scores
        row: dict[str, Any] = {"stage": name, "overall": score_cell(scores.overall)}
        if any(e.scores.average for e in evaluations.values()):
            row[AVERAGE] = average_cell(scores)
        row |= {d: score_cell(scores.domains[d]) if d in scores.domains else "" for d in domains}
        if len(evaluations) > 1:
            row[f"gain over {baseline}"] = ""
        if name != baseline:
            gain = gain_over(evaluation, evaluations[baseline], bootstrap or evaluation.bootstrap)
            row[f"gain over {baseline}"] = Interval(gain, signed=True)
        row["items"] = scores.overall.items
        rows.append(row)
    return rows


def intervals(
    rows: Sequence[Mapping[str, Any]], by: str = "stage"
) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """Ends of the cells' 95% intervals by row and column; a cell without an interval has two ``None``.

    ``by`` is the column that names the row.
    """
    cells = {row[by]: {c: v.estimate for c, v in row.items() if isinstance(v, Interval)} for row in rows}
    return {stage: {c: (v.low, v.high) for c, v in found.items()} for stage, found in cells.items()}


def scores_table(evaluations: Mapping[str, Path]) -> list[dict[str, Any]]:
    """:func:`score_rows` of finished evaluation folders, by stage name.

    Cells are numbers that print with their interval, so one table serves JSON, metrics and readers.

    Raises:
        ValueError: a folder is not a finished evaluation, or the evaluations answered different items.
    """
    return score_rows({name: read_evaluation(folder) for name, folder in evaluations.items()})


def plan_rows(
    seconds: Mapping[str, float], gib: Mapping[str, float], lines_of: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, str]]:
    """Planned beside measured, for every planned stage that has steps; the first step counts for memory alone."""
    return [
        {
            "stage": stage,
            "planned s a step": f"{planned:.3g}",
            "measured": f"{median(line['seconds'] for line in lines[1:] or lines):.3g}",
            "planned GiB": f"{gib[stage]:.2f}",
            "measured, highest": f"{max(line['memory_mb'] for line in lines) / 1024:.2f}",
        }
        for stage, planned in seconds.items()
        if (lines := lines_of.get(stage))
    ]
