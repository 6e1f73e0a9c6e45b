"""Sample and score one checkpoint, one log line per answer, resumably.

    rows --choose_items--> plan --missing keys--> engine call per batch --> score --> samples.jsonl
    samples.jsonl --compute_scores--> scores.json

Batches are a fixed cut of the plan's order. A batch that was interrupted is generated again with the
same seed and only its missing lines are written, so the log does not depend on where a run was
killed. Stage command: ``python -m qwenlong_core.evaluation.runner``; a finished one does nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenlong_core.config import EvaluationSettings, RewardSettings
from qwenlong_core.data.prompts import encode, opens_thinking, render_prompt, truncate_middle
from qwenlong_core.data.rows import read_examples
from qwenlong_core.evaluation.evidence import evidence_depth
from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.evaluation.plan import (
    PLAN,
    SAMPLES,
    SCORES,
    Plan,
    adopt_plan,
    choose_items,
    dataset_digest,
    make_plan,
    scoring_protocol,
)
from qwenlong_core.evaluation.results import write_scores
from qwenlong_core.evaluation.samples import Sample, append_samples, drop_cut_line, read_samples
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.jobs import OUTPUT, EvaluateJob, stage_main
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards import Judge, require_judge, score_completions_sync

logger = logging.getLogger(__name__)

_VLLM_BATCH = 256
"""Prompts in one vLLM call: enough to keep its scheduler full, few enough to lose little to a kill."""

_NO_DOCUMENT = "(The text is not available.)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    """A row as the model sees it."""

    example: Example
    token_ids: list[int]
    lost_tokens: int
    prefix: str
    """``<think>`` where the chat template opens the thinking itself, so that the log shows it."""


def _render(tokenizer: Any, example: Example, settings: EvaluationSettings) -> _Prompt:
    if settings.document == "none":
        shortened, lost = replace(example, context=_NO_DOCUMENT), 0
    else:
        shortened, _, lost = truncate_middle(tokenizer, example, settings.max_prompt_tokens)
        # What the prepare stage has cut already, to the same limit, is lost as well.
        lost += example.metadata.get("lost_tokens", 0)
    text = render_prompt(tokenizer, shortened)
    prefix = "<think>\n" if opens_thinking(text) else ""
    return _Prompt(example=example, token_ids=encode(tokenizer, text), lost_tokens=lost, prefix=prefix)


def _transformers_engine(job: EvaluateJob, folder: Path, tokenizer: Any) -> Engine:
    import torch

    from qwenlong_core.generation.transformers_engine import TransformersEngine
    from qwenlong_core.models import load_policy

    if job.launch.cpu_threads:
        torch.set_num_threads(job.launch.cpu_threads)
    model = load_policy(folder, job.model)
    longest = job.evaluation.max_prompt_tokens + job.evaluation.max_completion_tokens
    if longest > model.config.max_position_embeddings:
        raise ValueError(
            f"evaluation.max_prompt_tokens + max_completion_tokens = {longest:,} is over the model's context of "
            f"{model.config.max_position_embeddings:,}: lower them, or raise model.yarn_factor"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return TransformersEngine(model, tokenizer, batch_size=job.evaluation.batch_size)


def _vllm_engine(job: EvaluateJob, folder: Path) -> Engine:
    from qwenlong_core.generation.vllm_engine import VLLMEngine

    settings = job.evaluation
    longest = settings.max_prompt_tokens + settings.max_completion_tokens
    gpus = max(1, job.launch.num_processes // job.launch.num_machines)
    return VLLMEngine(folder, job.model.dtype, longest, tensor_parallel_size=gpus)


def load_engine(job: EvaluateJob, folder: Path) -> tuple[Engine, Any]:
    """The engine of the settings over the policy in ``folder``, and its tokenizer."""
    from qwenlong_core.models import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if job.evaluation.engine == "vllm":
        return _vllm_engine(job, folder), tokenizer
    return _transformers_engine(job, folder, tokenizer), tokenizer


def _to_sample(
    job: EvaluateJob, prompt: _Prompt, number: int, completion: Completion, score: Score, seconds: float
) -> Sample:
    example = prompt.example
    return Sample(
        example_id=example.id,
        document_id=example.document_id or example.id,
        domain=example.domain,
        source=example.source,
        sample=number,
        prompt_digest=hashlib.sha256(json.dumps(prompt.token_ids).encode()).hexdigest(),
        prompt_tokens=len(prompt.token_ids),
        lost_tokens=prompt.lost_tokens,
        depth=evidence_depth(example),
        completion=completion.text,
        num_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        score=score,
        metrics=official_metrics(example, score.extracted, job.number_tolerance),
        seconds=round(seconds, 4),
    )


def _rewards(job: EvaluateJob) -> RewardSettings:
    return RewardSettings(number_tolerance=job.number_tolerance, judge=job.evaluation.judge)


def _judge(job: EvaluateJob) -> Judge | None:
    return Judge(job.evaluation.judge) if job.evaluation.judge else None


def answer_batch(
    job: EvaluateJob, engine: Engine, tokenizer: Any, judge: Judge | None, batch: Sequence[Example]
) -> list[Sample]:
    """Sample and score every completion of a batch of rows, ``samples`` of each."""
    settings = job.evaluation
    started = time.monotonic()
    prompts = [_render(tokenizer, example, settings) for example in batch]
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_completion_tokens, seed=job.seed)
    groups = engine.generate([prompt.token_ids for prompt in prompts], settings.samples, sampling)
    flat = [
        (prompt, number, replace(completion, text=prompt.prefix + completion.text))
        for prompt, group in zip(prompts, groups, strict=True)
        for number, completion in enumerate(group)
    ]
    examples, completions = [p.example for p, _, _ in flat], [c for _, _, c in flat]
    scores = score_completions_sync(examples, completions, _rewards(job), judge=judge)
    each = (time.monotonic() - started) / len(flat)
    return [_to_sample(job, p, n, c, score, each) for (p, n, c), score in zip(flat, scores, strict=True)]


def _batches(job: EvaluateJob, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    size = _VLLM_BATCH if job.evaluation.engine == "vllm" else job.evaluation.batch_size
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


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
    judge = _judge(job)
    if judge:
        # Answers are dear and verdicts are cheap: a judge that is down stops the run before the first one.
        asyncio.run(require_judge(judge))
    engine, tokenizer = load_engine(job, model)
    progress = _Progress(done, len(plan.expected), output / "metrics.jsonl")
    for batch in _batches(job, examples):
        wanted = missing & {(example.id, number) for example in batch for number in range(plan.samples)}
        if wanted:
            fresh = [sample for sample in answer_batch(job, engine, tokenizer, judge, batch) if sample.key in wanted]
            append_samples(log, fresh)
            progress.add(fresh)


def _bootstrap(job: EvaluateJob) -> Bootstrap:
    settings = job.evaluation
    return Bootstrap(resamples=settings.bootstrap_resamples, confidence=settings.confidence, seed=job.seed)


def run(job: EvaluateJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The evaluate stage: inputs ``model`` (policy folder) and ``data`` (with ``eval.parquet``).

    Output: ``plan.json``, ``samples.jsonl``, ``metrics.jsonl`` and, when all is answered,
    ``scores.json``.
    """
    output = work / OUTPUT
    examples = choose_items(read_examples(inputs["data"] / "eval.parquet"), job.evaluation.limit)
    plan = make_plan(job, examples, inputs["model"])
    adopt_plan(plan, output)
    if (output / SCORES).exists():
        logger.info("evaluate | finished before: %d samples", len(plan.expected))
        return
    drop_cut_line(output / SAMPLES)
    drop_cut_line(output / "metrics.jsonl")
    _ask_again(job, {example.id: example for example in examples}, output / SAMPLES)
    _answer_missing(job, plan, examples, inputs["model"], output)
    check_unscored(job, read_samples(output / SAMPLES))
    write_scores(output, _bootstrap(job))


