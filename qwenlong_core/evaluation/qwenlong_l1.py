"""QwenLong-L1's own scoring beside ours, to repeat its published numbers (``evaluation.protocol``).

What its released evaluation does otherwise, all of it kept here:

- the first gold counts, aliases do not;
- "exact match" is a substring in either direction after SQuAD's normalisation; a number is right by DocMath's scorer;
- thinking that is not closed is read as the answer;
- the judge has said yes where YES occurs anywhere in its reply;
- an empty answer, an error, and an answer whose judge fails are left out of the denominator.

A sample holds its score as the metric ``qwenlong_l1``; one that is left out holds none, so the mean of the metric is
the published score. No decision depends on it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Example
from qwenlong_core.rewards.docmath import docmath_accuracy
from qwenlong_core.rewards.judge import Judge, JudgeQuestion, Verdict
from qwenlong_core.rewards.metrics import squad_normalize
from qwenlong_core.settings.base import Block

METRIC, NAME = "qwenlong_l1", "qwenlong-l1"
_PHRASE = "the answer is"
_DOCMATH = re.compile(r"the answer is:?\s*[$€£¥]?([-+]?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)
"""A number right after the phrase, at most one currency sign before it: not in parentheses, not after a word."""


def with_qwenlong_l1(samples: Sequence[Sample], rows: Mapping[str, Example], judge: Judge | None) -> list[Sample]:
    """The samples of the paper's seven with the metric; without a judge by rule alone, as if it said no.

    Args:
        rows: The rows that were answered, by id.
    """
    said = [_read(sample, rows[sample.example_id]) for sample in samples]
    questions = [
        _question(sample, rows[sample.example_id], text) if text and judge else None
        for sample, text in zip(samples, said)
    ]
    asked = [question for question in questions if question]
    verdicts = iter(asyncio.run(_asked(judge, asked)) if judge and asked else ())
    return [
        _scored(sample, rows[sample.example_id], text, next(verdicts) if question else None)
        for sample, text, question in zip(samples, said, questions)
    ]


class AsPublished(Block):
    """A benchmark's score as the released scripts compute it."""

    score: float
    """Mean over the answers that count."""
    left_out: int
    """Answers that do not: errors, empty ones, and those whose judge failed."""


def as_published(samples: Sequence[Sample]) -> dict[str, AsPublished]:
    """By benchmark, for those of the paper's that were scored so."""
    found: dict[str, AsPublished] = {}
    for name in BENCHMARKS:
        group = [sample for sample in samples if sample.source == name]
        values = [sample.metrics[METRIC] for sample in group if METRIC in sample.metrics]
        if values:
            found[name] = AsPublished(score=fmean(values), left_out=len(group) - len(values))
    return found


def sub_em(prediction: str, gold: str) -> float:
    """1.0 where one of the two occurs in the other after SQuAD's normalisation; an empty text occurs in every text."""
    said, wanted = squad_normalize(prediction), squad_normalize(gold)
    return float(said in wanted or wanted in said)


def extracted(text: str, *, number: bool) -> str:
    """The answer as the released scripts cut it out; ``""`` where they find none."""
    visible = text.rpartition("</think>")[2]
    if number:
        found = _DOCMATH.search(visible)
        return found[1] if found else ""
    _, phrase, after = visible.rpartition(_PHRASE)
    return (after if phrase else visible).strip().strip(".\n")


def _read(sample: Sample, example: Example) -> str | None:
    """The extracted answer; ``None`` for a sample that is left out, and for benchmarks that the paper has not."""
    if sample.source not in BENCHMARKS or sample.finish_reason == "error" or not sample.completion.strip():
        return None
    return extracted(sample.completion, number=sample.source == "docmath")


def _rule(example: Example, text: str) -> float:
    gold = example.answers[0]
    if example.source == "docmath" and example.answer_type == "number":
        return docmath_accuracy(text, (gold,)) if text else 0.0
    return sub_em(text, gold)


def _question(sample: Sample, example: Example, text: str) -> JudgeQuestion | None:
    if _rule(example, text) == 1:
        return None
    return JudgeQuestion(question=example.question, golds=example.answers[:1], answer=text, form="qwenlong-l1")


async def _asked(judge: Judge, questions: list[JudgeQuestion]) -> list[Verdict]:
    try:
        return await judge.verdicts(questions)
    finally:
        await judge.close()


def _scored(sample: Sample, example: Example, text: str | None, verdict: Verdict | None) -> Sample:
    if sample.source not in BENCHMARKS or (verdict is None and sample.metrics.get(METRIC) == 1):
        return sample  # decided before, and not asked again without a judge
    metrics = {name: value for name, value in sample.metrics.items() if name != METRIC}
    if text is not None and (verdict is None or verdict.equal is not None):
        metrics[METRIC] = max(_rule(example, text), float(bool(verdict and verdict.equal)))
    return replace(sample, metrics=metrics)
