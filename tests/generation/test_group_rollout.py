"""Prompts and samples that share parts: tokens, distribution, log-probs, and how often each part is run."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import torch
from generation.tiny_models import LetterTokenizer, greedy_by_generate, logprobs_by_forward, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.prompt_tree import MIN_SHARED_TOKENS
from qwenlong_core.generation.transformers_engine import TransformersEngine

DOCUMENT = [3 + (7 * i * i + i) % 29 for i in range(2 * MIN_SHARED_TOKENS)]
SECTION = DOCUMENT + [4 + (5 * i) % 23 for i in range(MIN_SHARED_TOKENS)]
PROMPTS = [
    [*DOCUMENT, 5, 6],
    [9, 8, 7],
    [*SECTION, 11],
    [*DOCUMENT, 7],
    [*SECTION, 12, 13, 14],
    [*SECTION, 11],
]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_greedy_equals_generate_on_prompts_that_share(kind: str, batch_size: int) -> None:
    model = tiny_model(kind)
    groups = TransformersEngine(model, LetterTokenizer(), batch_size).generate(PROMPTS, 2, Sampling(0.0, 1.0, 24))
    expected = [greedy_by_generate(model, prompt, 24) for prompt in PROMPTS]
    assert [[list(c.token_ids) for c in group] for group in groups] == [[tokens] * 2 for tokens in expected]
    assert len({tuple(tokens) for tokens in expected}) > 3, "the prompts must matter for this test to mean anything"


def test_draws_and_logprobs_do_not_depend_on_what_is_shared() -> None:
    model = tiny_model()
    sampling = Sampling(0.8, 0.9, 16, seed=4)
    together = TransformersEngine(model, LetterTokenizer(), 6).generate(PROMPTS[:5], 3, sampling)
    engine = TransformersEngine(model, LetterTokenizer())
    alone = [engine.generate([prompt], 3, sampling)[0] for prompt in PROMPTS[:5]]
    for group, single in zip(together, alone):
        assert [c.token_ids for c in group] == [c.token_ids for c in single]
        for a, b in zip(group, single):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    heads=st.sampled_from([(2, 1), (2, 2), (6, 2)]),
    samples=st.integers(1, 5),
    batch_size=st.integers(1, 4),
    lengths=st.lists(st.tuples(st.integers(0, 2 * MIN_SHARED_TOKENS), st.integers(1, 9)), min_size=1, max_size=4),
    limit=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_logprobs_equal_a_fresh_forward_for_any_shape(
    heads: tuple[int, int],
    samples: int,
    batch_size: int,
    lengths: list[tuple[int, int]],
    limit: int,
    seed: int,
) -> None:
    model = tiny_model("llama", heads=heads[0], kv_heads=heads[1])
    generator = torch.Generator().manual_seed(seed)
    prompts = [DOCUMENT[:common] + torch.randint(32, (own,), generator=generator).tolist() for common, own in lengths]
    groups = TransformersEngine(model, LetterTokenizer(), batch_size).generate(
        prompts, samples, Sampling(1.1, 1.0, limit, seed=seed)
    )
    for prompt, group in zip(prompts, groups):
        assert len(group) == samples
        for completion in group:
            assert 1 <= len(completion.token_ids) <= limit
            stopped = completion.token_ids[-1] == 2
            assert 2 not in completion.token_ids[:-1] and (stopped or len(completion.token_ids) == limit)
            expected = logprobs_by_forward(model, prompt, completion.token_ids, 1.1)
            found = torch.tensor(completion.logprobs, dtype=torch.float64)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_logprobs_equal_a_fresh_forward_on_a_gpu() -> None:
    model = tiny_model()
    engine = TransformersEngine(deepcopy(model).cuda(), LetterTokenizer(), 3)
    groups = engine.generate(PROMPTS, 4, Sampling(1.0, 1.0, 24, seed=1))
    for prompt, group in zip(PROMPTS, groups):
        for completion in group:
            expected = logprobs_by_forward(model, prompt, completion.token_ids, 1.0)
            found = torch.tensor(completion.logprobs, dtype=torch.float64)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def exact_distribution(model: Any, prompt: list[int], limit: int, vocab: int) -> dict[tuple[int, ...], float]:
    """The probability of every completion, token by token from a plain forward."""
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(limit):
        grown: dict[tuple[int, ...], float] = {}
        for tokens, p in open_.items():
            with torch.no_grad():
                probs = model(input_ids=torch.tensor([prompt + list(tokens)])).logits[0, -1].double().softmax(-1)
            for token in range(vocab):
                ends = token == 2 or step + 1 == limit
                (done if ends else grown)[(*tokens, token)] = p * float(probs[token])
        open_ = grown
    return done


def test_the_sampled_distribution_passes_a_chi_square_test() -> None:
    """6,000 completions of up to 3 of 5 tokens, on two prompts of one document, against the exact probabilities."""
    model = tiny_model(vocab=5, sharp=0.5)
    document = [token % 5 for token in DOCUMENT]
    prompts, n = [[*document, 3, 1], [*document, 4]], 6_000
    groups = TransformersEngine(model, LetterTokenizer(), 2).generate(prompts, n, Sampling(1.0, 1.0, 3, seed=7))
    for prompt, group in zip(prompts, groups):
        exact = exact_distribution(model, prompt, 3, 5)
        assert sum(exact.values()) == pytest.approx(1.0)
        counts = Counter(c.token_ids for c in group)
        assert set(counts) <= set(exact)
        # Rare outcomes share one cell, so that every cell expects at least five draws.
        common = {tokens: p for tokens, p in exact.items() if n * p >= 5}
        rare = n * (1 - sum(common.values()))
        cells = [(counts[tokens], n * p) for tokens, p in common.items()]
        if rare >= 5:
            cells.append((n - sum(count for count, _ in cells), rare))
        assert len(cells) > 20
        chi_square = sum((count - expected) ** 2 / expected for count, expected in cells)
        freedom = len(cells) - 1
        # Wilson and Hilferty's approximation of the 99.9% quantile, whose normal deviate is 3.09.
        assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


class Watched:
    """Counts the tokens that a model runs, and its rows at each step."""

    def __init__(self, model: Any) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_document_is_run_once_for_all_its_questions_and_samples(batch_size: int) -> None:
    model = tiny_model()
    engine = TransformersEngine(model, LetterTokenizer(), batch_size)
    engine.generate([[5]], 1, Sampling(1.0, 1.0, 1))  # the first call checks shared parts on this model
    watched = Watched(model)
    questions = [[*DOCUMENT, 5, i, i + 1] for i in range(10, 13)]
    engine.generate(questions, 4, Sampling(0.7, 1.0, 1, seed=0))
    assert watched.shapes == [(1, len(DOCUMENT) + 1)] + [(1, 2)] * 3


def test_finished_rows_leave_the_batch() -> None:
    model = tiny_model(sharp=0.3)
    engine = TransformersEngine(model, LetterTokenizer(), 2)
    engine.generate([[5]], 1, Sampling(1.0, 1.0, 1))
    watched = Watched(model)
    groups = engine.generate([[5, 6], [7]], 8, Sampling(1.0, 1.0, 40, seed=3))
    lengths = [len(c.token_ids) for group in groups for c in group]
    assert len(set(lengths)) > 3
    assert watched.shapes[2:] == [(sum(length > step for length in lengths), 1) for step in range(1, max(lengths))]


def test_a_failed_call_gives_the_model_back() -> None:
    model = tiny_model()
    engine = TransformersEngine(model, LetterTokenizer())
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        engine.generate([[*DOCUMENT, 5], [*DOCUMENT, 99_999]], 1, Sampling(1.0, 1.0, 3))
    assert model.config._attn_implementation == before
