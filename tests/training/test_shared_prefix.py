"""The packed forward against G separate rows: log-probs, and the gradient of every parameter."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qwenlong_core.training import shared_prefix
from qwenlong_core.training.shared_prefix import (
    NAME,
    Layout,
    forward_inputs,
    group_attention,
    obstacle,
    pack,
    unpack,
)

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16)),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=YARN)),
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    kind, config = MODELS[name]
    model = kind(deepcopy(config))
    for parameter in model.parameters():  # away from the symmetric start, biases included
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def group(prompt: int, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(prompt * 31 + sum(lengths))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(97, (prompt,), generator=generator)
    completions = torch.randint(97, (len(lengths), max(lengths)), generator=generator) * mask
    return ids, completions, mask


def plain_logprobs(
    model: Any, prompt: torch.Tensor, completions: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    rows = []
    for completion, keep in zip(completions, mask):
        tokens = completion[keep.bool()]
        logits = model(input_ids=torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(logp, (0, len(completion) - len(tokens))))
    return torch.stack(rows)


def packed_logprobs(
    model: Any, prompt: torch.Tensor, completions: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    packed = pack(prompt, completions, mask)
    logits = model(**forward_inputs(packed), use_cache=False).logits
    logp = logits.log_softmax(-1).gather(-1, packed.labels.clamp(min=0)[..., None])[..., 0]
    return unpack(logp, packed.layout) * mask


def compare(name: str, prompt: int, lengths: list[int], checkpointing: bool = False) -> None:
    ids, completions, mask = group(prompt, lengths)
    plain, shared = build(name), build(name)
    shared.set_attn_implementation(NAME)
    if checkpointing:
        shared.gradient_checkpointing_enable()
        shared.train()
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    expected = plain_logprobs(plain, ids, completions, mask)
    actual = packed_logprobs(shared, ids, completions, mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    for (parameter, p), q in zip(plain.named_parameters(), shared.parameters()):
        scale = max(float(p.grad.abs().max()), 1e-3)
        assert float((p.grad - q.grad).abs().max()) < 1e-5 * max(scale, 1), parameter


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_ragged_group_equals_separate_rows(name: str, checkpointing: bool) -> None:
    compare(name, prompt=37, lengths=[5, 9, 1, 7], checkpointing=checkpointing)


@settings(max_examples=15, deadline=None)
@given(prompt=st.integers(2, 80), lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_any_shape_equals_separate_rows(prompt: int, lengths: list[int]) -> None:
    compare("qwen2", prompt, lengths)


def test_without_a_layout_the_model_is_as_before() -> None:
    ids = torch.randint(97, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    plain, shared = build("llama"), build("llama")
    shared.set_attn_implementation(NAME)
    a = plain(input_ids=ids, attention_mask=mask).logits
    b = shared(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(a, b)


def test_a_branch_does_not_see_another() -> None:
    """Changing branch b leaves branch a to the bit."""
    model = build("llama")
    model.set_attn_implementation(NAME)
    prompt, completions, mask = group(10, [6, 6])
    other = completions.clone()
    other[1] = (other[1] + 1) % 97
    a, b = (packed_logprobs(model, prompt, c, mask) for c in (completions, other))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
def test_both_kernels_agree(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = Layout(prefix=23, branches=3, length=5)
    tokens = layout.prefix + layout.branches * layout.length
    states = [
        torch.randn(1, n, tokens, 8, generator=generator, requires_grad=True)
        for n in (heads[0], heads[1], heads[1])
    ]
    upstream = torch.randn(1, heads[0], tokens, 8, generator=generator)
    merged = group_attention(*states, layout, 0.3)
    gradients = torch.autograd.grad((merged * upstream).sum(), states)
    monkeypatch.setattr(shared_prefix._MergedAttention, "apply", shared_prefix._by_concatenation)
    joined = group_attention(*states, layout, 0.3)
    torch.testing.assert_close(merged, joined, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad((joined * upstream).sum(), states)):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_models_that_cannot_share_say_why() -> None:
    assert obstacle(build("qwen3").config) is None
    sliding = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    sliding._attn_implementation = "sdpa"
    assert "sliding_attention" in str(obstacle(sliding))
    eager = LlamaConfig(**SIZES)
    eager._attn_implementation = "eager"
    assert "eager" in str(obstacle(eager))
