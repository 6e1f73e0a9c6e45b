"""The trainer's shared prompts: the loss and gradients of separate rows, and the check on a run's first group."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_stage import score_parity
from torch import Tensor
from training_jobs import grpo_job

from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.logprobs import group_pass
from qwenlong_core.training.logprobs.packing import Layout, Packed, pack
from qwenlong_core.training.trainer import INFORMATIVE


def inputs(lengths: list[int], prompt: int = 30, real: bool = True) -> dict[str, Tensor]:
    """A ragged group, its prompt padded on the left as TRL pads it; or an empty slot."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(max(lengths) + 2) < torch.tensor(lengths)[:, None]).long()
    prompt_mask = torch.ones(len(lengths), prompt, dtype=torch.long)
    prompt_mask[:, : 3 if real else -1] = 0
    return {
        "prompt_ids": torch.randint(5, 1000, (prompt,), generator=generator).expand(len(lengths), -1) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(5, 1000, mask.shape, generator=generator) * mask,
        "completion_mask": mask,
        "advantages": torch.tensor([1.5, -0.5, -0.5, -0.5]),
        INFORMATIVE: torch.full((len(lengths),), real),
        "num_items_in_batch": mask.sum(),
    }


def loss(trainer: Any, lengths: list[int], real: bool = True) -> Tensor:
    result: Tensor = trainer.compute_loss(trainer.model, inputs(lengths, real=real))
    return result


@pytest.fixture
def make(policy: Path, data: Path, tmp_path: Path) -> Any:
    def build(**changes: Any) -> Any:
        trainer = build_trainer(
            grpo_job(**changes),
            inputs={"model": policy, "data": data},
            work=tmp_path,
            scorer=score_parity,
            processes=1,
            rank=0,
        )
        trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
        trainer.model.train()
        return trainer

    return build


def test_loss_and_gradients_are_those_of_separate_rows(make: Any) -> None:
    shared, separate = make(), make(model={"name": "tiny", "attention": "eager"})
    assert (shared.logprobs.shares_prompts, separate.logprobs.shares_prompts) == (True, False)
    losses = [loss(trainer, [5, 9, 1, 7]) for trainer in (shared, separate)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-5)
    for value in losses:
        value.backward()
    for (name, ours), theirs in zip(shared.model.named_parameters(), separate.model.parameters()):
        assert float((ours.grad - theirs.grad).norm()) <= 1e-5 * float(theirs.grad.norm()), name


def seeing_each_other(prompt: Tensor, completions: Tensor, mask: Tensor) -> Packed:
    """A wrong layout: one branch of all completions."""
    packed = pack(prompt, completions, mask)
    layout = packed.layout
    return Packed(packed.input_ids, packed.position_ids, packed.labels, Layout(layout.prefix, (sum(layout.lengths),)))


def test_a_wrong_mask_stops_the_first_update(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    monkeypatch.setattr(group_pass, "pack", seeing_each_other)
    monkeypatch.setattr(group_pass, "unpack", lambda values, layout: values[0, layout.prefix :].view(4, -1))
    with pytest.raises(RuntimeError, match=r"differ from those of its separate rows.*attention='eager'"):
        loss(trainer, [6, 6, 6, 6])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_group_is_checked_once(dtype: str, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not before there is one: an empty slot has no prompt to share."""
    trainer = make(model={"name": "tiny", "dtype": dtype})
    caplog.set_level(logging.INFO)
    loss(trainer, [1, 1, 1, 1], real=False)
    assert "checked on the first group" not in caplog.text
    loss(trainer, [5, 9, 1, 7])
    loss(trainer, [5, 9, 1, 7])
    assert caplog.text.count("checked on the first group") == 1