def _score_anew(job: EvaluateJob, rows: Mapping[str, Example], samples: Sequence[Sample]) -> list[Sample]:
    """The same answers under the job's rules and judge; an error has no answer to score."""
    if any(sample.finish_reason == "error" for sample in samples):
        raise ValueError("errors hold no answer to score: leave them as they are")
    completions = [
        Completion(text=s.completion, token_ids=(), finish_reason="length" if s.finish_reason == "length" else "stop")
        for s in samples
    ]
    scores = score_completions_sync([rows[s.example_id] for s in samples], completions, _rewards(job), judge=_judge(job))
    return [
        replace(s, score=score, metrics=official_metrics(rows[s.example_id], score.extracted, job.number_tolerance))
        for s, score in zip(samples, scores, strict=True)
    ]


def _ask_again(job: EvaluateJob, rows: Mapping[str, Example], log: Path) -> None:
    """Give answers that an earlier try left without a verdict to the judge once more."""
    samples = read_samples(log)
    unscored = [sample for sample in samples if sample.score.status == "unscored"]
    if not unscored:
        return
    logger.info("evaluate | asking the judge again about %d unscored answers", len(unscored))
    anew = {sample.key: sample for sample in _score_anew(job, rows, unscored)}
    staging = log.with_suffix(".tmp")
    staging.unlink(missing_ok=True)
    append_samples(staging, [anew.get(sample.key, sample) for sample in samples])
    os.replace(staging, log)


def check_unscored(job: EvaluateJob, samples: Sequence[Sample]) -> None:
    """A judge that was down must not become a low score.

    Raises:
        RuntimeError: over ``evaluation.max_unscored_share``; a retry asks the judge again.
    """
    unscored = [sample for sample in samples if sample.score.status == "unscored"]
    limit = job.evaluation.max_unscored_share
    if len(unscored) > limit * len(samples):
        raise RuntimeError(
            f"{len(unscored)} of {len(samples)} answers are unscored, over evaluation.max_unscored_share={limit}; the "
            f"last reason: {unscored[-1].score.reason}. Mend the judge and run again: the answers are kept"
        )


def rescore(job: EvaluateJob, evaluation: Path, data: Path, output: Path) -> None:
    """Score a finished log anew under the job's rules and judge, with no model, into ``output``.

    Raises:
        ValueError: the rows in ``data`` are not the ones that were answered.
    """
    plan = Plan.model_validate_json((evaluation / PLAN).read_text())
    rows = {example.id: example for example in read_examples(data / "eval.parquet")}
    known = [rows[item] for item in plan.items if item in rows]
    if dataset_digest(known) != plan.dataset_digest:
        raise ValueError(f"{data / 'eval.parquet'} is not the data that {evaluation} answered: give its own data folder")
    samples = read_samples(evaluation / SAMPLES)
    protocol = plan.protocol | scoring_protocol(job)
    output.mkdir(parents=True, exist_ok=True)
    (output / PLAN).write_text(plan.model_copy(update={"protocol": protocol}).model_dump_json(indent=1))
    (output / SAMPLES).unlink(missing_ok=True)
    append_samples(output / SAMPLES, _score_anew(job, rows, samples))
    write_scores(output, _bootstrap(job))


if __name__ == "__main__":
    stage_main(EvaluateJob, run)
