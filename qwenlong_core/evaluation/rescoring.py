"""Score a finished evaluation again without a model: other rules, another judge, or the verdicts in its log."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.rows import dataset_digest, read_examples
from qwenlong_core.evaluation.ask_cases import rescore_cases
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, SCORED_AS, Plan, scoring_protocol
from qwenlong_core.evaluation.results import write_scores
from qwenlong_core.evaluation.samples import append_samples, read_samples
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.evaluation.scoring import score_again, score_with_old_verdicts
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import RewardSettings


def rescore(job: EvaluateJob, evaluation: Path, data: Path, output: Path) -> None:
    """Score the log in ``evaluation`` under the job's rules, into ``output``; the log itself stays as it is.

    The job's judge is asked about every answer that needs one. Without a judge the verdicts in the log are kept: an
    answer that fails the rules now, and that the log's judge was never asked about, is then ``unscored``.

    Args:
        job: Rules, judge and bootstrap; its model and sampling are not used.
        evaluation: A finished evaluation.
        data: Folder with the rows that it answered.
        output: Folder to write.

    Raises:
        ValueError: the rows in ``data`` are not the ones that were answered.
    """
    settings = job.evaluation
    plan = Plan.model_validate_json((evaluation / PLAN).read_text())
    rows = {example.id: example for example in read_examples(data / EVAL_ROWS)}
    if dataset_digest(rows[item] for item in plan.items if item in rows) != plan.dataset_digest:
        raise ValueError(f"{data / EVAL_ROWS} is not the data that {evaluation} answered: give its own data folder")
    samples = read_samples(evaluation / SAMPLES)
    rules = RewardSettings(number_tolerance=job.number_tolerance, judge=settings.judge)
    sampled = {name: value for name, value in plan.protocol.items() if name != SCORED_AS}
    protocol = sampled | scoring_protocol(settings, job.number_tolerance)
    # Without a judge the answers keep the verdicts of the log's judge, and the plan goes on naming that judge.
    if settings.judge is None and plan.protocol["judge"] is not None:
        score = partial(score_with_old_verdicts, rules=rules, protocol=settings.protocol)
        protocol["judge"] = plan.protocol["judge"]
    else:
        judge = Judge(settings.judge) if settings.judge else None
        score = partial(score_again, rules=rules, judge=judge, protocol=settings.protocol)
    output.mkdir(parents=True, exist_ok=True)
    (output / PLAN).write_text(plan.model_copy(update={"protocol": protocol}).model_dump_json(indent=1))
    (output / SAMPLES).unlink(missing_ok=True)
    append_samples(output / SAMPLES, score(samples, rows))
    rescore_cases(evaluation, output, score)
    bootstrap = Bootstrap(resamples=settings.bootstrap_resamples, confidence=settings.confidence, seed=job.seed)
    write_scores(output, bootstrap)
