"""Training steps of the project's own GRPO stage on the processes that run; ``sequence_parallel.py`` launches it.

    accelerate launch ... benchmarks/sequence_parallel_step.py --job FILE --model FOLDER --data FOLDER --work FOLDER

Each step trains on one row, in the order of their names. The first makes optimizer states and buffers and runs the
check of the first group; it is not measured. Each process writes ``WORK/RANK.json``: of each further step the row's
tokens N, and seconds, processor seconds and peak memory of its forward and backward. Completions are random tokens.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compare import model_folder
from step import checksum
from transformers import TrainerCallback
from update_variants import Peak

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.training import grpo
from qwenlong_core.training.runtime import leave_group, set_up_process
from qwenlong_core.training.trainer import LongContextGRPOTrainer

PR_SET_THP_DISABLE = 41


class RandomEngine:
    """Completions of random tokens, each as long as allowed; the same on every number of processes."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`~qwenlong_core.generation.engine.Engine`."""
        return [[self._completion(i, sampling.max_tokens) for i in range(samples)] for _ in prompts]

    def _completion(self, seed: int, tokens: int) -> Completion:
        ids = torch.randint(5, self.vocabulary, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
        return Completion(text="", token_ids=tuple(ids), finish_reason="stop", logprobs=(-1.0,) * tokens)


class OneAtATime:
    """Scores that let a step train on one row only."""

    def __init__(self) -> None:
        self.wanted = 0

    async def score(self, examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        """Groups of other rows are all right, so they are neither trained on nor kept for the next step."""
        values = [checksum(c.token_ids) if int(e.id) == self.wanted else 1.0 for e, c in zip(examples, completions)]
        return [Score(value=value, rule=value) for value in values]


class Watch(TrainerCallback):  # type: ignore[misc]
    """Measures each update from the moment its batch is ready until its gradient is whole."""

    def __init__(self, trainer: LongContextGRPOTrainer, rows: OneAtATime) -> None:
        self.trainer, self.rows, self._next_batch = trainer, rows, trainer.next_batch
        self.found: list[dict[str, float]] = []
        trainer.next_batch = self._start  # type: ignore[method-assign]

    def _start(self) -> dict[str, Any]:
        self._before = Peak().before  # the step's rows count as grown
        batch = self._next_batch()
        self._peak, self._began, self._processor = Peak(), time.perf_counter(), time.process_time()
        return batch

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        (group,) = self.trainer.batch.drawn.kept
        prompt, completions = self.trainer.batches.prompt_tokens([group]), group.completions
        seen = {
            "tokens": prompt - 1 + sum(len(completion.token_ids) for completion in completions),
            "seconds": time.perf_counter() - self._began,
            "processor_seconds": time.process_time() - self._processor,
            "peak_mb": self._peak.now(),
            "grown_mb": self._peak.now() - self._before,
        }
        self.found += [seen] if self.rows.wanted else []
        self.rows.wanted += 1


def measure(job: GRPOJob, model: Path, data: Path, work: Path) -> tuple[int, list[dict[str, float]]]:
    """This process's rank, and what it saw in each step."""
    state, rows = set_up_process(job.launch), OneAtATime()
    grpo.rollout_engine = lambda _, trainer: RandomEngine(trainer.model.config.vocab_size)  # type: ignore[assignment]
    trainer = grpo.build_trainer(
        job,
        inputs={"model": model, "data": data},
        work=work,
        scorer=rows.score,
        processes=state.num_processes,
        rank=state.process_index,
    )
    watch = Watch(trainer, rows)
    trainer.add_callback(watch)
    trainer.train()
    leave_group()
    return state.process_index, watch.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--model", type=model_folder, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--small-pages", action="store_true", help="no huge pages, even where the system hands them out"
    )
    args = parser.parse_args()
    if args.small_pages:
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    job = GRPOJob.model_validate_json(args.job.read_text())
    rank, found = measure(job, args.model, args.data, args.work)
    (args.work / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
