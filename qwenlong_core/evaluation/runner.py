"""Sample and score one checkpoint, one log line per answer, resumably.

    rows --choose_items--> plan --missing keys--> answers --> scores --> samples.jsonl
    samples.jsonl --compute_scores--> scores.json

An interrupted evaluation asks for what is missing with the same seed, so the log does not depend on
where a run was killed. Stage command: ``python -m qwenlong_core.evaluation.runner``; a finished one
does nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation.answers import answers, judge_of, load_policy_engine, score_answers
from qwenlong_core.evaluation.plan import SAMPLES, SCORES, Plan, adopt_plan, choose_items, make_plan
from qwenlong_core.evaluation.rescoring import ask_again, bootstrap_of, check_unscored
from qwenlong_core.evaluation.results import write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples, drop_cut_line, read_samples
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example
from qwenlong_core.rewards.health import require_judge
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.files import METRICS

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 8
"""A server counts as down after so many, or as many as are under way at once."""


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


def _answer_missing(job: EvaluateJob, plan: Plan, examples: Sequence[Example], model: Path, output: Path) -> None:
    log = output / SAMPLES
    done = read_samples(log)
    missing = plan.expected - {sample.key for sample in done}
    if not missing:
        return
    judge = judge_of(job)
    if judge:
        # Answers are dear and verdicts are cheap: a judge that is down stops the run before the first one.
        asyncio.run(require_judge(judge))
    engine, tokenizer = load_policy_engine(job, model)
    progress = _Progress(done, len(plan.expected), output / METRICS)
    failures = 0
    for found in answers(job, engine, tokenizer, examples, missing):
        fresh = score_answers(job, judge, found)
        append_samples(log, fresh)
        progress.add(fresh)
        failures = failures + len(fresh) if all(s.score.status == "error" for s in fresh) else 0
        _stop_if_down(job, failures, fresh[-1].score.reason)


def _stop_if_down(job: EvaluateJob, failures: int, reason: str) -> None:
    """A server that answers nothing is not asked for everything.

    Raises:
        ConnectionError: too many requests failed in a row.
    """
    server = job.evaluation.server
    if server and failures >= max(_FAILURES_IN_A_ROW, server.concurrency):
        raise ConnectionError(
            f"the last {failures} requests all failed, such as: {reason}. Mend the server and run again: the answers "
            "so far are kept"
        )


def evaluate(job: EvaluateJob, plan: Plan, examples: Sequence[Example], model: Path, output: Path) -> None:
    """Answer and score the plan's ``examples`` with the policy in folder ``model``.

    Leaves in ``output``: ``plan.json``, ``samples.jsonl``, ``metrics.jsonl`` and, when all is answered,
    ``scores.json``. Interrupted, it goes on; finished, it does nothing, except that answers which an
    engine's error left out are asked for again.
    """
    adopt_plan(plan, output)
    log, scores = output / SAMPLES, output / SCORES
    if scores.exists() and not any(sample.finish_reason == "error" for sample in read_samples(log)):
        logger.info("evaluate | finished before: %d samples", len(plan.expected))
        return
    scores.unlink(missing_ok=True)
    drop_cut_line(log)
    drop_cut_line(output / METRICS)
    ask_again(job, {example.id: example for example in examples}, log)
    _answer_missing(job, plan, examples, model, output)
    check_unscored(job, read_samples(log))
    write_scores(output, bootstrap_of(job))


def run(job: EvaluateJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The evaluate stage: inputs ``model`` (policy folder) and ``data`` (with ``eval.parquet``)."""
    examples = choose_items(read_examples(inputs["data"] / EVAL_ROWS), job.evaluation.limit)
    evaluate(job, make_plan(job, examples, inputs["model"]), examples, inputs["model"], work / OUTPUT)


if __name__ == "__main__":
    stage_main(EvaluateJob, run)
