"""Score completions: ``max(rule, judge) + length_penalty``, with the reason in words.

Examples with one completion each give one :class:`~qwenlong_core.records.Score` each, in order. The judge is asked only
where the rule found no equality and did not settle the matter. If the judge gives no verdict, the score is
``unscored``, never 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from qwenlong_core.records import Completion, Example, Score, Status
from qwenlong_core.rewards.candidate import refusal_reason
from qwenlong_core.rewards.extract import extract_answer
from qwenlong_core.rewards.judge import Judge, JudgeQuestion, Verdict
from qwenlong_core.rewards.length import LengthLimits, length_penalty
from qwenlong_core.rewards.rules import repeated_gold, rule_score
from qwenlong_core.settings.rewards import RewardSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleStage:
    """A score by rule alone, with the question that is left for the judge, if there is one."""

    score: Score
    question: JudgeQuestion | None = None


def score_by_rule(
    example: Example, completion: Completion, settings: RewardSettings, limits: LengthLimits | None = None
) -> RuleStage:
    """Score without a judge: extraction, rule and length penalty.

    Raises:
        ValueError: the example's gold answers are unusable (:func:`~.rules.check_gold`).
    """
    penalty = 0.0
    if limits is not None:
        penalty = length_penalty(len(completion.token_ids), limits.max_tokens, limits.cache_tokens)
    truncated = completion.finish_reason == "length"
    return score_text(example, completion.text, settings.number_tolerance, penalty, truncated)


def score_text(
    example: Example, text: str, number_tolerance: float, penalty: float = 0.0, truncated: bool = False
) -> RuleStage:
    """:func:`score_by_rule` on bare text, for callers that hold no tokens."""
    extraction = extract_answer(text, example.answer_type, example.choices, truncated)
    answer = extraction.answer
    rule = None if answer is None else rule_score(answer, example, number_tolerance)
    if (rule is None or rule.value < 1.0) and (repeated := repeated_gold(extraction.readings, example)):
        answer, rule = repeated, rule_score(example.answers[0], example, number_tolerance)
    if answer is None or rule is None:
        status: Status = "truncated" if truncated else "no_answer"
        return RuleStage(score=Score(value=penalty, length_penalty=penalty, status=status, reason=extraction.reason))
    score = Score(
        value=rule.value + penalty,
        rule=rule.value,
        length_penalty=penalty,
        extracted=answer,
        reason=rule.reason,
    )
    # What the rule has settled is never asked: a verdict could only add reward, so every question is a risk.
    if rule.value >= 1.0 or rule.decided:
        return RuleStage(score=score)
    if example.answer_type == "published":  # the benchmark's own judge sees the whole answer, as it is published
        form = example.metadata["scorer"]
        question = JudgeQuestion(question=example.question, golds=example.answers, answer=answer, form=form)
        return RuleStage(score=score, question=question)
    # A refused answer keeps its 0. Were it unscored, a policy could escape a 0 by addressing the judge.
    if refusal := refusal_reason(answer, example.answers):
        return RuleStage(score=replace(score, reason=f"{rule.reason}; {refusal}"))
    question = JudgeQuestion(question=example.question, golds=example.answers, answer=answer)
    return RuleStage(score=score, question=question)


async def judged(stages: Sequence[RuleStage], judge: Judge | None) -> list[Score]:
    """The final scores, after the judge was asked all open questions concurrently."""
    # Without a judge an open question counts as a difference.
    if judge is None:
        return [stage.score for stage in stages]
    verdicts = iter(await judge.verdicts([stage.question for stage in stages if stage.question]))
    return [with_verdict(stage.score, next(verdicts)) if stage.question else stage.score for stage in stages]


def with_verdict(score: Score, verdict: Verdict) -> Score:
    """Complete a score of 0 by rule with the judge's verdict."""
    if verdict.equal is None:
        # In training this drops the whole group: only answers that failed the rule reach the judge, so dropping just
        # this completion would bias the baseline of its group.
        return replace(score, value=None, status="unscored", reason=f"the judge gave no verdict: {verdict.error}")
    value = 1.0 if verdict.equal else 0.0
    said = "the judge finds it equal" if verdict.equal else "the judge finds it different"
    return replace(score, value=value + score.length_penalty, judge=value, reason=f"{score.reason}; {said}")


async def score_completions(
    examples: Sequence[Example],
    completions: Sequence[Completion],
    settings: RewardSettings,
    limits: LengthLimits | None = None,
    judge: Judge | None = None,
) -> list[Score]:
    """Score ``completions[i]`` against ``examples[i]``.

    Args:
        examples: The examples; repeat one for each of its completions.
        completions: One completion per example.
        settings: Tolerance of the number rule; ceilings are checked elsewhere (:mod:`~.monitor`).
        limits: The phase's ``L_max`` and ``L_cache``; ``None`` (evaluation) gives no length penalty.
        judge: ``None`` scores by rule alone.

    Raises:
        ValueError: a gold answer is unusable, or the two sequences differ in length.
    """
    if len(examples) != len(completions):
        raise ValueError(
            f"{len(examples)} examples for {len(completions)} completions; repeat the example per completion"
        )
    stages = [
        score_by_rule(example, completion, settings, limits) for example, completion in zip(examples, completions)
    ]
    return await judged(stages, judge)


def score_completions_sync(
    examples: Sequence[Example],
    completions: Sequence[Completion],
    settings: RewardSettings,
    limits: LengthLimits | None = None,
    judge: Judge | None = None,
) -> list[Score]:
    """:func:`score_completions` for callers that do not await, with or without an event loop around them.

    Where a loop is running, as in a notebook, the work is done in a thread with a loop of its own.
    """

    async def scored() -> list[Score]:
        try:
            return await score_completions(examples, completions, settings, limits, judge)
        finally:
            # asyncio.run closes the event loop, to which the judge's connections belong.
            if judge is not None:
                await judge.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:  # none is running
        return asyncio.run(scored())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, scored()).result()
