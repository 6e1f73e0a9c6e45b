"""With every extra off, the trainer does what TRL's own does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.grpo_trainer
from datasets import Dataset
from training_jobs import grpo_job
from trl import GRPOTrainer

from qwenlong_core.data.rows import read_phase
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.training import batches
from qwenlong_core.training.arguments import batch_layout, grpo_config
from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.rollout import Prompts, epoch_seed
from qwenlong_core.training.runtime import quiet

BATCHES_PER_EPOCH = 2  # 8 rows, 4 a batch


def value(token_ids: Sequence[int]) -> float:
    return sum(token_ids) % 7 / 7


async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
    return [Score(value=value(c.token_ids), rule=value(c.token_ids)) for c in completions]


def stock_trainer(job: GRPOJob, policy: Path, data: Path, work: Path) -> GRPOTrainer:
    """TRL's trainer, sampling through the same engine, with rows in the order they were drawn."""
    tokenizer = load_tokenizer(policy)
    model = load_policy(policy, job.model)
    prompts = Prompts(tokenizer, read_phase(data / "train.parquet", 1), job.phase, 8192)
    engine = TransformersEngine(model, tokenizer, batch_size=job.grpo.micro_batch_size)
    sampling = Sampling(job.grpo.temperature, job.grpo.top_p, 8, seed=job.seed * 1000 + job.index)
    calls = 0

    def roll_out(rows: list[str], trainer: Any) -> dict[str, Any]:
        nonlocal calls
        seed = epoch_seed(sampling.seed or 0, calls // BATCHES_PER_EPOCH)
        calls += 1
        ids = [prompts.token_ids[int(row)] for row in rows]
        groups = engine.generate(ids[:: job.grpo.group_size], job.grpo.group_size, replace(sampling, seed=seed))
        completion_ids = [list(c.token_ids) for group in groups for c in group]
        return {"prompt_ids": ids, "completion_ids": completion_ids, "logprobs": None}

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [value(ids) for ids in completion_ids]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=grpo_config(job, batch_layout(job, 1), 100, work),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(8)]}),
        processing_class=tokenizer,
        rollout_func=roll_out,
    )
    quiet(trainer)
    return trainer


@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "tolerance", "mini_batch_size", "kl"),
    [
        ("sgd", 0.1, 1e-4, 4, 0.0),
        pytest.param("sgd", 0.1, 1e-4, 2, 0.05, marks=pytest.mark.slow),
        # Adam divides by the gradient's size, so where that is rounding noise the step is noise too.
        pytest.param("adamw_torch", 1e-4, 1e-2, 4, 0.0, marks=pytest.mark.slow),
    ],
)
def test_ten_steps_give_the_weights_of_stock_trl(
    optimizer: str,
    learning_rate: float,
    tolerance: float,
    mini_batch_size: int,
    kl: float,
    policy: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # TRL shuffles rows before cutting them into optimizer steps; here they are compared in one order.
    monkeypatch.setattr(trl.trainer.grpo_trainer, "shuffle_sequence_dict", lambda rows: rows)
    job = grpo_job(
        phase={"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 10},
        mini_batch_size=mini_batch_size,
        dynamic_sampling={"max_rounds": 1},
        kl_coefficient=kl,
        curriculum={"retrospective_share": 0.0},
        learning_rate=learning_rate,
    )
    stock = stock_trainer(job, policy, data, tmp_path / "stock")
    # Ours spreads a batch's groups over its mini-batches in turn; give TRL's its prompts in that order.
    ours = build_trainer(
        job, inputs={"model": policy, "data": data}, work=tmp_path / "ours", scorer=score, processes=1, rank=0
    )
    if mini_batch_size < 4:
        place_in_order(monkeypatch)
    start = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    for trainer in (stock, ours):
        trainer.args.optim = optimizer
        trainer.train()
    theirs = stock.model.state_dict()
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in ours.model.state_dict().items())
    apart = max(float((tensor - theirs[name]).abs().max()) for name, tensor in ours.model.state_dict().items())
    assert ours.batch.drawn.counts()["groups_kept"] == 4, "every group must be informative for this comparison"
    assert moved > 1e-4
    assert apart < tolerance * moved, (apart, moved)


def place_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "arrange", lambda groups, work, documents, **_: [list(groups)])


def test_the_model_is_untouched_by_building_a_trainer(policy: Path, data: Path, tmp_path: Path) -> None:
    trainer = build_trainer(
        grpo_job(), inputs={"model": policy, "data": data}, work=tmp_path, scorer=score, processes=1, rank=0
    )
    fresh = load_policy(policy, grpo_job().model).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in trainer.model.state_dict().items())
