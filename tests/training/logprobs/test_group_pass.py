"""The trainer's shared prompts: the loss and gradients of separate rows, and the check on a run's first group."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_stage import score_parity
from torch import Tensor
from training_jobs import grpo_job

from qwenlong_core.training.grpo import build_trainer
from qwenlong_core.training.logprobs import group_pass
from qwenlong_core.training.logprobs.packing import Layout, Packed, join, pack
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
    prefix, tokens = packed.layout.prefix, packed.layout.tokens
    return replace(packed, layout=Layout.group(prefix, [tokens - prefix]))


def test_a_wrong_mask_stops_the_first_update(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    monkeypatch.setattr(group_pass, "pack", seeing_each_other)
    monkeypatch.setattr(group_pass, "unpack", lambda values, layout: values[0, layout.prefix :].view(4, -1))
    with pytest.raises(RuntimeError, match=r"differ from those of its separate rows.*attention='eager'"):
        loss(trainer, [6, 6, 6, 6])


def seeing_other_questions(rows: list[Packed], shared: int) -> Packed:
    """A wrong layout: the second question sees the first one too."""
    first, second = join(rows, shared).layout.branches
    return replace(join(rows, shared), layout=Layout(shared + first.prefix, (*first.branches, second)))


def test_a_wrong_tree_stops_the_first_update(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(micro_batch_size=2)
    two = {name: value if value.dim() == 0 else torch.cat([value] * 2) for name, value in inputs([6, 6, 6, 6]).items()}
    monkeypatch.setattr(group_pass, "join", seeing_other_questions)
    with pytest.raises(RuntimeError, match="differ from those of its separate rows"):
        trainer.compute_loss(trainer.model, two)


def several(prompts: list[list[int]], lengths: list[int]) -> tuple[Tensor, Tensor, int]:
    """Ids, mask and completion columns of groups of four on these prompts, as TRL pads them; one is an empty slot."""
    generator, longest, columns = torch.Generator().manual_seed(3), max(map(len, prompts)), max(lengths) + 1
    ids, mask = torch.zeros(2, 4 * len(prompts), longest + columns, dtype=torch.long)
    for row, length in enumerate(lengths):
        prompt = torch.tensor(prompts[row // 4])
        used = slice(longest - len(prompt), longest + length)
        ids[row, used] = torch.cat([prompt, torch.randint(5, 1000, (length,), generator=generator)])
        mask[row, used] = 1
    return ids, mask, columns


BOOK = [(i * 37) % 900 + 5 for i in range(150)]
PROMPTS = {
    "one document": [[*BOOK, 7, 8, 9], [*BOOK, 11], [*BOOK, 6, 8, 12, 13]],
    "two, in turn, and an empty slot": [[*BOOK, 7], BOOK[::-1], [0], [*BOOK, 8, 9], [*BOOK[::-1], 6]],
    "a prompt that is another's beginning, and a part of the document": [BOOK, [*BOOK, 4], [*BOOK[:80], 3, 2], BOOK],
    "nothing in common": [[9, 8, 7], [8] * 90, [7] * 70],
}


def keep_output(outputs: list[Tensor], module: Any, inputs: Any, output: Tensor) -> None:
    outputs.append(output)


@pytest.mark.parametrize("case", PROMPTS)
def test_groups_of_a_forward_share_what_their_prompts_share(case: str, make: Any) -> None:
    """Log-probs, entropies and gradients are those of separate rows, and the model runs once, on shared tokens once."""
    prompts = PROMPTS[case]
    lengths = [1 if len(prompts[i // 4]) == 1 else (5, 9, 1, 7)[(i + i // 4) % 4] for i in range(4 * len(prompts))]
    ids, mask, columns = several(prompts, lengths)
    found = []
    for attention in ("sdpa", "eager"):
        trainer = make(model={"name": "tiny", "attention": attention})
        trainer.logprobs.checked = True
        embedded: list[Tensor] = []
        trainer.model.model.embed_tokens.register_forward_hook(partial(keep_output, embedded))
        logps, entropies, _ = trainer.logprobs(trainer.model, ids, mask, columns, compute_entropy=True)
        weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1)) * mask[:, -columns:]
        (logps * weights).sum().backward()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
        found.append((logps * mask[:, -columns:], entropies * mask[:, -columns:], gradients, embedded))
    (ours, our_entropies, our_gradients, run), (plain, plain_entropies, plain_gradients, _) = found
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(our_entropies.detach(), plain_entropies, atol=1e-5, rtol=1e-6)
    for name, gradient in plain_gradients.items():
        assert float((our_gradients[name] - gradient).norm()) <= 2e-6 * float(gradient.norm()), name
    beginnings = {tuple(p[: i + 1]) for p in prompts for i in range(len(p) - 1)}
    assert [states.size(1) for states in run] == [len(beginnings) + sum(lengths)]


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
