"""Rows, jobs and scorers that the tests of training share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.settings.training import GRPOBase
from qwenlong_core.training.rollout import Scorer


def whole_state(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that several processes have written as shards, each whole."""
    reader = HuggingFaceStorageReader(str(folder))
    written = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in written.items()}
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


DOMAINS = ("math", "logical", "multihop")
LAUNCH = {"cpu_threads": 1}


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def example(i: int, phase: int = 1) -> Example:
    return Example(
        id=f"p{phase}-{i}",
        source="test",
        domain=DOMAINS[i % 3],
        answer_type="number",
        context=f"Store {i} sold {i + 3} apples. " * phase,
        question=f"How many apples did store {i} sell?",
        answers=(str(i + 3),),
        solution=f"Therefore, the answer is {i + 3}.",
    )


def sft_job(**sft: Any) -> SFTJob:
    settings = {
        "max_tokens": 256,
        "learning_rate": 1e-3,
        "epochs": 2.0,
        "batch_size": 4,
        "micro_batch_size": 2,
        "save_steps": 1,
    }
    return SFTJob.model_validate({"sft": settings | sft, "model": {"name": "tiny"}, "launch": LAUNCH, "seed": 3})


def grpo_job(**changes: Any) -> GRPOJob:
    """A small job; ``changes`` are fields of the job or of its GRPO settings."""
    grpo = {
        "group_size": 4, "batch_size": 4, "mini_batch_size": 2, "micro_batch_size": 1,
        "learning_rate": 1e-3, "temperature": 1.0, "top_p": 1.0, "clip_low": 0.2, "clip_high": 0.28,
        "dynamic_sampling": {"max_rounds": 4},
    }  # fmt: skip
    job = {
        "index": 1,
        "phase": {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 3},
        "rewards": {}, "model": {"name": "tiny"}, "launch": LAUNCH, "seed": 5,
    }  # fmt: skip
    of_grpo = {key: value for key, value in changes.items() if key in GRPOBase.model_fields}
    of_job = {key: value for key, value in changes.items() if key not in of_grpo}
    return GRPOJob.model_validate(job | of_job | {"grpo": grpo | of_grpo})


def scripted(groups: Sequence[Sequence[float | None]]) -> Scorer:
    """Scores completions with these accuracies, group by group."""
    left = [accuracy for group in groups for accuracy in group]

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        accuracies = [left.pop(0) for _ in completions]
        return [Score(value=None, status="unscored") if a is None else Score(value=a, rule=a) for a in accuracies]

    return score


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
