"""Which models' rows a span can cut, told from their configs with the words of training."""

from pathlib import Path
from typing import Any

import pytest
from training_jobs import grpo_job, sft_job
from transformers import Gemma2Config, Qwen2Config, Qwen3MoeConfig, T5Config

from qwenlong_core.models import load_tokenizer
from qwenlong_core.training.grpo import build_trainer as build_grpo
from qwenlong_core.training.logprobs.span_check import require_cuttable_config
from qwenlong_core.training.sft import build_trainer as build_sft


def qwen2(heads: int = 40, key_heads: int = 8, **more: Any) -> Qwen2Config:
    return Qwen2Config(num_attention_heads=heads, num_key_value_heads=key_heads, hidden_size=5120, **more)


def test_the_heads_of_the_large_profiles_can_be_dealt_to_these_numbers_of_ranks() -> None:
    def passes(size: int) -> bool:
        try:
            require_cuttable_config(qwen2(), size)
        except ValueError:
            return False
        return True

    assert [size for size in range(1, 11) if passes(size)] == [1, 2, 4, 5, 8, 10]


@pytest.mark.parametrize(
    ("config", "size", "reason"),
    [
        (qwen2(), 3, "Qwen2ForCausalLM: 40 query and 8 key heads .* to 3 ranks: possible are 1, 2, 4, 5, 8,"),
        (qwen2(28, 4), 8, "28 query and 4 key heads cannot be dealt to 8 ranks: possible are 1, 2, 4, 7"),
        (qwen2(use_sliding_window=True, max_window_layers=0, sliding_window=64), 2, "layers of sliding_attention"),
        (qwen2(attn_implementation="eager"), 2, "its attention is set to eager"),
        (qwen2(attention_dropout=0.1), 2, "it drops attention weights"),
        (Gemma2Config(), 2, "Gemma2ForCausalLM: it has layers of sliding_attention"),
        (T5Config(), 2, "type 't5': transformers has no causal language model for it"),
    ],
)
def test_other_models_are_refused_with_the_reason(config: Any, size: int, reason: str) -> None:
    with pytest.raises(ValueError, match=f"launch.sequence_parallel={size} cannot be used with .*{reason}"):
        require_cuttable_config(config, size)
    require_cuttable_config(config, 1)


def test_a_mixture_of_experts_is_cut_like_any_model() -> None:
    """A router's loss is no reason; heads are, as for any model."""
    mixture = Qwen3MoeConfig(num_attention_heads=32, num_key_value_heads=4, router_aux_loss_coef=0.1)
    require_cuttable_config(mixture, 8)
    with pytest.raises(ValueError, match="32 query and 4 key heads cannot be dealt to 3 ranks"):
        require_cuttable_config(mixture, 3)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_both_stages_refuse_before_they_load_weights(stage: str, policy: Path, data: Path, tmp_path: Path) -> None:
    """The folder has no weights at all."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((policy / name).read_bytes())
    launch = {"num_processes": 3, "cpu_threads": 1, "sequence_parallel": 3}
    with pytest.raises(ValueError, match="4 query and 2 key heads cannot be dealt to 3 ranks"):
        if stage == "sft":
            job = sft_job()
            job = job.model_copy(update={"launch": type(job.launch).model_validate(launch)})
            build_sft(job, tmp_path / "model", load_tokenizer(policy), [], tmp_path)
        else:
            inputs = {"model": tmp_path / "model", "data": data}
            job = grpo_job(launch=launch)
            build_grpo(job, inputs=inputs, work=tmp_path, scorer=None, processes=3, rank=0)  # type: ignore[arg-type]
