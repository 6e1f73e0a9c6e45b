"""The SFT loss: the mean over answer tokens or over rows, whatever the forwards are; and weight decay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_jobs import example, sft_job

from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.training.sft import build_trainer, tokenized
from qwenlong_core.training.sft_packing import row_weights

SHORT, LONG = "Therefore, the answer is 3.", "Store 1 sold four. " * 12 + "Therefore, the answer is 4."
FORWARDS = {"one forward": (2, False), "accumulated": (1, False), "packed": (2, True)}
"""Rows per forward and packing of a step of two rows."""


def two_rows(policy: Path) -> list[dict[str, list[int]]]:
    rows = [replace(example(0), solution=SHORT), replace(example(1), solution=LONG)]
    return tokenized(load_tokenizer(policy), rows, 256)


def step(policy: Path, work: Path, forwards: str, **sft: Any) -> tuple[Any, float]:
    """The trainer after the backward of one optimizer step of two rows, as ``Trainer`` runs it, and its loss."""
    micro, packing = FORWARDS[forwards]
    job = sft_job(batch_size=2, micro_batch_size=micro, packing=packing, **sft)
    trainer = build_trainer(job, policy, load_tokenizer(policy), two_rows(policy), work)
    trainer.model.train()
    accumulated = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = accumulated
    loader = iter(trainer.get_train_dataloader())
    batches, tokens = trainer.get_batch_samples(loader, accumulated, torch.device("cpu"))
    assert len(batches) == (2 if forwards == "accumulated" else 1)
    return trainer, sum(float(trainer.training_step(trainer.model, batch, tokens)) for batch in batches)


def reference(policy: Path, loss: str) -> tuple[torch.Tensor, torch.nn.Module]:
    """The loss by hand, from a plain forward a row, with its gradient in the model."""
    model = load_policy(policy, sft_job().model)
    sums, counts = [], []
    for row in two_rows(policy):
        labels = torch.tensor(row["labels"])[1:]
        logp = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
        known = labels != -100
        sums.append(-logp[known].gather(-1, labels[known, None]).sum())
        counts.append(int(known.sum()))
    assert counts[1] > 5 * counts[0]
    by_tokens, by_rows = sum(sums) / sum(counts), (sums[0] / counts[0] + sums[1] / counts[1]) / 2
    wanted = by_rows if loss == "rows" else by_tokens
    wanted.backward()
    return wanted.detach(), model


@pytest.mark.parametrize("forwards", FORWARDS)
@pytest.mark.parametrize("loss", ["rows", "tokens"])
def test_loss_and_gradient_are_those_computed_by_hand(loss: str, forwards: str, policy: Path, tmp_path: Path) -> None:
    wanted, model = reference(policy, loss)
    trainer, found = step(policy, tmp_path, forwards, loss=loss)
    assert found == pytest.approx(float(wanted), abs=1e-5)
    ours = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_weights_of_rows_by_hand() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 0]]).bool()
    apart = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    assert row_weights(mask, apart).tolist() == [[0, 0.5, 0.5, 0, 1, 0]]
    assert row_weights(mask, None)[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0, 1 / 3, 0])
    assert row_weights(torch.zeros(2, 3).bool(), None).sum() == 0


def test_weight_decay_shrinks_the_weights_by_its_share_of_the_learning_rate(policy: Path, tmp_path: Path) -> None:
    """AdamW: apart from the gradient's step, ``w <- w - learning_rate * weight_decay * w``; norms are left alone."""
    ends = []
    for decay in (0.0, 0.5):
        job = sft_job(batch_size=2, micro_batch_size=2, weight_decay=decay, learning_rate=1e-2)
        trainer = build_trainer(job, policy, load_tokenizer(policy), two_rows(policy), tmp_path / str(decay))
        trainer.train()
        ends.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    for name, start in load_policy(policy, sft_job().model).named_parameters():
        shrunk = 0.0 if "norm" in name else 1e-2 * 0.5
        torch.testing.assert_close(ends[1][name], ends[0][name] - shrunk * start, atol=1e-6, rtol=1e-4, msg=name)
