"""All cells of the grid on gloo processes, in one launch: real trainings, one after the other, each step a cell.

    run_processes("sequence_grid.py", SPAN, INPUTS, WORK, TRAINING..., processes=N, sharded=False)

``TRAINING`` is a training as JSON. Draws are scripted and weights are set before every update, so a cell does not
depend on how the cells before it were rounded. Each process writes :meth:`Watch.found` to ``WORK/TRAINING-RANK.pt``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from fsdp_on_cpu import launch_variables, shard_on_cpu
from sequence_cells import HIDDEN, INTERMEDIATE, VOCABULARY, Cell, Training, cells_of, job_of
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainerCallback

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_policy
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.training import grpo, grpo_metrics
from qwenlong_core.training.dynamic_sampling import PromptStream
from qwenlong_core.training.logprobs import group_pass
from qwenlong_core.training.runtime import enable_checkpointing, training_weights
from qwenlong_core.training.trainer import LongContextGRPOTrainer


class Script:
    """The cell's rollouts: an engine whose completions follow from cell, prompt and seed, and their scorer."""

    cell: Cell
    number: int
    informative: frozenset[str]

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`~qwenlong_core.generation.engine.Engine`."""
        return [self._group(prompt, samples, sampling) for prompt in prompts]

    def _group(self, prompt: Sequence[int], samples: int, sampling: Sampling) -> list[Completion]:
        seed = f"{self.number}/{list(prompt)}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed).digest()[:7], "big"))
        lengths = torch.randint(1, sampling.max_tokens + 1, (samples,), generator=generator).tolist()
        lengths = lengths if self.cell.ragged else [5] * samples
        drawn = [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
        return [
            Completion(text="", token_ids=tuple(ids), finish_reason="stop", logprobs=(-4.0,) * len(ids))
            for ids in drawn
        ]

    async def score(self, examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        """Every second completion of an informative group is right; the penalty tells the others apart."""
        scores = []
        for number, (example, completion) in enumerate(zip(examples, completions)):
            rule = float(example.id in self.informative and number % 2 == 0)
            penalty = -0.1 * (sum(completion.token_ids) % 3)
            scores.append(Score(value=rule + penalty, rule=rule, length_penalty=penalty))
        return scores


class States(TorchDispatchMode):
    """The most tokens whose hidden states, MLP states or logits lie in one tensor, and those of the longest row."""

    def __init__(self, trainer: LongContextGRPOTrainer) -> None:
        super().__init__()
        weights = [tuple(p.shape) for p in trainer.model.parameters()]
        self.weights = {*weights, *(shape[::-1] for shape in weights)}
        self.tokens = self.longest = 0
        run = trainer.logprobs._run

        def noting(model: Any, packed: Any, *names: str) -> Any:
            self.longest = max(self.longest, packed.layout.tokens)
            return run(model, packed, *names)

        trainer.logprobs._run = noting  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation, those of the backward too."""
        result = func(*args, **(kwargs or {}))
        self.tokens = max([self.tokens, *(x.numel() // x.size(-1) for x in tree_leaves(result) if self._holds(x))])
        return result

    def _holds(self, x: Any) -> bool:
        """Whether it has a row of states or logits for each token."""
        wide = isinstance(x, Tensor) and x.dim() > 1 and x.size(-1) in (HIDDEN, INTERMEDIATE, VOCABULARY)
        return wide and tuple(x.shape) not in self.weights


class Watch(TrainerCallback):
    """Sets up each cell, and keeps what it gave."""

    def __init__(self, trainer: LongContextGRPOTrainer, training: Training, script: Script, policy: Path) -> None:
        self.trainer, self.training, self.script = trainer, training, script
        self.start = dict(load_policy(policy, training_weights(trainer.job.model)).named_parameters())
        self.gradients: list[dict[str, Tensor]] = []
        """Of each update, whole; empty if nothing was learned from. On the main process only."""
        self.passes: list[dict[str, dict[str, Tensor]]] = []
        """Of each cell: by example, this process's log-probs of its tokens, and its advantages."""
        self.rows: list[dict[str, Any]] = []
        """Of each cell: its line of ``metrics.jsonl``."""
        self.states = States(trainer)

    def found(self) -> dict[str, Any]:
        """What this process saw."""
        seen = {"gradients": self.gradients, "passes": self.passes, "rows": self.rows}
        return seen | {"tokens": self.states.tokens, "longest": self.states.longest}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before each update."""
        if state.global_step % self.training.updates == 0:
            self._next_cell(state.global_step // self.training.updates)
        set_weights(self.trainer.model, self.start, seed=state.global_step)
        if self.training.counted:
            self.states.__enter__()

    def _next_cell(self, number: int) -> None:
        script, batches = self.script, self.trainer.batches
        script.number, script.cell = number, cells_of(self.training)[number]
        batches.stream.position = number % 2 * 16  # so that no draw repeats one of the last cell's surplus
        ahead = PromptStream(batches.stream.rows, batches.stream.seed, batches.stream.position)
        rows = [draw.row for draw in ahead.take(script.cell.informative)]
        script.informative = frozenset(batches.rollouts.prompts.examples[row].id for row in rows)
        if script.cell.checkpointing:
            enable_checkpointing(self.trainer.model, {"use_reentrant": False})
        else:
            self.trainer.model.gradient_checkpointing_disable()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called once the gradient is whole."""
        if self.training.counted:
            self.states.__exit__(None, None, None)
        gradients = {n: whole(p.grad) for n, p in self.trainer.model.named_parameters() if p.grad is not None}
        if self.trainer.accelerator.is_main_process:
            self.gradients.append(gradients)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after each update."""
        if state.global_step % self.training.updates == 0:
            control.should_log = True
            self.passes.append(self._passes())

    def _passes(self) -> dict[str, dict[str, Tensor]]:
        names = {tuple(ids): name for name, ids in self.trainer.batches._prompt_ids.items()}
        parts: list[dict[str, Any]] = self.trainer._buffered_inputs
        rows, size, found = iter(self.trainer.batch.rows), self.training.group_size, {}
        for part in parts:
            group = [next(rows) for _ in range(size)]
            if group[0].in_loss:
                kept = part["completion_mask"].bool()
                found[names[tuple(group[0].prompt_ids)]] = {
                    "advantages": part["advantages"],
                    **{k: part[k][kept] for k in ("old_per_token_logps", "ref_per_token_logps") if k in part},
                }
        return found

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Called after each cell, and once at the end."""
        if "loss" in logs:
            self.rows.append(grpo_metrics.row(logs, state.global_step))


@torch.no_grad()
def set_weights(model: Any, start: dict[str, Tensor], seed: int) -> None:
    """The start's weights, moved as by an update of their own; the same on any number of processes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = start[name] + 0.01 * torch.randn(parameter.shape, generator=generator)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(value)


def whole(gradient: Tensor) -> Tensor:
    """A gradient that may be sharded."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient.clone()


def train(training: Training, span: int, inputs: Path, work: Path) -> Watch:
    """All cells of a training on the processes that run."""
    state, script, policy = PartialState(cpu=True), Script(), inputs / training.policy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "rollout_engine", lambda job, trainer: script)
        # Prompts here are short. The ends that the first-batch check runs uncut must be far shorter, as in production.
        patch.setattr(group_pass, "CHECKED_PROMPT", 12)
        patch.setattr(group_pass, "CHECKED_COMPLETION", 4)
        trainer = grpo.build_trainer(
            job_of(training, state.num_processes, span),
            inputs={"model": policy, "data": inputs / "data"},
            work=work,
            scorer=script.score,
            processes=state.num_processes,
            rank=state.process_index,
        )
        assert trainer.logprobs.shares_prompts != training.separate
        assert trainer.is_fsdp_enabled == (training.sharding == "fsdp2")
        assert trainer.accelerator.mixed_precision == {"float32": "no", "bfloat16": "bf16"}[training.dtype]
        watch = Watch(trainer, training, script, policy)
        trainer.add_callback(watch)
        trainer.train()
    return watch


def set_environment(training: Training, variables: dict[str, str]) -> None:
    """What ``accelerate launch`` would have told the process for this training."""
    for name in variables:
        os.environ.pop(name, None)
    if training.sharding == "fsdp2":
        os.environ |= variables
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if training.dtype == "bfloat16" else "no"


def main(span: int, inputs: Path, work: Path, trainings: list[Training]) -> None:
    shard_on_cpu()
    variables = launch_variables()
    for training in trainings:
        set_environment(training, variables)
        watch = train(training, span, inputs, work)
        torch.save(watch.found(), work / f"{training}-{watch.trainer.accelerator.process_index}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    given = [Training(**json.loads(one)) for one in sys.argv[4:]]
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), given)
