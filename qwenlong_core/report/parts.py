"""Benchmarks that report parts: RULER's tasks by length, MRCR's bins, LongBench v2's difficulties and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from qwenlong_core.data.ruler.tasks import TASKS, is_ruler_source
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.published import BENCHMARKS, LONG
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.ruler import RulerScores
from qwenlong_core.evaluation.scores import Scores, Slice
from qwenlong_core.report.tables import score_cell

Table = tuple[str, list[dict[str, Any]]]
"""A title and its rows."""


def part_tables(evaluation: Evaluation) -> list[Table]:
    """Tables of RULER, of the other benchmarks' parts and of the published scoring, each where there is one."""
    scores = evaluation.scores
    others = {name: found for name, found in scores.parts.items() if not is_ruler_source(name)}
    tables: list[Table] = []
    if scores.ruler is not None:
        tables.append(("RULER: percent of each task by length of the prompt", ruler_rows(scores.ruler)))
    if others:
        tables.append(("Parts of the benchmarks", part_rows(others)))
    if scores.as_published:
        title = "The same answers as QwenLong-L1's scripts score them: first alias, substrings, failures left out"
        tables.append((title, published_rows(scores)))
    return tables


def published_rows(scores: Scores) -> list[dict[str, Any]]:
    """One row per benchmark: our score, the published scoring, the difference, and how many answers it leaves out."""
    found = scores.as_published
    pairs = [(name, scores.sources[name].accuracy.mean, part.score, part.left_out) for name, part in found.items()]
    if len(found) == len(BENCHMARKS):
        ours, theirs = fmean(pair[1] for pair in pairs), fmean(pair[2] for pair in pairs)
        pairs.append((AVERAGE, ours, theirs, sum(pair[3] for pair in pairs)))
    return [
        {
            "benchmark": name,
            "score here": f"{100 * ours:.1f}",
            "as qwenlong-l1": f"{100 * theirs:.1f}",
            "difference": f"{100 * (theirs - ours):+.1f}",
            "left out": left_out,
        }
        for name, ours, theirs, left_out in pairs
    ]


def ruler_rows(ruler: RulerScores) -> list[dict[str, str]]:
    """One row per task, then the average over the thirteen; one column per length; ``-`` for what was not asked."""

    def cell(score: float | None) -> str:
        return "-" if score is None else f"{score:.1f}"

    rows = [{"task": name} | {length: cell(found.get(name)) for length, found in ruler.tasks.items()} for name in TASKS]
    return [*rows, {"task": "average"} | {length: cell(score) for length, score in ruler.averages.items()}]


def part_rows(parts: Mapping[str, Mapping[str, Slice]]) -> list[dict[str, Any]]:
    """One row per benchmark and part."""
    return [
        {"benchmark": name, "part": part, "score": score_cell(found), "items": found.items}
        for name, each in parts.items()
        for part, found in each.items()
    ]


def notes_of(evaluation: Evaluation) -> list[str]:
    """In what an evaluation differs from how its long benchmarks are published, a sentence each."""
    judge = (evaluation.plan.protocol["judge"] or {}).get("model")
    asked = evaluation.scores.sources
    notes = []
    for name, published in LONG.items():
        if name not in asked:
            continue
        if published.judges and judge not in published.judges:
            here = judge or "none, so every answer counts as wrong"
            notes.append(f"{name}: judge {here}; published with {published.judges[0]}")
        if published.samples > evaluation.plan.samples:
            notes.append(f"{name}: answers per question: {evaluation.plan.samples}; published with {published.samples}")
    return notes
