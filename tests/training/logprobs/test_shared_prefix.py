"""The packed forward against G separate rows: log-probs, and the gradient of every parameter."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from training_jobs import Largest
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qwenlong_core.training.logprobs.attention import NAME, forward_inputs, group_attention, unsupported_reason
from qwenlong_core.training.logprobs.flex import flex
from qwenlong_core.training.logprobs.merged import MergedAttention, flash, flash_backward, has_flash_kernel
from qwenlong_core.training.logprobs.packing import Layout, pack, unpack

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
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


def plain_logprobs(model: Any, prompt: torch.Tensor, completions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = []
    for completion, keep in zip(completions, mask):
        tokens = completion[keep.bool()]
        logits = model(input_ids=torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(logp, (0, len(completion) - len(tokens))))
    return torch.stack(rows)


def packed_logprobs(model: Any, prompt: torch.Tensor, completions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    packed = pack(prompt, completions, mask)
    logits = model(**forward_inputs(packed), use_cache=False).logits
    logp = logits.log_softmax(-1).gather(-1, packed.labels.clamp(min=0)[..., None])[..., 0]
    return unpack(logp, packed.layout)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same_gradients(ours: Any, plain: Any, tolerance: float, least: float) -> None:
    """Relative to the norm of each gradient, or to ``least`` times the norm of all if that is larger."""
    total = float(torch.nn.utils.get_total_norm(list(gradients(plain).values())))
    for (name, expected), actual in zip(gradients(plain).items(), gradients(ours).values()):
        apart, scale = float((actual - expected).norm()), max(float(expected.norm()), least * total)
        assert apart <= tolerance * scale, (name, apart / scale)


def compare(name: str, prompt: int, lengths: list[int], checkpointing: bool, least: float = 0.0) -> None:
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
    assert_same_gradients(shared, plain, 1e-5, least)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_ragged_group_equals_separate_rows(name: str, checkpointing: bool) -> None:
    compare(name, prompt=37, lengths=[5, 9, 1, 1, 7], checkpointing=checkpointing)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    prompt=st.integers(2, 80),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    checkpointing=st.booleans(),
)
def test_any_shape_equals_separate_rows(name: str, prompt: int, lengths: list[int], checkpointing: bool) -> None:
    """In some small shapes a token attends to one alike and the query's gradient is 0, but for rounding."""
    compare(name, prompt, lengths, checkpointing, least=1e-2)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_bfloat16_is_as_near_to_float32_as_plain_rows_are(name: str) -> None:
    ids, completions, mask = group(120, [17, 40, 33, 40])
    runs = {}
    for run, score, bfloat16 in [
        ("exact", plain_logprobs, False),
        ("plain", plain_logprobs, True),
        ("packed", packed_logprobs, True),
    ]:
        model = build(name)
        model.set_attn_implementation(NAME)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logps = score(model, ids, completions, mask).float() * mask
        logps.sum().backward()
        runs[run] = logps.detach(), torch.cat([g.flatten() for g in gradients(model).values()])
    for exact, plain, packed in zip(runs["exact"], runs["plain"], runs["packed"]):
        noise = float((plain - exact).norm())
        assert 0 < float((packed - exact).norm()) < 1.5 * noise
        assert float((packed - plain).norm()) < 2 * noise


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
    """Changing branch b leaves branch a the same to the bit."""
    model = build("llama")
    model.set_attn_implementation(NAME)
    prompt, completions, mask = group(10, [6, 6])
    other = completions.clone()
    other[1] = (other[1] + 1) % 97
    a, b = (packed_logprobs(model, prompt, c, mask) for c in (completions, other))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])


def attention_inputs(heads: tuple[int, int], layout: Layout, width: int = 8) -> list[torch.Tensor]:
    generator, counts = torch.Generator().manual_seed(0), (heads[0], heads[1], heads[1])
    return [torch.randn(1, n, layout.tokens, width, generator=generator, requires_grad=True) for n in counts]


