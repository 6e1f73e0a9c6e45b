"""How hard the training rows are for a model, measured before training.

Samples a few completions for rows of every phase and scores them as training will. The result: pass rates by domain and
length, the share of rows without a training signal, and the cost of a GRPO step on this machine. Also writes
``difficulty.json``, which the curriculum reads. Stage command::

    python -m qwenlong_core.training.probe --job job.json --input model=DIR --input data=DIR --work DIR

Each row's line in ``probe.jsonl`` is written as soon as the row is done, and its draws depend on the seed and the
prompt alone. So a probe that was killed resumes where it stopped, with the same result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from qwenlong_core.auto import AutoConfig
from qwenlong_core.data.prepared import TRAIN_ROWS
from qwenlong_core.data.rows import dataset_digest, read_phase
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.load import load_engine
from qwenlong_core.jobs import ProbeJob
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Completion, Example, Group, Score
from qwenlong_core.rewards.health import require_judge
from qwenlong_core.rewards.hybrid import score_completions
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.training import Phase
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.artifacts import folder_digest
from qwenlong_core.store.files import write_json
from qwenlong_core.training.curriculum import UNSEEN, to_json
from qwenlong_core.training.dynamic_sampling import Draw
from qwenlong_core.training.metrics import JsonLines, duration
from qwenlong_core.training.output import DIFFICULTY
from qwenlong_core.training.probe_summary import summary, table
from qwenlong_core.training.rollout import Prompts, Rollouts, Scorer

logger = logging.getLogger(__name__)

PLAN, LOG, SUMMARY = "plan.json", "probe.jsonl", "probe.json"


def choose_rows(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most ``limit`` rows, chosen by their ids, so the order of the file does not matter."""
    rank = {e.id: hashlib.sha256(f"{seed}/{e.id}".encode()).digest() for e in examples}
    return sorted(examples, key=lambda e: rank[e.id])[:limit]


def _engine(job: ProbeJob, folder: Path, tokenizer: Any) -> Engine:
    longest = max(phase.max_prompt_tokens + phase.max_completion_tokens for phase in job.phases)
    return load_engine(
        job.engine,
        folder,
        tokenizer,
        job.model,
        job.launch,
        batch_size=job.rows_at_once,
        longest=longest,
        setting="grpo.engine",
        vllm_options=job.vllm_options,
    )


def _scorer(job: ProbeJob) -> Scorer:
    judge = Judge(job.rewards.judge) if job.rewards.judge else None
    if judge is not None:
        asyncio.run(require_judge(judge))

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        return await score_completions(examples, completions, job.rewards, judge=judge)

    return score


def _line(group: Group, phase: int, prompt_tokens: int, seconds: float) -> dict[str, Any] | None:
    """What is logged of a row; ``None`` if a completion is unscored, so that the next run asks again."""
    accuracies = [score.accuracy for score in group.scores]
    if None in accuracies:
        return None
    return {
        "step": phase,
        "id": group.example.id,
        "domain": group.example.domain,
        "prompt_tokens": prompt_tokens,
        "accuracies": accuracies,
        "tokens": [len(c.token_ids) for c in group.completions],
        "truncated": sum(c.finish_reason == "length" for c in group.completions),
        "seconds": round(seconds, 4),
    }


