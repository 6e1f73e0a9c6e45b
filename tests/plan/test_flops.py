"""FLOPs: by hand, and counted by torch in the trainer's own pass."""

from __future__ import annotations

import pytest
import torch
from plans import little
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from qwenlong_core.plan.flops import Tokens, backward, forward, model_flops, separate_rows, shared_row
from qwenlong_core.plan.models import shape_of
from qwenlong_core.settings.model import ModelSettings


def test_a_shared_row_by_hand():
    # Prompt of 3, completions of 2 and 1: a prefix of 2, then branches of 2 and 1.
    row = shared_row(3, [2, 1])
    assert (row.total, row.labelled) == (5, 3)
    # The prefix sees 1 + 2, the first branch 2 * 2 + (1 + 2), the second 1 * 2 + 1.
    assert row.pairs == 3 + 7 + 3
    assert separate_rows(3, [2, 1]) == Tokens(9, 15 + 10, 3)


def test_a_forward_and_its_backward_by_hand():
    shape, tokens = little(), Tokens(5, 13, 3)
    # A layer: q, o of 4 x 4; k, v of 4 x 2; three of 4 x 8.
    weights = 16 * 2 + 8 * 2 + 32 * 3
    once = forward(shape, tokens)
    assert once.products == 2 * 5 * 2 * weights + 2 * 3 * 40
    assert once.attention == 4 * 13 * 2 * 4
    back = backward(shape, tokens, checkpointing=True)
    assert back.products == 2 * 5 * 2 * (3 * weights - 32) + 3 * 2 * 3 * 40
    assert (back.attention, back.attention_backward) == (once.attention, once.attention * 2.5)
    assert backward(shape, tokens, checkpointing=False).products == 2 * 5 * 2 * 2 * weights + 3 * 2 * 3 * 40
    assert model_flops(shape, tokens) == 3 * once.total
    assert model_flops(shape, tokens, frozen=True) == 2 * once.products + 3 * once.attention


def test_experts_by_hand():
    """A token goes through two of four; checkpointing computes what they return again."""
    shape, tokens = little(experts=4, active=2), Tokens(5, 13, 3)
    # A layer: q, o of 4 x 4; k, v of 4 x 2; a router of 4 x 4; two experts of three 4 x 8.
    weights = 16 * 2 + 8 * 2 + 16 + 2 * 32 * 3
    assert shape.layer_products == weights
    assert forward(shape, tokens).products == 2 * 5 * 2 * weights + 2 * 3 * 40
    assert backward(shape, tokens, checkpointing=True).products == 2 * 5 * 2 * 3 * weights + 3 * 2 * 3 * 40
    assert shape.parameters == 2 * (weights + 2 * 32 * 3 + 2 * 4) + 2 * 40 + 4


def counted(run) -> float:
    """FLOPs of matrix products, as torch counts them; attention is counted apart by name."""
    with FlopCounterMode(display=False) as counter:
        run()
    found = counter.get_flop_counts()["Global"]
    return sum(flops for name, flops in found.items() if "attention" not in str(name))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_torch_counts_the_same_matrix_products(policy, checkpointing, frozen):
    model = AutoModelForCausalLM.from_pretrained(policy, attn_implementation="sdpa").train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if frozen:  # as for LoRA, without the adapter's own products
        model.requires_grad_(False).enable_input_require_grads()
    ids = torch.arange(3, 67)[None]
    shape, tokens = shape_of(ModelSettings(name=str(policy))), Tokens(64, 64 * 65 / 2, 64)

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = states[0] @ model.lm_head.weight.t()
        return logits.logsumexp(-1).sum()

    def forth_and_back() -> None:
        # The project's heads compute their logits again in the backward; a checkpoint does the same.
        states = model.model(ids, use_cache=False).last_hidden_state
        checkpoint(head, states, use_reentrant=False, early_stop=False).backward()

    with torch.no_grad():
        assert counted(lambda: head(model.model(ids).last_hidden_state)) == forward(shape, tokens).products
    both = (
        forward(shape, tokens).products + backward(shape, tokens, checkpointing=checkpointing, frozen=frozen).products
    )
    assert counted(forth_and_back) == both