def grads(output: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return torch.autograd.grad((output * upstream).sum(), inputs)


def by_mask(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """The reference: attention over every pair of tokens, with a mask set token by token."""

    def addresses(part: Layout, above: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
        """For each token, the branches that lead to its part."""
        below = [address for i, branch in enumerate(part.branches) for address in addresses(branch, (*above, i))]
        return [above] * part.prefix + below

    where = addresses(layout)
    tokens = range(len(where))
    sees = [[k <= q and where[q][: len(where[k])] == where[k] for k in tokens] for q in tokens]
    return scaled_dot_product_attention(query, key, value, torch.tensor(sees), scale=scale, enable_gqa=True)


BOOK = Layout(1, (Layout.group(9, (4, 4)), Layout(0, (Layout.group(4, (4, 7)), Layout(4))), Layout.group(0, (3, 0, 1))))
"""Several levels, with prefixes of no tokens, a branch of none, and neighbours of equal length that are no siblings."""


def trees() -> st.SearchStrategy[Layout]:
    """Up to three levels of branches below a prefix."""
    sizes = st.integers(0, 15)
    below = st.builds(Layout, sizes)
    for _ in range(3):
        below = st.builds(Layout, sizes, st.lists(below, max_size=4).map(tuple))
    return below.filter(lambda layout: layout.branches and layout.tokens)


@settings(max_examples=40, deadline=None)
@given(heads=st.sampled_from([(4, 4), (6, 2), (4, 1)]), layout=trees())
@example(heads=(6, 2), layout=Layout.group(1100, (70, 70, 0, 3)))  # several of the kernel's blocks of queries and keys
@example(heads=(4, 1), layout=BOOK)
@example(heads=(6, 2), layout=Layout(300, (Layout.group(80, (70, 70)), Layout.group(7, (70, 3)))))
def test_merged_flash_calls_equal_one_masked_call(heads: tuple[int, int], layout: Layout) -> None:
    """In double precision, where only a mistake makes a difference; also the gradients."""
    states = [x.detach().double().requires_grad_() for x in attention_inputs(heads, layout)]
    merged, masked = (attend(*states, layout, 0.3) for attend in (group_attention, by_mask))
    torch.testing.assert_close(merged, masked, atol=1e-12, rtol=1e-12)
    for ours, theirs in zip(grads(merged, states), grads(masked, states)):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("layout", [Layout.group(140, (5, 130, 2, 7)), BOOK], ids=["group", "tree"])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_flex_attention_equals_one_masked_call(heads: tuple[int, int], layout: Layout) -> None:
    """Only the forward: flex attention has no backward on a CPU."""
    states = [x.detach() for x in attention_inputs(heads, layout, width=16)]
    torch.testing.assert_close(flex(*states, layout, 0.3), by_mask(*states, layout, 0.3), atol=1e-5, rtol=1e-5)


def test_any_share_of_the_heads_can_be_given() -> None:
    """As in Ulysses sequence parallelism, where every rank computes its heads over the whole row."""
    layout = Layout.group(11, (4, 6))
    query, key, value = attention_inputs((6, 2), layout)
    whole = group_attention(query, key, value, layout, 0.3)
    ranks = [
        group_attention(query[:, 3 * r : 3 * r + 3], key[:, r : r + 1], value[:, r : r + 1], layout, 0.3)
        for r in (0, 1)
    ]
    torch.testing.assert_close(torch.cat(ranks, dim=1), whole, atol=1e-6, rtol=1e-6)


def test_the_prefix_is_copied_for_no_branch() -> None:
    """No tensor is as large as the keys of all branches, each with its own copy of the prefix."""
    layout = Layout.group(200, (10,) * 8)
    states = attention_inputs((6, 2), layout)
    with Largest() as largest:
        group_attention(*states, layout, 0.3).sum().backward()
    assert largest.numel == states[0].numel() < 8 * 200 * 2 * 8


def test_calls_of_the_cuda_kernel_fit_its_signature() -> None:
    """On the meta device, which has CUDA's flash attention without the arithmetic."""
    query, key = torch.empty(1, 4, 24, 64, device="meta"), torch.empty(1, 2, 40, 64, device="meta")
    output, lse = flash(query, key, key, False, 0.1)
    assert (output.shape, lse.shape) == (query.shape, query.shape[:3])
    gradients = flash_backward(output, query, key, key, output, lse, causal=False, scale=0.1)
    assert [x.shape for x in gradients] == [query.shape, key.shape, key.shape]


def test_the_merge_fits_the_layouts_of_the_cuda_kernel() -> None:
    """Forward and backward on the meta device, laid out by token, then head, as a model's projections return them."""
    layout = Layout(30, (Layout.group(4, (5, 5, 0)), Layout.group(2, (3, 1))))
    states = [torch.empty(1, 50, n, 64, device="meta").transpose(1, 2).requires_grad_() for n in (4, 2, 2)]
    merged = MergedAttention.apply(*states, layout, 0.1)
    assert merged.shape == states[0].shape
    merged.transpose(1, 2).reshape(1, 50, -1).sum().backward()
    assert [x.grad.shape for x in states] == [x.shape for x in states]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "kernel"), [(torch.bfloat16, True), (torch.float32, False)])
@pytest.mark.parametrize(
    "layout",
    [Layout.group(300, (50, 50, 13, 70)), Layout(300, (Layout.group(30, (50, 50)), Layout.group(9, (13, 70))))],
    ids=["group", "tree"],
)
def test_on_a_gpu_both_kernels_equal_plain_rows(layout: Layout, dtype: torch.dtype, kernel: bool) -> None:
    states = [x.detach().to("cuda", dtype).requires_grad_() for x in attention_inputs((6, 2), layout, 64)]
    assert has_flash_kernel(*states) == kernel
    exact = [x.detach().double().cpu().requires_grad_() for x in states]
    merged, expected = group_attention(*states, layout, 0.125), by_mask(*exact, layout, 0.125)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    pairs = [(merged, expected), *zip(grads(merged, states), grads(expected, exact))]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double().cpu(), theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(MODELS))