class _Prober:
    """Samples and scores the rows of a phase, a few at a time."""

    def __init__(self, job: ProbeJob, model: Path, log: JsonLines) -> None:
        PartialState(cpu=not torch.cuda.is_available())  # the rollouts gather over processes, of which there is one
        self.job, self.log = job, log
        self.tokenizer = load_tokenizer(model)
        self.context: int = AutoConfig.from_pretrained(model).max_position_embeddings
        self.scorer, self.engine = _scorer(job), _engine(job, model, self.tokenizer)

    def probe(self, index: int, phase: Phase, rows: Sequence[Example]) -> int:
        """Sample rows of phase ``index`` and write their lines; returns the number of rows left unscored."""
        job = self.job
        prompts = Prompts(self.tokenizer, rows, phase, self.context)
        sampling = Sampling(job.temperature, job.top_p, phase.max_completion_tokens, job.seed, job.stop)
        rollouts = Rollouts(
            prompts, self.engine, self.scorer, group_size=job.samples, sampling=sampling, rank=0, processes=1
        )
        unscored, began = 0, time.perf_counter()
        for start in range(0, len(rows), job.rows_at_once):
            started = time.perf_counter()
            draws = [Draw(row, epoch=0) for row in range(start, min(start + job.rows_at_once, len(rows)))]
            groups = rollouts(draws)
            each = (time.perf_counter() - started) / len(draws)
            for draw, group in zip(draws, groups):
                line = _line(group, index, len(prompts.token_ids[draw.row]), each)
                unscored += line is None
                if line is not None:
                    self.log.append(line)
            done = start + len(draws)
            left = (time.perf_counter() - began) / done * (len(rows) - done)
            logger.info("probe phase %d: %d/%d rows | %s left", index, done, len(rows), duration(left))
        return unscored


def _adopt_plan(job: ProbeJob, model: Path, chosen: Mapping[int, Sequence[Example]], output: Path) -> None:
    """Write the plan, or check that the log in the folder belongs to it.

    Raises:
        ValueError: the folder holds another probe.
    """
    # Neither threads nor the batch size changes a draw, so a probe may be resumed with others.
    settings = job.model_dump(mode="json", exclude={"launch", "rows_at_once"})
    rows = dataset_digest(example for examples in chosen.values() for example in examples)
    plan = {"settings": settings, "model": folder_digest(model), "rows": rows}
    path = output / PLAN
    if path.exists() and json.loads(path.read_text()) != plan:
        raise ValueError(f"{output} holds a probe of another model, other rows or other settings: take another folder")
    write_json(path, plan)


def measure(job: ProbeJob, model: Path, data: Path, output: Path) -> dict[str, Any]:
    """Probe the model on rows of every phase; returns the content of ``probe.json``.

    Raises:
        ValueError: the folder holds another probe, or rows that cannot be prompted.
        RuntimeError: too many rows are unscored; the same command asks for them again.
    """
    output.mkdir(parents=True, exist_ok=True)
    chosen = {
        index: choose_rows(read_phase(data / TRAIN_ROWS, index), job.rows, job.seed)
        for index in range(1, len(job.phases) + 1)
    }
    _adopt_plan(job, model, chosen, output)
    log = JsonLines(output / LOG)
    log.cut_back(len(job.phases))  # drops a last line that was cut off
    done = {line["id"] for line in _read(log)}
    missing = {index: [row for row in rows if row.id not in done] for index, rows in chosen.items()}
    if any(missing.values()):
        prober = _Prober(job, model, log)
        unscored = sum(prober.probe(k, job.phases[k - 1], rows) for k, rows in missing.items() if rows)
        _check_unscored(job, unscored, sum(map(len, chosen.values())))
    lines = sorted(_read(log), key=lambda line: (line["step"], line["id"]))
    write_json(output / DIFFICULTY, to_json({line["id"]: UNSEEN.after(line["accuracies"]) for line in lines}))
    found = summary(lines, job)
    write_json(output / SUMMARY, found)
    return found


def _read(log: JsonLines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()] if log.path.exists() else []


def _check_unscored(job: ProbeJob, unscored: int, rows: int) -> None:
    if unscored > job.rewards.max_unscored_share * rows:
        raise RuntimeError(
            f"the judge gave no verdict on {unscored} of {rows} rows, over rewards.max_unscored_share="
            f"{job.rewards.max_unscored_share}: mend the judge and run the same command again; scored rows are kept"
        )


def run(job: ProbeJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The probe stage: inputs ``model`` and ``data``, output ``difficulty.json`` and ``probe.json``."""
    for line in table(measure(job, inputs["model"], inputs["data"], work / OUTPUT)).splitlines():
        logger.info("%s", line)


if __name__ == "__main__":
    stage_main(ProbeJob, run)
