"""The grid of sequence parallelism: which trainings are compared, and the policy and rows that they start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from expert_policy import write_expert_policy
from training_jobs import example, grpo_job
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.data.rows import write_examples
from qwenlong_core.jobs import GRPOJob

ROWS, HEADS, HIDDEN, INTERMEDIATE, VOCABULARY = 32, 8, 64, 96, 400
GROUPS = 4
"""Groups of a batch."""
SHARPNESS = 0.02
"""Standard deviation of the weights: large enough for attention that is far from uniform."""


@dataclass(frozen=True)
class Training:
    """What stays the same over a training, whose steps are the cells."""

    sharding: str = "ddp"
    """``ddp`` or ``fsdp2``, both as accelerate makes them."""
    dtype: str = "float32"
    """``bfloat16`` is the production policy: float32 weights and sums, bfloat16 in between."""
    group_size: int = 2
    key_heads: int = 1
    separate: bool = False
    """One row per completion, without any packing."""
    experts: bool = False
    """A mixture of experts in place of MLPs."""

    @property
    def updates(self) -> int:
        """Optimizer steps per batch. With two, TRL computes old log-probs, and the second has moved weights."""
        return 2 if self.group_size == 2 else 1

    @property
    def counted(self) -> bool:
        """Whether tensors are watched, which is slow. A shard of a weight would count as states."""
        return self.sharding == "ddp" and self.dtype == "float32" and not self.experts

    @property
    def policy(self) -> str:
        """The folder of its policy among the inputs."""
        return "policy-experts" if self.experts else f"policy-{self.key_heads}"

    def __str__(self) -> str:
        rows = "-separate" if self.separate else ""
        model = "experts" if self.experts else f"k{self.key_heads}"
        return f"{self.sharding}-{self.dtype}-g{self.group_size}-{model}{rows}"


@dataclass(frozen=True)
class Cell:
    """One step: a batch, and its gradient."""

    slots: str
    """``full``; ``mixed``: two of four groups are the last step's surplus; ``surplus``: all are; ``empty`` slots."""
    ragged: bool
    """Completions of 1 to 12 tokens, or all of 5."""
    checkpointing: bool

    @property
    def informative(self) -> int:
        """How many of the next draws are informative. What four slots do not take is the next cell's surplus."""
        return {"full": 6, "mixed": 6, "surplus": 0, "empty": 3 if self.ragged else 1}[self.slots]

    def __str__(self) -> str:
        lengths = "ragged" if self.ragged else "equal"
        return f"{lengths}-{self.slots}{'-checkpointed' if self.checkpointing else ''}"


def cells_of(training: Training) -> list[Cell]:
    """A training's cells, in this order: the surplus of one is the next one's.

    Over all trainings each kind of slots comes with both kinds of lengths, with and without checkpointing, and each of
    these beside both shardings, dtypes and group sizes. The batches are those of other dtypes and of separate rows.
    """
    few, rounded, large = training.key_heads == 1, training.dtype == "bfloat16", training.group_size == 8
    return [
        Cell(slots, ragged=(number + few) % 2 == 0, checkpointing=(number // 2 + rounded + large) % 2 == 0)
        for number, slots in enumerate(("full", "mixed", "surplus", "empty"))
    ]


def trainings() -> Iterator[Training]:
    """Each group size meets 1 and 4 key heads: fewer than the ranks that share a row, and as many or more."""
    for sharding, dtype, group_size in product(("ddp", "fsdp2"), ("float32", "bfloat16"), (2, 8)):
        few = (group_size == 2) == (sharding == "ddp")
        yield Training(sharding, dtype, group_size, 1 if few else 4)


def job_of(training: Training, processes: int, span: int) -> GRPOJob:
    """Old passes and the measured KL with groups of 2, the KL term with groups of 8."""
    pairs = training.group_size == 2
    return grpo_job(
        launch={
            "num_processes": processes,
            "cpu_threads": 1,
            "gradient_checkpointing": True,
            "sequence_parallel": span,
        },
        model={"name": "tiny", "dtype": training.dtype, "attention": "eager" if training.separate else "auto"},
        phase={
            "max_prompt_tokens": 1024,
            "max_completion_tokens": 12,
            "cache_tokens": 2,
            "steps": len(cells_of(training)),
        },
        group_size=training.group_size,
        batch_size=GROUPS,
        mini_batch_size=GROUPS // training.updates,
        # 16 draws for four slots and 8 for two: multiples of all numbers of processes, so that all draw the same.
        dynamic_sampling={"max_rounds": 1, "oversampling": 4.0},
        max_grad_norm=1e6,
        temperature=0.8,
        scale_rewards="batch" if pairs else "group",
        **({"kl_to_start_every": 1} if pairs else {"kl_coefficient": 0.5}),
    )


def write_inputs(folder: Path) -> None:
    """Prompts of 60 to 130 tokens, and policies with 1 and with 4 key heads, and with experts, and a vocabulary that is
    soon computed."""
    (folder / "data").mkdir()
    examples = [example(i, 1 + i % 5) for i in range(ROWS)]
    write_examples(folder / "data" / "train.parquet", examples, [1] * ROWS)
    tokenizer: Any = bundled_tokenizer()
    texts = [render_prompt(tokenizer, one) for one in examples]
    tokenizer = tokenizer.train_new_from_iterator(texts, vocab_size=VOCABULARY)
    for key_heads in (1, 4):
        torch.manual_seed(key_heads)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=key_heads,
            initializer_range=SHARPNESS,
            tie_word_embeddings=False,
        )
        policy = folder / f"policy-{key_heads}"
        model = Qwen2ForCausalLM(config)
        with torch.no_grad():
            for name, bias in model.named_parameters():
                if name.endswith("bias"):
                    bias.normal_(std=SHARPNESS)
        model.save_pretrained(policy)
        tokenizer.save_pretrained(policy)
    write_expert_policy(folder / "policy-experts", tokenizer, hidden=HIDDEN, heads=HEADS, key_heads=1)
