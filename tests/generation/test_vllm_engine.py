"""vLLM behind the engine interface on a CPU (``make test-vllm``), and the error if vLLM is not installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.load import load_engine
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.generation.vllm_check import require_engine, require_options
from qwenlong_core.generation.vllm_engine import VLLMEngine
from qwenlong_core.models import import_base, load_policy, load_tokenizer
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import LaunchSettings

pytestmark = pytest.mark.timeout(1800)
MODEL = ModelSettings(name="smollm2-135m")
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
QUESTIONS = ("What is the capital of France?", "Name the largest planet.", "What is 2 + 3?")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_names_the_extra_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make setup-gpu.*extra `gpu`.*launch\.python.*transformers"):
        load_engine(
            "vllm", tmp_path, None, MODEL, LaunchSettings(), batch_size=1, longest=128, setting="evaluation.engine"
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    import_base(MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(folder)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


@pytest.fixture(scope="module")
def engine(folder: Path) -> VLLMEngine:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process instead of three
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return VLLMEngine(folder, MODEL.dtype, 128)


@pytest.fixture(scope="module")
def drafting(folder: Path, engine: VLLMEngine) -> VLLMEngine:
    """The engine with speculation by n-grams, and with the counts of its drafts. On a CPU vLLM 0.31 loses temperature
    and nucleus of drafted tokens, since its kernel writes them into a copy; here torch repeats them for each token."""
    from vllm.v1.sample import rejection_sampler

    def repeated(
        x: torch.Tensor, ends: torch.Tensor, count: int, replace_from: int = 0, replace_to: int = 0
    ) -> torch.Tensor:
        counts = torch.diff(ends, prepend=ends.new_zeros(1))
        return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=count)

    rejection_sampler.expand_batch_to_tokens = repeated
    return VLLMEngine(folder, MODEL.dtype, 128, options={"speculative_config": NGRAM, "disable_log_stats": False})


def accepted(engine: VLLMEngine) -> float:
    """Drafted tokens that were accepted so far."""
    name = "vllm:spec_decode_num_accepted_tokens"
    return sum(metric.value for metric in engine._llm.get_metrics() if metric.name == name)


def ids(groups: Any) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


@pytest.mark.vllm
@pytest.mark.parametrize("max_tokens", [24, 3])
def test_greedy_equals_the_transformers_engine(
    max_tokens: int, engine: VLLMEngine, folder: Path, prompts: list[list[int]]
) -> None:
    sampling = Sampling(0.0, 1.0, max_tokens)
    tokenizer = load_tokenizer(folder)
    expected = TransformersEngine(load_policy(folder, MODEL), tokenizer).generate(prompts, 2, sampling)
    found = engine.generate(prompts, 2, sampling)
    assert ids(found) == ids(expected)
    reasons = {c.finish_reason for group in found for c in group}
    assert reasons == ({"length"} if max_tokens == 3 else {"stop", "length"})
    for ours, theirs in zip(chain(*found), chain(*expected)):
        assert (ours.finish_reason, ours.text) == (theirs.finish_reason, theirs.text)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-3)
        assert len(ours.token_ids) <= max_tokens


@pytest.mark.vllm
def test_stop_strings_end_where_the_transformers_engine_ends(
    engine: VLLMEngine, folder: Path, prompts: list[list[int]]
) -> None:
    ours = TransformersEngine(load_policy(folder, MODEL), load_tokenizer(folder))
    [[whole]] = ours.generate(prompts[:1], 1, Sampling(0.0, 1.0, 24))
    sampling = Sampling(0.0, 1.0, 24, stop=(whole.text[9:13],))  # wherever it is within the tokens
    expected, found = ours.generate(prompts, 2, sampling), engine.generate(prompts, 2, sampling)
    assert ids(found) == ids(expected)
    assert [c.finish_reason for c in chain(*found)] == [c.finish_reason for c in chain(*expected)]
    assert len(found[0][0].token_ids) < len(whole.token_ids)


@pytest.mark.vllm
def test_a_seed_fixes_a_prompts_draws_and_every_draw_is_its_own(engine: VLLMEngine, prompts: list[list[int]]) -> None:
    sampling = Sampling(1.0, 0.95, 12, seed=5)
    found = ids(engine.generate([*prompts, prompts[0]], 3, sampling))
    assert ids(engine.generate([*prompts, prompts[0]], 3, sampling)) == found
    assert ids(engine.generate([prompts[1]], 3, sampling))[0] == found[1], "whatever stands beside it"
    assert ids(engine.generate(prompts, 3, Sampling(1.0, 0.95, 12, seed=6))) != found[:3]
    assert len(set(found[0])) > 1, "samples of a prompt"
    assert found[0] != found[3], "the same prompt twice in a call"


@pytest.mark.vllm
def test_log_probs_are_of_the_distribution_drawn_from(engine: VLLMEngine, prompts: list[list[int]]) -> None:
    """With a tiny nucleus only the likeliest token is left, with probability 1."""
    for group in engine.generate(prompts, 1, Sampling(1.0, 0.01, 6, seed=1)):
        assert group[0].logprobs == pytest.approx([0.0] * len(group[0].token_ids), abs=1e-4)


@pytest.mark.vllm
def test_what_does_not_fit_is_refused(engine: VLLMEngine) -> None:
    with pytest.raises(ValueError, match="over max_model_len=128"):
        engine.generate([[5] * 120], 1, Sampling(0.0, 1.0, 24))
    with pytest.raises(ValueError, match="at least one token"):
        engine.generate([[]], 1, Sampling(0.0, 1.0, 4))


@pytest.mark.vllm
def test_speculation_changes_no_greedy_token_and_no_log_prob(
    engine: VLLMEngine, drafting: VLLMEngine, folder: Path
) -> None:
    tokenizer = load_tokenizer(folder)
    prompts = [tokenizer("one red, two green, three blue, " * 5)["input_ids"]]
    sampling = Sampling(0.0, 1.0, 16)
    expected, found = (one.generate(prompts, 1, sampling) for one in (engine, drafting))
    assert accepted(drafting) >= 3, "else nothing was tested"
    assert ids(found) == ids(expected)
    for ours, plain in zip(chain(*found), chain(*expected)):
        assert ours.logprobs == pytest.approx(plain.logprobs, abs=2e-3)


@pytest.mark.vllm
def test_speculation_samples_by_seed_and_within_the_nucleus(drafting: VLLMEngine, prompts: list[list[int]]) -> None:
    sampling = Sampling(1.0, 0.95, 8, seed=5)
    found = drafting.generate(prompts[:2], 3, sampling)
    assert ids(drafting.generate(prompts[1:2], 3, sampling))[0] == ids(found)[1], "whatever stands beside it"
    assert all(len(c.logprobs) == len(c.token_ids) for c in chain(*found))
    assert len(set(ids(found)[0])) > 1, "samples of a prompt"
    for group in drafting.generate(prompts[:1], 1, Sampling(1.0, 0.01, 6, seed=1)):
        assert group[0].logprobs == pytest.approx([0.0] * len(group[0].token_ids), abs=1e-4)


@pytest.mark.vllm
def test_an_option_that_vllm_does_not_have_is_refused() -> None:
    require_options("grpo.engine", ["kv_cache_dtype", "disable_log_stats"])
    with pytest.raises(ValueError, match=r"options of grpo\.engine name 'kv_cache_dtyp'.*mean 'kv_cache_dtype'"):
        require_options("grpo.engine", ["kv_cache_dtyp"])
    with pytest.raises(ValueError, match="wrong; drop it"):
        require_options("grpo.engine", ["speculative_config"])


@pytest.mark.vllm
def test_an_option_is_tried_before_a_run_starts() -> None:
    """The command line and the flows ask the interpreter of the stages, which is not their own."""
    chosen = ["evaluation.engine=vllm", f"launch.python={sys.executable}"]
    right = load_settings("local", [*chosen, "evaluation.vllm_options.kv_cache_dtype=auto"])
    require_engine("evaluate", right, {"vllm"})
    wrong = load_settings("local", [*chosen, "evaluation.vllm_options.kv_cache_dtyp=fp8"])
    with pytest.raises(ValueError, match=r"options of evaluation\.engine name 'kv_cache_dtyp'.*mean 'kv_cache_dtype'"):
        require_engine("evaluate", wrong, {"vllm"})
