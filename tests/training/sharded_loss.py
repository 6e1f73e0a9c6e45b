"""One forward and backward of the trainer's loss over two processes, under DDP or FSDP2, on a CPU.

Run by ``test_shared_prefix_processes.py``: ``torchrun sharded_loss.py MODE MODEL DATA WORK``. Each process has a
group of its own; the main one writes every parameter's whole gradient to ``WORK/gradients.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from parity_stage import score_parity
from safetensors.torch import save_file
from spread_batch import spread_over
from torch import Tensor
from training_jobs import grpo_job

from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.runtime import enable_checkpointing
from qwenlong_core.training.trainer import INFORMATIVE

GROUPS = ((11, 23, [5, 9, 1, 7]), (12, 40, [3, 3, 8, 2]))
"""Seed, prompt tokens and completion tokens of each process's group."""


def group(process: int) -> dict[str, Tensor]:
    """A ragged group as TRL's loss takes it; the denominator counts the tokens of both."""
    seed, prompt, lengths = GROUPS[process]
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {
        "prompt_ids": torch.randint(5, 1000, (prompt,), generator=generator).expand(4, -1),
        "prompt_mask": torch.ones(4, prompt, dtype=torch.long),
        "completion_ids": torch.randint(5, 1000, mask.shape, generator=generator) * mask,
        "completion_mask": mask,
        "advantages": torch.tensor([1.5, -0.5, -0.5, -0.5]),
        INFORMATIVE: torch.ones(4, dtype=torch.bool),
        "num_items_in_batch": torch.tensor(sum(sum(lengths) for _, _, lengths in GROUPS)),
    }


def main(mode: str, policy: Path, data: Path, work: Path) -> None:
    job = grpo_job(launch={"num_processes": 2, "cpu_threads": 1})
    trainer = build_trainer(
        job, inputs={"model": policy, "data": data}, work=work, scorer=score_parity, processes=2, rank=0
    )
    assert trainer.logprobs.shares_prompts
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    enable_checkpointing(trainer.model, {"use_reentrant": False})
    trainer.model.train()
    model = spread_over(trainer.model, mode, 2)
    loss = trainer.compute_loss(model, group(trainer.accelerator.process_index))
    assert trainer.logprobs.checked
    loss.backward()
    gradients = {}
    for name, parameter in trainer.model.named_parameters():
        whole = parameter.grad.full_tensor() if mode == "sharded" else parameter.grad
        gradients[name] = whole.contiguous()
    if trainer.accelerator.is_main_process:
        save_file(gradients, work / "gradients.safetensors")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
