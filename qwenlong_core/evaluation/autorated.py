"""FRAMES' own metric: its autorater, asked of the evaluation's judge about every answer to a FRAMES question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Example
from qwenlong_core.rewards.candidate import refusal_reason
from qwenlong_core.rewards.judge import Judge, JudgeQuestion, Verdict

METRIC, _SOURCE = "autorater", "frames"


def with_autorater(samples: Sequence[Sample], rows: Mapping[str, Example], judge: Judge | None) -> list[Sample]:
    """The samples, those of FRAMES with the metric ``autorater``: 1.0 for TRUE, 0.0 for FALSE or no answer.

    A sample that the judge gives no decision on has no such metric: that is not a FALSE. Without a judge none has.

    Args:
        rows: The rows that were answered, by id.
    """
    if judge is None or all(sample.source != _SOURCE for sample in samples):
        return list(samples)
    asked = [_question(sample, rows[sample.example_id]) for sample in samples]
    verdicts = iter(asyncio.run(_asked(judge, [question for question in asked if question])))
    return [_rated(sample, next(verdicts) if question else None) for sample, question in zip(samples, asked)]


def _question(sample: Sample, example: Example) -> JudgeQuestion | None:
    """What is asked about a sample; ``None`` where there is nothing to ask."""
    answer = sample.score.extracted
    if sample.source != _SOURCE or not answer or refusal_reason(answer, example.answers):
        return None
    return JudgeQuestion(question=example.question, golds=example.answers, answer=answer, form="frames")


async def _asked(judge: Judge, questions: list[JudgeQuestion]) -> list[Verdict]:
    try:
        return await judge.verdicts(questions)
    finally:
        await judge.close()


def _rated(sample: Sample, verdict: Verdict | None) -> Sample:
    if sample.source != _SOURCE:
        return sample
    metrics = {name: value for name, value in sample.metrics.items() if name != METRIC}
    if verdict is None:
        metrics[METRIC] = 0.0
    elif verdict.equal is not None:
        metrics[METRIC] = float(verdict.equal)
    return replace(sample, metrics=metrics)
