"""Linear layers by oneDNN against PyTorch's own: values, gradients, and the cases left to PyTorch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong_core.generation.packed_weights import PackedWeight, pack_weights
from qwenlong_core.training.logprobs.fast_linear import FastLinear, use_fast_linear

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="PyTorch without oneDNN")


def gradients(model: nn.Module, rows: Tensor, checkpointed: bool = False) -> list[Tensor]:
    """The output, and the gradients of the rows and of every parameter."""
    rows = rows.clone().requires_grad_()
    output = checkpoint(model, rows, use_reentrant=False) if checkpointed else model(rows)
    upstream = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output, *torch.autograd.grad((output * upstream).sum(), [rows, *model.parameters()])]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), max_size=3),
    width=st.integers(1, 70),
    out=st.integers(1, 70),
    bias=st.booleans(),
)
def test_values_and_gradients_equal_pytorch(shape: list[int], width: int, out: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(width, out, bias=bias)
    fast = copy.deepcopy(plain)
    use_fast_linear(fast)
    assert type(fast) is FastLinear
    rows = torch.randn(*shape, width)
    for ours, theirs in zip(gradients(fast, rows), gradients(plain, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.detach().abs().max()))


def test_a_checkpointed_layer_runs_again_in_the_backward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    rows = torch.randn(2, 5, 16)
    expected = gradients(model, rows)
    use_fast_linear(model)
    for ours, theirs in zip(gradients(model, rows, checkpointed=True), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_names_and_frozen_weights_stay_and_autocast_is_pytorchs() -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    names = list(model.state_dict())
    use_fast_linear(model)
    assert list(model.state_dict()) == names
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.requires_grad_(False)
    rows = torch.randn(3, 16, requires_grad=True)
    layer(rows).sum().backward()
    assert rows.grad is not None
    assert layer.weight.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(rows).dtype == torch.bfloat16


def test_sampling_from_a_model_in_training_still_packs_its_weights() -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=2,
        initializer_range=0.5,
    )
    plain = LlamaForCausalLM(config).eval()
    fast = copy.deepcopy(plain)
    use_fast_linear(fast)
    weights = pack_weights(fast, 1)
    assert weights.keys() == pack_weights(plain, 1).keys()
    assert type(weights["model.layers.0.mlp.up_proj.weight"]) is PackedWeight
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(functional_call(fast, weights, (ids,)).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)
