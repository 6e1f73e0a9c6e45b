"""A finished evaluation on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenlong.flows.cli.common import console, table
from qwenlong.flows.cli.evaluation_run import Finished
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.plan import SAMPLES
from qwenlong_core.evaluation.scores import Scores, Slice
from qwenlong_core.report.build import REPORT
from qwenlong_core.report.parts import notes_of, part_tables
from qwenlong_core.report.tables import Interval, score_cell


def print_finished(finished: Finished) -> None:
    """Scores and outcomes of each benchmark, scores by length and depth, and where report and log are."""
    out = console(width=140)
    scores, plan = finished.evaluation.scores, finished.evaluation.plan
    confidence = f"{finished.evaluation.bootstrap.confidence:.0%}"
    parts = {**scores.sources, "all": scores.overall} if len(scores.sources) > 1 else scores.sources
    title = (
        f"{finished.name}: score is the larger of exact match and judge, with {confidence} intervals clustered on"
        " documents"
    )
    rows = [_score_row(name, part) for name, part in parts.items()]
    out.print(table(title, rows + _average_rows(scores, list(rows[0]))))
    if scores.average is not None and scores.average.words:
        out.print(f"{scores.average.words[0].upper()}{scores.average.words[1:]}.")
    out.print(table("Outcomes of the answers", [_outcome_row(name, part) for name, part in parts.items()]))
    for label, slices in (("prompt tokens before the cut", scores.lengths), ("evidence at", scores.depths)):
        if len(slices) > 1:
            rows = [
                {label: name, "score": Interval(part.accuracy), "items": part.items} for name, part in slices.items()
            ]
            out.print(table(f"By {label}", rows))
    for title, found in part_tables(finished.evaluation):
        out.print(table(title, found))
    if scores.ruler is not None:
        out.print(f"{scores.ruler.words}.")
    for note in notes_of(finished.evaluation):
        out.print(f"{note}.")
    if plan.protocol["judge"] is None:
        out.print("No judge was asked, so an answer in other words than the gold counts as wrong (see --judge).")
    if plan.protocol["document"] == "none":
        out.print(_memory_words(finished))
    out.print(f"Report  {finished.folder / REPORT}\nLog     {finished.folder / SAMPLES}", soft_wrap=True)


def _memory_words(finished: Finished) -> str:
    words = f"Asked without documents: {Interval(finished.evaluation.scores.overall.accuracy)} is memory or luck"
    if finished.documents_add is None:
        return f"{words}."
    return f"{words}; the documents add {Interval(finished.documents_add, signed=True)} (paired, the same questions)."


def _average_rows(scores: Scores, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The average over the paper's seven as a row of its own, where one of them was evaluated."""
    average = scores.average
    if average is None:
        return []
    shown = [AVERAGE, "-" if average.accuracy is None else Interval(average.accuracy)]  # the line below says why not
    counts = {"items": average.accuracy.items, "documents": average.accuracy.documents} if average.accuracy else {}
    return [dict.fromkeys(columns, "-") | dict(zip(columns, shown)) | counts]


def _score_row(name: str, part: Slice) -> dict[str, Any]:
    samples = part.samples // part.items
    row: dict[str, Any] = {"benchmark": name, f"score (avg@{samples})": score_cell(part)}
    row["pass@k"] = ", ".join(f"{k}: {value:.2f}" for k, value in part.pass_at_k.items() if k > 1) or "-"
    row["own metrics"] = ", ".join(f"{metric} {value:.3f}" for metric, value in part.metrics.items()) or "-"
    effect = part.minimum_detectable_effect
    return row | {
        "items": part.items,
        "documents": part.documents,
        "finds gains from": "-" if effect is None else f"{effect:.2f}",
    }


def _outcome_row(name: str, part: Slice) -> dict[str, Any]:
    without = part.accuracy_without_unscored
    cut = {"cut prompts": part.truncated_prompts, "tokens per answer": f"{part.mean_completion_tokens:.0f}"}
    return {
        "benchmark": name,
        "answers": part.samples,
        **part.outcomes,
        **cut,
        "score without unscored": "-" if without is None else Interval(without),
    }
