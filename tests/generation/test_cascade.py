"""Cascade attention against one masked attention over all tokens, and packed weights against plain ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from generation.tiny_models import LetterTokenizer, greedy_by_generate, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from qwenlong_core.generation.cascade import Shared, cascade_attention, keep_rows
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.kv_cache import growing_cache
from qwenlong_core.generation.packed_weights import pack_weights
from qwenlong_core.generation.transformers_engine import TransformersEngine


def by_one_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    shared: list[tuple[torch.Tensor, torch.Tensor, int, int]],
    scale: float,
) -> torch.Tensor:
    """The definition: the keys of every row in full, with the row's own causal mask."""
    results = []
    for row in range(len(query)):
        mine = [(k[0], v[0]) for k, v, first, stop in shared if first <= row < stop]
        keys = torch.cat([k for k, _ in mine] + [key[row]], dim=1)
        values = torch.cat([v for _, v in mine] + [value[row]], dim=1)
        new = query.size(2)
        mask = torch.ones(new, keys.size(1), dtype=torch.bool).tril(keys.size(1) - new)
        repeats = query.size(1) // key.size(1)
        results.append(
            scaled_dot_product_attention(
                query[row],
                keys.repeat_interleave(repeats, 0),
                values.repeat_interleave(repeats, 0),
                mask,
                scale=scale,
            )
        )
    return torch.stack(results)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    kv_heads=st.integers(1, 3),
    repeats=st.integers(1, 4),
    own=st.integers(1, 40),
    new=st.integers(1, 20),
    spans=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 70)), max_size=4),
    seed=st.integers(0, 2**31),
)
def test_equals_one_masked_attention(
    rows: int, kv_heads: int, repeats: int, own: int, new: int, spans: list[tuple[int, int, int]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 2

    # One new token in every row, or several new tokens of one row.
    rows, length, own = (rows, 1, own) if new == 1 or rows > 1 else (1, new, new)
    query = random(rows, kv_heads * repeats, length, 16)
    key, value = random(rows, kv_heads, own, 16), random(rows, kv_heads, own, 16)
    shared = [
        (
            random(1, kv_heads, p, 16),
            random(1, kv_heads, p, 16),
            min(first, rows - 1),
            min(first % rows + many, rows),
        )
        for first, many, p in spans
    ]
    shared = [part for part in shared if part[2] < part[3]]
    expected = by_one_mask(query, key, value, shared, 0.3)
    torch.testing.assert_close(cascade_attention(query, key, value, shared, 0.3), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [1, 33])
def test_equals_one_masked_attention_on_a_gpu(length: int) -> None:
    rows = 4 if length == 1 else 1
    shapes = [(rows, 6, length, 64), (rows, 2, max(length, 20), 64), (rows, 2, max(length, 20), 64)]
    query, key, value = (torch.randn(shape, device="cuda") for shape in shapes)
    if length > 1:
        key, value = key[:, :, :length], value[:, :, :length]
    shared = [(*torch.randn(2, 1, 2, 500, 64, device="cuda").unbind(0), 0, rows)]
    expected = by_one_mask(
        query.cpu(), key.cpu(), value.cpu(), [(k.cpu(), v.cpu(), a, b) for k, v, a, b in shared], 0.125
    )
    found = cascade_attention(query, key, value, shared, 0.125).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("rows", "length"), [(3, 1), (1, 7)])
def test_calls_of_the_cuda_kernel_fit_its_signature_and_layout(rows: int, length: int) -> None:
    """On the meta device, whose attention lays out its output like CUDA's: by token, then head."""
    query = torch.empty(rows, 4, length, 64, device="meta")
    own = torch.empty(rows, 2, 7, 64, device="meta")
    part = torch.empty(1, 2, 70, 64, device="meta")
    assert cascade_attention(query, own, own, [(part, part, 0, rows)], 0.1).shape == query.shape


def test_rows_that_leave_narrow_the_parts() -> None:
    caches = [growing_cache(1) for _ in range(3)]
    shared = [Shared(caches[0], 0, 6), Shared(caches[1], 0, 2), Shared(caches[2], 2, 6)]
    kept = keep_rows(shared, [3, 5])
    assert [(part.cache, part.first, part.stop) for part in kept] == [(caches[0], 0, 2), (caches[2], 0, 2)]


def test_a_model_that_caps_its_scores_is_served_by_copies_and_the_log_says_so(caplog: Any) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        layer_types=["full_attention"] * 2,
        attn_logit_softcapping=0.5,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(2000)
            layer.self_attn.v_proj.weight.mul_(50)
    prompts = [[5, 6, 7, 8, 9], [11, 12]]
    with caplog.at_level(logging.WARNING, logger="qwenlong_core"):
        groups = TransformersEngine(model, LetterTokenizer(), 2).generate(prompts, 2, Sampling(0.0, 1.0, 20))
    assert "copied for every row" in caplog.text
    for prompt, group in zip(prompts, groups):
        assert [list(c.token_ids) for c in group] == [greedy_by_generate(model, prompt, 20)] * 2


def test_a_model_with_a_sliding_window_is_refused() -> None:
    config = MistralConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    with pytest.raises(ValueError, match=r"full-attention models only.*vLLM"):
        TransformersEngine(MistralForCausalLM(config), LetterTokenizer())


@pytest.mark.parametrize("rows", [1, 2, 8, 33])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_weights_compute_the_same_and_leave_the_model_as_it_is(kind: str, rows: int) -> None:
    model = tiny_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = pack_weights(model, 8)
    assert len(weights) == 2 * 7 + 1
    ids = torch.randint(32, (rows, 3))
    with torch.no_grad():
        packed = functional_call(model, weights, (), {"input_ids": ids}).logits
        plain = model(input_ids=ids).logits
    torch.testing.assert_close(packed, plain, atol=2e-4, rtol=1e-4)
    assert type(packed) is torch.Tensor
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert type(model.lm_head.weight) is torch.nn.Parameter


def test_weights_follow_the_model() -> None:
    """A trainer changes the weights between two calls; the second call must use the new ones."""
    model = tiny_model()
    engine = TransformersEngine(model, LetterTokenizer())
    engine.generate([[5, 6, 7]], 1, Sampling(0.0, 1.0, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    completion = engine.generate([[5, 6, 7]], 1, Sampling(0.0, 1.0, 8))[0][0]
    assert list(completion.token_ids) == greedy_by_generate(model, [5, 6, 7], 8)


def test_half_precision_is_not_packed() -> None:
    assert pack_weights(tiny_model().to(torch.bfloat16), 8) == {}
