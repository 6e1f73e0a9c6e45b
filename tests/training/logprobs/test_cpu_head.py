"""The compact head against log_softmax, forward and backward, and in both of TRL's calls."""

from __future__ import annotations

import pytest
import torch
from training_jobs import Largest
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from qwenlong_core.training.logprobs import cpu_head
from qwenlong_core.training.logprobs.cpu_head import label_log_probs, use_compact_head


def reference(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logp = ((hidden @ weight.T + bias) / temperature).log_softmax(-1)
    mask = labels != -100
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return picked * mask, -(logp.exp() * logp).sum(-1) * mask


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("labelled", [0.0, 0.3, 1.0])
def test_values_and_gradients_equal_log_softmax(
    temperature: float, labelled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    vocabulary = 40_000
    monkeypatch.setattr(cpu_head, "_TILE", 3 * vocabulary)  # several tiles, the last not full
    hidden = torch.randn(2, 7, 16, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, 16, generator=generator, requires_grad=True)
    bias = torch.randn(vocabulary, generator=generator, requires_grad=True)
    labels = torch.randint(vocabulary, (2, 7), generator=generator)
    labels[torch.rand(2, 7, generator=generator) >= labelled] = -100
    upstream = torch.randn(2, 7, generator=generator)
    output = label_log_probs(hidden, weight, bias, labels, temperature)
    expected, entropy = reference(hidden, weight, bias, labels, temperature)
    torch.testing.assert_close(output.log_probs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.entropy, entropy, atol=1e-4, rtol=1e-4)
    ours = torch.autograd.grad((output.log_probs * upstream).sum(), (hidden, weight, bias))
    theirs = torch.autograd.grad((expected * upstream).sum(), (hidden, weight, bias))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(64, 50_000), (256, 50_000), (256, 100_000)])
def test_memory_grows_with_neither_completions_nor_vocabulary(
    tokens: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward create no tensor larger than a tile, with up to 100 times as many logits."""
    monkeypatch.setattr(cpu_head, "_TILE", 2**18)
    hidden, weight = (
        torch.randn(1, tokens, 2, requires_grad=True),
        torch.randn(vocabulary, 2, requires_grad=True),
    )
    with Largest() as largest:
        label_log_probs(hidden, weight, None, torch.arange(tokens)[None], 1.0).log_probs.sum().backward()
    assert 2**17 < largest.numel <= 2**18


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def test_it_stands_in_for_trls_head() -> None:
    ids = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :5] = -100
    stock, ours = llama(), llama()
    for model in (stock, ours):
        add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy", "is_top1"))
    assert use_compact_head(ours, temperature=0.7)
    a = stock(input_ids=ids, labels=labels, fused_lm_head=True)
    b = ours(input_ids=ids, labels=labels, fused_lm_head=True)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-6, rtol=1e-5)
    assert torch.equal(a.is_top1 * a.label_mask, b.is_top1 * b.label_mask)
    a.log_probs.sum().backward()
    b.log_probs.sum().backward()
    for (name, p), q in zip(stock.named_parameters(), ours.parameters()):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_without_the_flag_the_model_is_as_before() -> None:
    model, plain = llama(), llama()
    add_fused_lm_head(model)
    use_compact_head(model)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert torch.equal(
        model.generate(ids, max_new_tokens=3, do_sample=False), plain.generate(ids, max_new_tokens=3, do_sample=False)
    )


def test_a_model_that_caps_its_logits_keeps_trls_head() -> None:
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=30.0,
    )
    assert not use_compact_head(Gemma2ForCausalLM(config))
