"""Sample and score one checkpoint, with one log line per answer. A killed run resumes.

    rows --choose_items--> plan --missing keys--> answers --scoring--> samples.jsonl
    samples.jsonl --compute_scores--> scores.json
    the case studies --> cases.jsonl        (shown in the report, in no score)

Stage command::

    python -m qwenlong_core.evaluation.runner --job job.json --input model=DIR --input data=DIR --work DIR

A run asks for what its log lacks, with the same seed, so the log does not depend on where an earlier run was killed.
Once all is answered and scored, the command does nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.prompts import form_of
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation.answers import Answer, Answerer, load_answerer, render
from qwenlong_core.evaluation.ask_cases import CaseStudies
from qwenlong_core.evaluation.cases import are_answered, case_samples
from qwenlong_core.evaluation.plan import SAMPLES, SCORES, Plan, adopt_plan, choose_items, make_plan
from qwenlong_core.evaluation.results import write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples, read_samples, rewrite_samples
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.evaluation.scoring import score_again, score_answers
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example
from qwenlong_core.rewards.health import require_judge
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.rewards import RewardSettings
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.files import METRICS, drop_cut_line

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 8
"""Failed requests after which a server counts as down; with more under way at once, as many as those."""


class _Progress:
    """A log line and a line of ``metrics.jsonl`` after each batch."""

    def __init__(self, done: Sequence[Sample], total: int, path: Path) -> None:
        self.done, self.total, self.path = len(done), total, path
        self.correct = sum(sample.accuracy for sample in done)
        self.started, self.fresh = time.monotonic(), 0

    def add(self, samples: Sequence[Sample]) -> None:
        self.done += len(samples)
        self.fresh += len(samples)
        self.correct += sum(sample.accuracy for sample in samples)
        left = (time.monotonic() - self.started) / max(self.fresh, 1) * (self.total - self.done)
        accuracy = self.correct / self.done
        minutes, seconds = divmod(round(left), 60)
        logger.info("evaluate %d/%d | acc %.2f | %dm%02ds left", self.done, self.total, accuracy, minutes, seconds)
        line = {"step": self.done, "total_steps": self.total, "accuracy": accuracy}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def evaluate(job: EvaluateJob, plan: Plan, examples: Sequence[Example], model: Path, output: Path) -> None:
    """Answer and score the plan's ``examples`` with the policy in folder ``model``.

    Leaves in ``output``: ``plan.json``, ``samples.jsonl``, ``metrics.jsonl``, ``cases.jsonl`` and, once all is
    answered, ``scores.json``. A run that was interrupted is resumed. A finished one does nothing, except that answers
    which an engine's error left out are asked for again.

    Raises:
        ValueError: ``output`` holds another evaluation, or the settings do not fit the model.
        ConnectionError: the server that samples is down.
        RuntimeError: the judge cannot be reached, or too many answers are left without a verdict.
    """
    adopt_plan(plan, output)
    log, scores = output / SAMPLES, output / SCORES
    if scores.exists() and not any(s.finish_reason == "error" for s in [*read_samples(log), *case_samples(output)]):
        logger.info("evaluate | finished before: %d samples", len(plan.expected))
        return
    scores.unlink(missing_ok=True)  # it marks a finished evaluation, which this is not any more
    drop_cut_line(log)
    drop_cut_line(output / METRICS)
    settings = job.evaluation
    rules = RewardSettings(number_tolerance=job.number_tolerance, judge=settings.judge)
    judge = Judge(settings.judge) if settings.judge else None
    _repair_log(log, examples, rules, judge, settings.protocol)
    done = read_samples(log)
    missing = plan.expected - {sample.key for sample in done}
    asks_cases = settings.document == "whole" and not are_answered(output)
    if missing or asks_cases:
        if judge:
            # Answers are expensive and verdicts cheap: a judge that is down stops the run before the first answer.
            asyncio.run(require_judge(judge))
        answerer = load_answerer(settings, model, job.model, job.launch, job.seed)
        _check_prompts(done, examples, answerer, settings)
        progress = _Progress(done, len(plan.expected), output / METRICS)
        tolerated = max(_FAILURES_IN_A_ROW, settings.server.concurrency) if settings.server else None
        score = partial(score_answers, rules=rules, judge=judge, protocol=settings.protocol)
        if asks_cases:
            cases = CaseStudies(answerer.tokenizer, settings.max_prompt_tokens, form_of(examples[0]))
            found = cases.taken_out(answerer.answers([*examples, *cases.asked], missing | cases.keys))
        else:
            found = answerer.answers(examples, missing)
        _log_answers(found, score, log, progress, tolerated=tolerated)
        if asks_cases:
            cases.write(rules, judge, output)
    check_unscored(read_samples(log), settings.max_unscored_share)
    bootstrap = Bootstrap(resamples=settings.bootstrap_resamples, confidence=settings.confidence, seed=job.seed)
    write_scores(output, bootstrap)


def _check_prompts(
    done: Sequence[Sample], examples: Iterable[Example], answerer: Answerer, settings: EvaluationSettings
) -> None:
    """A log goes on only with the prompts that it began with.

    The plan pins rows, wording and model. The prompts also depend on the libraries that render and cut them.

    Raises:
        ValueError: the prompt of an answered item is another one now.
    """
    answered = {sample.example_id: sample.prompt_digest for sample in done}
    for example in examples:
        if example.id in answered and render(answerer.tokenizer, example, settings).digest != answered[example.id]:
            raise ValueError(
                f"the prompt of item {example.id!r} is not the one that the log's answers belong to: its chat template"
                " holds a date, or another version of transformers or tokenizers is installed. Go on as it began, or"
                " use an empty work folder"
            )


def _repair_log(
    log: Path, examples: Iterable[Example], rules: RewardSettings, judge: Judge | None, protocol: str
) -> None:
    """Take up what an earlier run left open.

    Answers without a verdict go to the judge once more. Errors leave the log, so that the engine is asked again.
    """
    samples = read_samples(log)
    answered = [sample for sample in samples if sample.finish_reason != "error"]
    # Only their verdict is missing: the answers themselves were expensive and stay.
    unscored = [sample for sample in answered if sample.score.status == "unscored"]
    if len(answered) < len(samples):
        logger.info("evaluate | asking again for %d answers that failed", len(samples) - len(answered))
    if unscored:
        logger.info("evaluate | asking the judge again about %d unscored answers", len(unscored))
    if unscored or len(answered) < len(samples):
        rows = {example.id: example for example in examples}
        again = {sample.key: sample for sample in score_again(unscored, rows, rules, judge, protocol)}
        rewrite_samples(log, [again.get(sample.key, sample) for sample in answered])


def _log_answers(
    found: Iterable[Sequence[Answer]],
    score: Callable[[Sequence[Answer]], list[Sample]],
    log: Path,
    progress: _Progress,
    *,
    tolerated: int | None,
) -> None:
    """Score the answers as they come and append them to the log.

    Args:
        tolerated: Failures in a row that stop the run: a server that answers nothing is not asked for everything.
            ``None`` for an engine in this process, which raises its errors.

    Raises:
        ConnectionError: so many requests in a row failed.
    """
    failures = 0
    for answers in found:
        fresh = score(answers)
        append_samples(log, fresh)
        progress.add(fresh)
        failures = failures + len(fresh) if all(sample.score.status == "error" for sample in fresh) else 0
        if tolerated is not None and failures >= tolerated:
            raise ConnectionError(
                f"the last {failures} requests all failed, such as: {fresh[-1].score.reason}. Mend the server and run"
                " again: the answers so far are kept"
            )


def check_unscored(samples: Sequence[Sample], limit: float) -> None:
    """A judge or a server that was down must not read as a low score.

    Args:
        limit: ``evaluation.max_unscored_share``.

    Raises:
        RuntimeError: a larger share of the samples has no verdict; another run asks again.
    """
    missing = [sample for sample in samples if not sample.has_verdict]
    if len(missing) > limit * len(samples):
        errors = sum(sample.score.status == "error" for sample in missing)
        raise RuntimeError(
            f"{len(missing) - errors} of {len(samples)} answers are unscored and {errors} failed, over"
            f" evaluation.max_unscored_share={limit}; the last reason: {missing[-1].score.reason}. Mend the judge or"
            " the server and run again: the answers are kept"
        )


def run(job: EvaluateJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The evaluate stage: inputs ``model`` (policy folder) and ``data`` (with ``eval.parquet``)."""
    examples = choose_items(read_examples(inputs["data"] / EVAL_ROWS), job.evaluation.limit)
    evaluate(job, make_plan(job, examples, inputs["model"]), examples, inputs["model"], work / OUTPUT)


if __name__ == "__main__":
    stage_main(EvaluateJob, run)
