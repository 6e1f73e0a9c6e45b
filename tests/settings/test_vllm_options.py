"""vLLM's options: what a profile may give, and what is refused with the setting to use instead."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from qwenlong_core.settings.profiles import SettingsError, load_settings
from qwenlong_core.settings.vllm import cache_bytes, speculates

ROOT = Path(__file__).parents[2]
ROLLOUTS, EVALUATION = "grpo.vllm.options", "evaluation.vllm_options"
NGRAM = "{method='ngram', num_speculative_tokens=4, prompt_lookup_max=4}"


def test_options_are_typed_as_any_setting() -> None:
    settings = load_settings(
        "1gpu",
        [
            f"{ROLLOUTS}.kv_cache_dtype=fp8",
            f"{ROLLOUTS}.speculative_config={NGRAM}",
            f"{EVALUATION}={{enforce_eager=true}}",
        ],
    )
    found = settings.grpo.vllm.options
    assert found["kv_cache_dtype"] == "fp8"
    assert found["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}
    assert settings.evaluation.vllm_options == {"enforce_eager": True}
    assert (cache_bytes(found), speculates(found)) == (1, True)
    assert (cache_bytes({}), speculates({})) == (2, False)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"{ROLLOUTS}.dtype=float16", "dtype is not for vLLM's options: the weights are the policy's: set model.name"),
        (f"{ROLLOUTS}.gpu_memory_utilization=0.9", "set grpo.vllm.memory_share"),
        (f"{ROLLOUTS}.enable_sleep_mode=true", "set grpo.vllm.sleep"),
        (f"{ROLLOUTS}.tensor_parallel_size=2", "set grpo.vllm.tensor_parallel"),
        (f"{ROLLOUTS}.disable_cascade_attn=false", "set grpo.vllm.group_at_a_time"),
        (f"{ROLLOUTS}.speculative_config={{method='eagle', model='x'}}", "only n-grams draft here"),
        (f"{ROLLOUTS}.speculative_config={{method='ngram', rejection_sample_method='synthetic'}}", "only n-grams"),
        (f"{EVALUATION}.max_model_len=4096", "it follows from max_prompt_tokens and max_completion_tokens"),
        (f"{EVALUATION}.tensor_parallel_size=2", "it follows from launch.num_processes"),
        (f"{EVALUATION}.hf_token=hunter2", "give it in the environment variable HF_TOKEN"),
    ],
)
def test_what_the_project_decides_is_refused(override: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings("1gpu", [override])
    assert str(error.value).startswith(override.split("=")[0].rpartition(".")[0])
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def arguments_of_llm(source: Path) -> set[str]:
    """The keywords in the file's call of ``LLM``, without those behind ``**``."""
    [call] = [
        node
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "LLM"
    ]
    return {keyword.arg for keyword in call.keywords if keyword.arg}


@pytest.mark.parametrize("options", [ROLLOUTS, EVALUATION])
def test_whatever_is_passed_anyway_is_refused(options: str) -> None:
    """An option that TRL or the engine passes itself would be ignored, or fail with the weights loaded."""
    if options == ROLLOUTS:
        spec = find_spec("trl")
        assert spec is not None
        source = Path(str(spec.origin)).parent / "generation/vllm_generation.py"
    else:
        source = ROOT / "qwenlong_core/generation/vllm_engine.py"
    passed = arguments_of_llm(source)
    assert {"model", "max_model_len", "logprobs_mode"} <= passed
    for name in passed:
        with pytest.raises(SettingsError, match=f"{name} is not for vLLM's options"):
            load_settings("1gpu", [f"{options}.{name}=1"])


@pytest.mark.parametrize(
    ("profile", "overrides", "said"),
    [
        ("local", [f"{EVALUATION}.enforce_eager=true"], "evaluation.engine='transformers' does not use it"),
        ("local", [f"{ROLLOUTS}.enforce_eager=true"], "grpo.engine='transformers' does not use it"),
        (
            "1gpu",
            ["grpo.vllm.group_at_a_time=true", "grpo.group_size=4"],
            "prompt once for 8 completions or more",
        ),
        (
            "1gpu",
            ["grpo.engine='vllm-server'", "grpo.vllm={server_url='http://a:1', options={kv_cache_dtype='fp8'}}"],
            "the server decides all but server_url",
        ),
        (
            "1gpu",
            ["grpo.engine='vllm-server'", "grpo.vllm={server_url='http://a:1', group_at_a_time=true}"],
            "the server decides all but server_url",
        ),
    ],
)
def test_an_option_that_nothing_would_use_is_refused(profile: str, overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(profile, overrides)
    assert said in str(error.value)