def test_on_a_gpu_a_ragged_group_equals_separate_rows(name: str) -> None:
    """Log-probs and gradients in bfloat16, against float32 on the CPU and the noise of plain rows."""
    ids, completions, mask = group(120, [17, 40, 33, 40])
    exact = build(name)
    expected = plain_logprobs(exact, ids, completions, mask)
    expected.sum().backward()
    apart = []
    for score in (plain_logprobs, packed_logprobs):
        model = build(name).cuda()
        model.set_attn_implementation(NAME)
        with torch.autocast("cuda", torch.bfloat16):
            logps = score(model, ids.cuda(), completions.cuda(), mask.cuda()).float()
        logps.sum().backward()
        ours = torch.cat([g.flatten() for g in gradients(model).values()]).cpu()
        plain = torch.cat([g.flatten() for g in gradients(exact).values()])
        apart.append((float((logps.cpu() - expected).norm()), float((ours - plain).norm())))
    assert all(packed < 1.5 * noise for noise, packed in zip(*apart))


def test_models_that_cannot_share_say_why() -> None:
    assert unsupported_reason(build("qwen3")) is None
    flash_attn = build("llama")
    flash_attn.config._attn_implementation = "flash_attention_2"  # as on a machine that has the package
    assert unsupported_reason(flash_attn) is None
    sliding = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    refused = {
        "sliding_attention": Qwen2ForCausalLM(sliding),
        "window": MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
        "eager": LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")),
        "drops": LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)),
        "layers of linear_attention": MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)),
        "cannot be replaced": BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=2)),
    }
    for reason, model in refused.items():
        assert reason in str(unsupported_reason(model))
