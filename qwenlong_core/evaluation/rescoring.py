"""Scores of a finished log anew, with no model: other rules, another judge, or the verdicts in the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.rows import dataset_digest, read_examples
from qwenlong_core.evaluation.answers import judge_of, rewards_of
from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, Plan, scoring_protocol
from qwenlong_core.evaluation.results import write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples, read_samples
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.hybrid import RuleStage, score_by_rule, score_completions_sync, with_verdict
from qwenlong_core.rewards.judge import Verdict

logger = logging.getLogger(__name__)


def rescore(job: EvaluateJob, evaluation: Path, data: Path, output: Path) -> None:
    """Score a finished log anew under the job's rules, with no model, into ``output``.

    The job's judge is asked anew. Without one the verdicts in the log stay: an answer whose rule fails
    now and that the log's judge was never asked about is then ``unscored``.

    Raises:
        ValueError: the rows in ``data`` are not the ones that were answered.
    """
    plan = Plan.model_validate_json((evaluation / PLAN).read_text())
    rows = {example.id: example for example in read_examples(data / EVAL_ROWS)}
    known = [rows[item] for item in plan.items if item in rows]
    if dataset_digest(known) != plan.dataset_digest:
        raise ValueError(f"{data / EVAL_ROWS} is not the data that {evaluation} answered: give its own data folder")
    samples = read_samples(evaluation / SAMPLES)
    keep = job.evaluation.judge is None and plan.protocol["judge"] is not None
    scored = _from_log(job, rows, samples) if keep else score_anew(job, rows, samples)
    protocol = plan.protocol | scoring_protocol(job) | ({"judge": plan.protocol["judge"]} if keep else {})
    output.mkdir(parents=True, exist_ok=True)
    (output / PLAN).write_text(plan.model_copy(update={"protocol": protocol}).model_dump_json(indent=1))
    (output / SAMPLES).unlink(missing_ok=True)
    append_samples(output / SAMPLES, scored)
    write_scores(output, bootstrap_of(job))


def bootstrap_of(job: EvaluateJob) -> Bootstrap:
    """How the job draws its intervals."""
    settings = job.evaluation
    return Bootstrap(resamples=settings.bootstrap_resamples, confidence=settings.confidence, seed=job.seed)


def _completion(sample: Sample) -> Completion:
    cut = sample.finish_reason == "length"
    return Completion(text=sample.completion, token_ids=(), finish_reason="length" if cut else "stop")


def _rescored(job: EvaluateJob, example: Example, sample: Sample, score: Score) -> Sample:
    return replace(sample, score=score, metrics=official_metrics(example, score.extracted, job.number_tolerance))


def score_anew(job: EvaluateJob, rows: Mapping[str, Example], samples: Sequence[Sample]) -> list[Sample]:
    """The same answers under the job's rules and judge; errors hold no answer and stay."""
    answered = [sample for sample in samples if sample.finish_reason != "error"]
    examples = [rows[sample.example_id] for sample in answered]
    scores = score_completions_sync(examples, [_completion(s) for s in answered], rewards_of(job), judge=judge_of(job))
    anew = {s.key: _rescored(job, e, s, score) for s, e, score in zip(answered, examples, scores, strict=True)}
    return [anew.get(sample.key, sample) for sample in samples]


def _from_log(job: EvaluateJob, rows: Mapping[str, Example], samples: Sequence[Sample]) -> list[Sample]:
    """The same answers under the job's rules, with the verdicts that the log holds."""
    settings = rewards_of(job)
    scored = []
    for sample in samples:
        example = rows[sample.example_id]
        if sample.finish_reason != "error":
            stage = score_by_rule(example, _completion(sample), settings)
            sample = _rescored(job, example, sample, _with_old_verdict(stage, sample.score))
        scored.append(sample)
    return scored


def _with_old_verdict(stage: RuleStage, old: Score) -> Score:
    if stage.question is None:
        return stage.score
    if old.judge is not None and old.extracted == stage.question.answer:
        return with_verdict(stage.score, Verdict(equal=old.judge == 1.0))
    return with_verdict(stage.score, Verdict(equal=None, error="the log holds none for this answer; give a judge"))


def rewrite_log(log: Path, samples: Sequence[Sample]) -> None:
    """Replace a log as a whole."""
    staging = log.with_suffix(".tmp")
    staging.unlink(missing_ok=True)
    append_samples(staging, samples)
    if not samples:
        staging.touch()
    os.replace(staging, log)


def ask_again(job: EvaluateJob, rows: Mapping[str, Example], log: Path) -> None:
    """Make good what an earlier try left open: answers without a verdict go to the judge once more, and
    errors leave the log, so that the engine is asked again."""
    samples = read_samples(log)
    answered = [sample for sample in samples if sample.finish_reason != "error"]
    unscored = [sample for sample in answered if sample.score.status == "unscored"]
    if len(answered) < len(samples):
        logger.info("evaluate | asking again for %d answers that failed", len(samples) - len(answered))
    if unscored:
        logger.info("evaluate | asking the judge again about %d unscored answers", len(unscored))
    if unscored or len(answered) < len(samples):
        anew = {sample.key: sample for sample in score_anew(job, rows, unscored)}
        rewrite_log(log, [anew.get(sample.key, sample) for sample in answered])


def check_unscored(job: EvaluateJob, samples: Sequence[Sample]) -> None:
    """A judge or a server that was down must not become a low score.

    Raises:
        RuntimeError: over ``evaluation.max_unscored_share``; a retry asks again.
    """
    missing = [sample for sample in samples if not sample.has_verdict]
    limit = job.evaluation.max_unscored_share
    if len(missing) > limit * len(samples):
        errors = sum(sample.score.status == "error" for sample in missing)
        raise RuntimeError(
            f"{len(missing) - errors} of {len(samples)} answers are unscored and {errors} failed, over"
            f" evaluation.max_unscored_share={limit}; the last reason: {missing[-1].score.reason}. Mend the judge or"
            " the server and run again: the answers are kept"
        )
