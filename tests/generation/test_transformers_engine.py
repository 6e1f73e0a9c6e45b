"""The engine against transformers' own generate, a plain forward, and the distribution it should follow."""

from __future__ import annotations

import pytest
import torch
from generation.tiny_models import LetterTokenizer, greedy_by_generate, logprobs_by_forward
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.sampling import draw
from qwenlong_core.generation.transformers_engine import TransformersEngine

PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [3, 4, 5, 6, 7, 8, 9, 10, 11]]


def small_model(vocab: int = 32, sharp: float = 20.0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data *= sharp
    return model


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_equals_transformers_generate(batch_size: int) -> None:
    model = small_model()
    groups = TransformersEngine(model, LetterTokenizer(), batch_size).generate(PROMPTS, 2, Sampling(0.0, 1.0, 150))
    for prompt, group in zip(PROMPTS, groups):
        assert [list(c.token_ids) for c in group] == [greedy_by_generate(model, prompt, 150)] * 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_logprobs_equal_a_plain_forward(batch_size: int) -> None:
    model = small_model()
    engine = TransformersEngine(model, LetterTokenizer(), batch_size)
    groups = engine.generate(PROMPTS, 4, Sampling(0.7, 1.0, 140, seed=3))
    lengths = {len(c.token_ids) for group in groups for c in group}
    assert len(lengths) > 1, "rows must leave the batch at different times for this test to mean anything"
    for prompt, group in zip(PROMPTS, groups):
        for completion in group:
            expected = logprobs_by_forward(model, prompt, completion.token_ids, 0.7)
            torch.testing.assert_close(
                torch.tensor(completion.logprobs, dtype=torch.float64), expected, atol=2e-5, rtol=1e-4
            )


def test_a_seed_fixes_a_prompts_completions_whatever_stands_beside_it() -> None:
    engine = TransformersEngine(small_model(), LetterTokenizer(), batch_size=3)
    sampling = Sampling(1.0, 0.9, 12, seed=5)
    together = engine.generate(PROMPTS, 3, sampling)
    alone = [engine.generate([prompt], 3, sampling)[0] for prompt in PROMPTS]
    ids = [[c.token_ids for c in group] for group in together]
    assert ids == [[c.token_ids for c in group] for group in alone]
    assert len({c.token_ids for c in together[0]}) > 1
    other = engine.generate(PROMPTS, 3, Sampling(1.0, 0.9, 12, seed=6))
    assert ids != [[c.token_ids for c in group] for group in other]


def test_a_repeated_prompt_gets_draws_of_its_own() -> None:
    engine = TransformersEngine(small_model(sharp=1.0), LetterTokenizer())
    first, second = engine.generate([PROMPTS[0], PROMPTS[0]], 2, Sampling(1.0, 1.0, 20, seed=1))
    assert [c.token_ids for c in first] != [c.token_ids for c in second]


def test_finish_reasons_and_text() -> None:
    engine = TransformersEngine(small_model(), LetterTokenizer())
    completions = engine.generate([PROMPTS[1]], 16, Sampling(1.5, 1.0, 30, seed=2))[0]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        stopped = completion.token_ids[-1] == 2
        assert (completion.finish_reason == "stop") == stopped
        assert stopped or len(completion.token_ids) == 30
        assert "2" not in completion.text.split()


def test_the_model_is_given_back_in_its_mode() -> None:
    model = small_model().train()
    TransformersEngine(model, LetterTokenizer()).generate([[4]], 1, Sampling(1.0, 1.0, 2, seed=0))
    assert model.training


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        TransformersEngine(small_model(), LetterTokenizer()).generate([[]], 1, Sampling(1.0, 1.0, 2))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (0.5, 0.95)])
def test_draws_follow_the_truncated_distribution(temperature: float, top_p: float) -> None:
    """Chi-square of 40,000 draws against the distribution worked out by a loop."""
    logits = torch.tensor([2.0, 1.5, 0.3, 0.0, -0.5, -1.0, -3.0])
    expected = [float(p) for p in (logits / temperature).softmax(-1)]
    mass, kept = 0.0, []
    for i in sorted(range(7), key=lambda i: -expected[i]):
        if mass < top_p:
            kept.append(i)
        mass += expected[i]
    total = sum(expected[i] for i in kept)
    n = 40_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = draw(logits.expand(n, -1), temperature, top_p, uniform)
    counts = torch.bincount(tokens, minlength=7).tolist()
    assert {i for i, count in enumerate(counts) if count} == set(kept)
    chi_square = sum((counts[i] - n * expected[i] / total) ** 2 / (n * expected[i] / total) for i in kept)
    assert chi_square < 22.5  # 99.9% quantile at 6 degrees of freedom
    for token, logprob in zip(tokens[:100].tolist(), logprobs[:100].tolist()):
        assert logprob == pytest.approx(torch.tensor(expected[token] / total).log().item(), abs=1e-6)


def test_a_wide_nucleus_falls_back_to_the_full_sort() -> None:
    """A flat distribution over 2,000 tokens: the nucleus of 0.9 is 1,800 tokens, more than the head."""
    uniform = torch.linspace(0, 0.999, 500)
    tokens, _ = draw(torch.zeros(500, 2000), 1.0, 0.9, uniform)
    assert len(set(tokens.tolist())) > 450


def test_the_extremes_of_the_uniform_stay_inside_the_nucleus() -> None:
    logits = torch.tensor([[0.0, 5.0, -50.0, 4.0]]).expand(2, -1)
    tokens, _ = draw(logits, 1.0, 0.9, torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64))
    assert tokens.tolist() == [1, 3]
