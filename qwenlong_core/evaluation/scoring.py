"""Answers become scored samples, and logged samples are scored again.

Answer --rules, then judge--> Sample          an engine's error stays an error, never a score
Sample --rules, then judge--> Sample          the same completion under other rules or another judge
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qwenlong_core.data.prepared import UNTRAINED
from qwenlong_core.evaluation.answers import Answer
from qwenlong_core.evaluation.autorated import METRIC, with_autorater
from qwenlong_core.evaluation.evidence import evidence_depth
from qwenlong_core.evaluation.official import mrcr_bin, official_metrics
from qwenlong_core.evaluation.qwenlong_l1 import METRIC as PUBLISHED
from qwenlong_core.evaluation.qwenlong_l1 import NAME as QWENLONG_L1
from qwenlong_core.evaluation.qwenlong_l1 import with_qwenlong_l1
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.hybrid import RuleStage, score_by_rule, score_completions_sync, with_verdict
from qwenlong_core.rewards.judge import Judge, Verdict
from qwenlong_core.settings.rewards import RewardSettings


def score_answers(
    answers: Sequence[Answer], rules: RewardSettings, judge: Judge | None, protocol: str = "strict"
) -> list[Sample]:
    """A sample of each answer, in order.

    Args:
        answers: From the engine, at least one.
        rules: How numbers are compared.
        judge: Asked where the rules leave the matter open; ``None`` scores by rule alone.
        protocol: ``evaluation.protocol``.
    """
    given = [(answer.prompt.example, _whole(answer)) for answer in answers if answer.completion is not None]
    started = time.monotonic()
    scores = score_completions_sync([e for e, _ in given], [c for _, c in given], rules, judge=judge)
    each = (time.monotonic() - started) / len(answers)
    scored = iter(zip((completion for _, completion in given), scores, strict=True))
    samples = []
    for answer in answers:
        if answer.completion is None:
            samples.append(_error_sample(answer, rules.number_tolerance))
        else:
            completion, score = next(scored)
            samples.append(_to_sample(answer, completion, score, rules.number_tolerance, answer.seconds + each))
    rows = {answer.prompt.example.id: answer.prompt.example for answer in answers}
    return _with_published(with_autorater(samples, rows, judge), rows, judge, protocol)


def _with_published(
    samples: list[Sample], rows: Mapping[str, Example], judge: Judge | None, protocol: str
) -> list[Sample]:
    return with_qwenlong_l1(samples, rows, judge) if protocol == QWENLONG_L1 else samples


def _whole(answer: Answer) -> Completion:
    """The completion with the thinking's opening tag, also where the prompt held the tag."""
    completion = answer.completion
    assert completion is not None
    if completion.text.lstrip().startswith("<think>"):
        return completion
    return replace(completion, text=answer.prompt.prefix + completion.text)


def _error_sample(answer: Answer, number_tolerance: float) -> Sample:
    nothing = Completion(text="", token_ids=(), finish_reason="stop")
    score = Score(value=None, status="error", reason=answer.error)
    sample = _to_sample(answer, nothing, score, number_tolerance, answer.seconds)
    return replace(sample, finish_reason="error")


def _to_sample(answer: Answer, completion: Completion, score: Score, number_tolerance: float, seconds: float) -> Sample:
    prompt, example = answer.prompt, answer.prompt.example
    return Sample(
        example_id=example.id,
        document_id=example.document_id or example.id,
        domain=example.domain,
        source=example.source,
        sample=answer.number,
        prompt_digest=prompt.digest,
        prompt_tokens=len(prompt.token_ids),
        lost_tokens=prompt.lost_tokens,
        depth=evidence_depth(example),
        completion=completion.text,
        num_tokens=answer.num_tokens,
        finish_reason=completion.finish_reason,
        score=score,
        metrics=official_metrics(example, score.extracted, number_tolerance, completion.text),
        kind=str(example.metadata.get("kind", "")),
        parts=_parts(answer),
        untrained=bool(example.metadata.get(UNTRAINED)),
        seconds=round(seconds, 4),
    )


def _parts(answer: Answer) -> tuple[str, ...]:
    metadata, prompt = answer.prompt.example.metadata, answer.prompt
    if metadata.get("scorer") == "mrcr":
        return (mrcr_bin(len(prompt.token_ids) + prompt.lost_tokens),)
    return tuple(metadata.get("parts", ()))


def score_again(
    samples: Sequence[Sample],
    rows: Mapping[str, Example],
    rules: RewardSettings,
    judge: Judge | None,
    protocol: str = "strict",
) -> list[Sample]:
    """The same completions under these rules and this judge; an engine's error holds none and stays as it is.

    Args:
        rows: The rows that were answered, by id.
    """
    answered = [sample for sample in samples if sample.finish_reason != "error"]
    examples = [rows[sample.example_id] for sample in answered]
    scores = score_completions_sync(examples, [_completion(s) for s in answered], rules, judge=judge)
    again = {
        sample.key: _with_score(sample, example, score, rules.number_tolerance)
        for sample, example, score in zip(answered, examples, scores, strict=True)
    }
    scored = with_autorater([again.get(sample.key, sample) for sample in samples], rows, judge)
    return _with_published(scored, rows, judge, protocol)


def score_with_old_verdicts(
    samples: Sequence[Sample], rows: Mapping[str, Example], rules: RewardSettings, protocol: str = "strict"
) -> list[Sample]:
    """The same completions under these rules, with the judge's verdicts that the samples hold already.

    An answer that needs a verdict and has none is ``unscored``.
    """
    scored = []
    for sample in samples:
        example = rows[sample.example_id]
        if sample.finish_reason != "error":
            stage = score_by_rule(example, _completion(sample), rules)
            sample = _with_score(sample, example, _with_old_verdict(stage, sample.score), rules.number_tolerance)
        scored.append(sample)
    return _with_published(scored, rows, None, protocol)


def _completion(sample: Sample) -> Completion:
    cut = sample.finish_reason == "length"
    return Completion(text=sample.completion, token_ids=(), finish_reason="length" if cut else "stop")


def _with_score(sample: Sample, example: Example, score: Score, number_tolerance: float) -> Sample:
    metrics = official_metrics(example, score.extracted, number_tolerance, sample.completion)
    if METRIC in sample.metrics and score.extracted == sample.score.extracted:
        metrics[METRIC] = sample.metrics[METRIC]  # decided on this answer, and not asked again without a judge
    if PUBLISHED in sample.metrics:
        metrics[PUBLISHED] = sample.metrics[PUBLISHED]
    return replace(sample, score=score, metrics=metrics)


def _with_old_verdict(stage: RuleStage, old: Score) -> Score:
    if stage.question is None:
        return stage.score
    # A verdict belongs to the text that the judge saw: it does not carry over to another extracted answer.
    if old.judge is not None and old.extracted == stage.question.answer:
        return with_verdict(stage.score, Verdict(equal=old.judge == 1.0))
    return with_verdict(stage.score, Verdict(equal=None, error="the log holds none for this answer; give a judge"))
