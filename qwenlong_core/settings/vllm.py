"""Further arguments of vLLM as settings: what a profile may give, and what the project decides itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, JsonValue

_LENGTH = "it follows from max_prompt_tokens and max_completion_tokens"
_PARALLEL = "one copy of the model takes the GPUs of tensor parallelism, and no others"
_WEIGHTS = "the weights are the policy's: set model.name, model.revision and model.dtype"

_DECIDED = {
    **dict.fromkeys(("model", "model_weights", "load_format", "config_format", "hf_config_path"), _WEIGHTS),
    **dict.fromkeys(("dtype", "quantization", "quantization_config", "revision", "code_revision"), _WEIGHTS),
    **dict.fromkeys(("tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init"), _WEIGHTS),
    **dict.fromkeys(("pipeline_parallel_size", "data_parallel_size", "decode_context_parallel_size"), _PARALLEL),
    **dict.fromkeys(("spec_method", "spec_model", "spec_tokens"), "give speculative_config"),
    "hf_overrides": "set model.yarn_factor, or change the model's own config.json",
    "hf_token": "a key is never a setting: give it in the environment variable HF_TOKEN",
    "trust_remote_code": "code from a hub is never run",
    "max_model_len": _LENGTH,
    "seed": "set seed",
    "logprobs_mode": "log-probs are always those of the distribution that is drawn from",
    "max_logprobs": "one log-prob a token is all that is asked for",
    "logits_processors": "the trainer does not know what they do to the distribution",
    "enable_prefix_caching": "it is always on: a group, or a document's questions, share their prefill",
    "disable_cascade_attn": "set grpo.vllm.group_at_a_time: without it no prompt is common to all that runs",
}
_BY_TRL = "TRL passes its own, which wins"
_DECIDED_IN_ROLLOUTS = _DECIDED | {
    **dict.fromkeys(("max_num_seqs", "max_num_batched_tokens"), _BY_TRL),
    **dict.fromkeys(("model_impl", "distributed_executor_backend"), _BY_TRL),
    **dict.fromkeys(("gpu_memory_utilization", "kv_cache_memory_bytes"), "set grpo.vllm.memory_share"),
    "tensor_parallel_size": "set grpo.vllm.tensor_parallel",
    "enable_sleep_mode": "set grpo.vllm.sleep",
    "moe_backend": "TRL writes new weights into the layout of one backend",
}
_DECIDED_IN_EVALUATION = _DECIDED | {"tensor_parallel_size": "it follows from launch.num_processes"}

_NGRAM = {"method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max"}


def _checked(options: Mapping[str, JsonValue], decided: Mapping[str, str]) -> dict[str, JsonValue]:
    for name in options:
        if name in decided:
            raise ValueError(f"{name} is not for vLLM's options: {decided[name]}; drop it here")
    if (drafts := options.get("speculative_config")) is not None:
        by_ngrams = isinstance(drafts, dict) and drafts.get("method") == "ngram" and drafts.keys() <= _NGRAM
        if not by_ngrams:
            raise ValueError(
                f"speculative_config={drafts!r}: only n-grams draft here, since a draft model's weights belong to no "
                "artifact: give {method='ngram', num_speculative_tokens=4, prompt_lookup_max=4}, or other numbers"
            )
    return dict(options)


def _in_rollouts(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return _checked(options, _DECIDED_IN_ROLLOUTS)


def _in_evaluation(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return _checked(options, _DECIDED_IN_EVALUATION)


RolloutOptions = Annotated[dict[str, JsonValue], AfterValidator(_in_rollouts)]
"""Arguments of ``vllm.LLM`` beside those that TRL and this project pass."""

EvaluationOptions = Annotated[dict[str, JsonValue], AfterValidator(_in_evaluation)]
"""Arguments of ``vllm.LLM`` beside those that this project passes."""


def cache_bytes(options: Mapping[str, JsonValue]) -> float:
    """Bytes of a number in the cache: 2, or 1 with ``kv_cache_dtype='fp8'`` and its kin."""
    return 1.0 if str(options.get("kv_cache_dtype", "")).startswith(("fp8", "int8")) else 2.0


def speculates(options: Mapping[str, JsonValue]) -> bool:
    """Whether tokens are drafted and then verified together."""
    return options.get("speculative_config") is not None
