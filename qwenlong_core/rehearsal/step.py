"""One step of a rank: the project's trainers, GRPO's on rollouts and SFT's on rows that are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from qwenlong_core.auto import AutoConfig, AutoModelForCausalLM
from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.models import attention_implementation
from qwenlong_core.records import Completion, Example, Group, Score
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.training import sft
from qwenlong_core.training.arguments import batch_layout, grpo_config
from qwenlong_core.training.dynamic_sampling import RolloutBatch
from qwenlong_core.training.grpo import start_weights
from qwenlong_core.training.logprobs.packing import IGNORED
from qwenlong_core.training.metrics import JsonLines
from qwenlong_core.training.rows import StepBatch, rows_of
from qwenlong_core.training.runtime import StepBoundary, quiet
from qwenlong_core.training.trainer import LongContextGRPOTrainer

UPDATES = FORWARDS = 2
"""Optimizer steps, and forwards in each. The second of both is what every later one is: the optimizer has its state,
and gradients are there already."""


def shaped_model(shape: dict[str, Any], layers: int, settings: ModelSettings, device: str) -> Any:
    """A model of a config's shape with undefined weights, as a training loads it with these settings."""
    kind = dict(shape)
    config = AutoConfig.for_model(kind.pop("model_type"), **kind | {"num_hidden_layers": layers})
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    # On the device from the start: a fake tensor does not move in place, as the weights of a module do.
    with no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, settings.dtype), attn_implementation=attention_implementation(settings)
        )
    model.tie_weights()
    return model


def word_tokenizer() -> Any:
    """A tokenizer of two words: the trainer wants to know an end-of-sequence and a padding token."""
    words = Tokenizer(WordLevel({"<eos>": 0, "<pad>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")


class GivenBatches:
    """Takes the place of :class:`.batches.Batches`: groups of equal lengths, with half of the completions right."""

    def __init__(self, job: GRPOJob, groups: int, prompt_tokens: int, completion_tokens: int) -> None:
        self.job, self.groups, self._prompt_tokens = job, groups, prompt_tokens
        self.stream = SimpleNamespace(retired=set())
        known = (0.0,) * completion_tokens if job.grpo.engine.startswith("vllm") else None
        self._completion = Completion(text="", token_ids=(0,) * completion_tokens, finish_reason="stop", logprobs=known)

    def next_batch(self, policy_logprobs: Callable[..., Any]) -> StepBatch:
        """One batch, the same at every call. There is no surplus, so no log-probs are asked for."""
        size = self.job.grpo.group_size
        scores = tuple(Score(value=float(i % 2), rule=float(i % 2)) for i in range(size))
        example = Example(
            id="given", source="given", domain="reading", answer_type="span", context="", question="?", answers=("!",)
        )
        group = Group(example=example, completions=(self._completion,) * size, scores=scores)
        # Each group has a prompt of its own: those of a forward share nothing, which takes the most memory.
        prompts = [[number] * self._prompt_tokens for number in range(self.groups)]
        rows = [row for prompt in prompts for row in rows_of(group, prompt, self.job.grpo.truncated)]
        drawn = RolloutBatch(kept=[group] * self.groups, rounds=1)
        forwards = self.groups // self.job.grpo.micro_batch_size
        return StepBatch(number=1, drawn=drawn, rows=rows, informative_forwards=[True] * forwards)

    def prompt_tokens(self, groups: list[Group]) -> int:
        """As :meth:`.batches.Batches.prompt_tokens`."""
        return self._prompt_tokens * len(groups)

    def state_dict(self) -> dict[str, Any]:
        """No checkpoint is written."""
        return {}


def short_job(job: GRPOJob) -> GRPOJob:
    """The job with one step of :data:`UPDATES` and :data:`FORWARDS`; each forward stays as it is."""
    holders = job.launch.num_processes // job.launch.sequence_parallel
    prompts = FORWARDS * job.grpo.micro_batch_size * holders
    grpo = job.grpo.model_copy(update={"mini_batch_size": prompts, "batch_size": UPDATES * prompts})
    return job.model_copy(update={"grpo": grpo, "phase": job.phase.model_copy(update={"steps": 1})})


def build(job: GRPOJob, model: Any, prompt_tokens: int, completion_tokens: int, work: Path) -> LongContextGRPOTrainer:
    """The trainer of a short job.

    Args:
        job: Of :func:`short_job`.
        model: Of :func:`shaped_model`.
        prompt_tokens: P of every group.
        completion_tokens: C of every completion.
        work: A folder for what the trainer writes.
    """
    layout = batch_layout(job, job.launch.num_processes)
    groups = layout.forwards_per_batch * job.grpo.micro_batch_size
    given: Any = GivenBatches(job, groups, prompt_tokens, completion_tokens)

    def load() -> Any:
        return shaped_model(model.config.to_dict(), model.config.num_hidden_layers, job.model, model.device.type)

    with torch.device(model.device):  # an adapter, too, has to be there from the start
        trainer = LongContextGRPOTrainer(
            job,
            model,
            grpo_config(job, layout, prompt_tokens, work),
            word_tokenizer(),
            start=start_weights(job, model, load),
            batches_of=lambda _: given,
            samples=JsonLines(work / "samples.jsonl"),
        )
    quiet(trainer)
    trainer.add_callback(StepBoundary(layout.updates_per_batch, steps=2, save_steps=10))
    # The check compares values, which fakes do not have. It runs once, without gradient, and takes less than a step.
    trainer.logprobs.checked = True
    return trainer


def short_sft_job(job: SFTJob) -> SFTJob:
    """The job with batches of :data:`FORWARDS`; each forward stays as it is."""
    holders = job.launch.num_processes // job.launch.sequence_parallel
    rows = FORWARDS * job.sft.micro_batch_size * holders
    return job.model_copy(update={"sft": job.sft.model_copy(update={"batch_size": rows})})


def build_sft(job: SFTJob, model: Any, prompt_tokens: int, solution_tokens: int, work: Path) -> Any:
    """The SFT trainer of a short job, with rows for :data:`UPDATES`.

    Args:
        job: Of :func:`short_sft_job`.
        model: Of :func:`shaped_model`.
        prompt_tokens: Of every row.
        solution_tokens: Of every row; they have the loss.
        work: A folder for what the trainer writes.
    """
    ids = [0] * (prompt_tokens + solution_tokens)
    row = {"input_ids": ids, "labels": [IGNORED] * prompt_tokens + ids[prompt_tokens:]}
    with torch.device(model.device):
        trainer = sft.trainer_of(job, model, word_tokenizer(), [row] * (UPDATES * job.sft.batch_size), work)
    trainer.add_callback(StepBoundary(updates=1, steps=UPDATES + 1, save_steps=UPDATES + 1))
    return trainer
