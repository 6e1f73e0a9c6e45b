"""The paper's table beside this run's scores, and how the two protocols differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.published import BENCHMARKS, ITEMS, JUDGE, PROTOCOL, SCORES
from qwenlong_core.evaluation.results import Evaluation

_ALWAYS = (
    "every listed answer is accepted here, in the paper only the first",
    "exact match means equality here, in the paper's scorer also a substring in either direction",
    "an answer without a verdict counts 0 here and is listed; the paper's scorer leaves it out of the denominator",
)


def paper_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """The paper's table in percent, followed by the stages of this run that answered any of its benchmarks."""
    rows = []
    for model, scores in SCORES.items():
        cells = {title: f"{score:.1f}" for title, score in zip(BENCHMARKS.values(), scores, strict=True)}
        rows.append({"model": f"{model} (paper)"} | cells | {AVERAGE: f"{sum(scores) / len(scores):.1f}"})
    for stage, evaluation in evaluations.items():
        if evaluation.scores.average:
            rows.append(_own_row(stage, evaluation))
        if evaluation.scores.as_published:
            rows.append(_published_row(stage, evaluation))
    return rows


def _published_row(stage: str, evaluation: Evaluation) -> dict[str, Any]:
    """The same answers under the paper's own scoring: the row to compare with the paper's."""
    found = {name: part.score for name, part in evaluation.scores.as_published.items()}
    cells = {title: f"{100 * found[name]:.1f}" if name in found else "" for name, title in BENCHMARKS.items()}
    whole = len(found) == len(BENCHMARKS)
    average = f"{100 * fmean(found.values()):.1f}" if whole else f"no {AVERAGE}"
    return {"model": f"{stage} (this run, scored as the paper does)"} | cells | {AVERAGE: average}


def _own_row(stage: str, evaluation: Evaluation) -> dict[str, Any]:
    sources, average = evaluation.scores.sources, evaluation.scores.average
    row: dict[str, Any] = {"model": f"{stage} (this run)"}
    for name, title in BENCHMARKS.items():
        part = sources.get(name)
        row[title] = "" if part is None else "unscored" if part.is_undecided else f"{100 * part.accuracy.mean:.1f}"
    assert average is not None
    return row | {AVERAGE: f"{100 * average.accuracy.mean:.1f}" if average.accuracy else average.words}


def protocol_differences(evaluations: Mapping[str, Evaluation]) -> Sequence[str]:
    """In what this run's protocol differs from the paper's, one phrase each; empty if it has none of its benchmarks."""
    evaluation = next((e for e in evaluations.values() if e.scores.average), None)
    if evaluation is None:
        return ()
    protocol = evaluation.plan.protocol | {"samples": evaluation.plan.samples}
    found = [
        f"{name.replace('_', ' ')} {protocol[name]} here, {value} in the paper"
        for name, value in PROTOCOL.items()
        if protocol[name] != value
    ]
    judge = (protocol["judge"] or {}).get("model")
    found += (
        [] if judge == JUDGE else [f"judge {judge or 'none (rules only)'} here, {JUDGE} (DeepSeek-V3) in the paper"]
    )
    counts = {name: part.items for name, part in evaluation.scores.sources.items() if name in BENCHMARKS}
    found += [
        f"{count} questions of {BENCHMARKS[name]} here, {ITEMS.get(name, 200)} in the paper"
        for name, count in counts.items()
        if count != ITEMS.get(name, 200)
    ]
    return (*found, *_ALWAYS)
