"""Sampling with vLLM in this process, for evaluation on a GPU (the ``gpu`` extra).

GRPO's rollouts reach vLLM through TRL, which also keeps its weights in step with the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.sampling import prompt_seed
from qwenlong_core.records import Completion


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ValueError(
            f"engine 'vllm' needs the gpu extra ({error}): pip install -e '.[gpu]', or set engine = 'transformers'"
        ) from error
    return vllm


class VLLMEngine:
    """Samples with vLLM; prefix caching shares the prefill of samples and of questions on one document.

    Args:
        folder: An imported policy.
        dtype: ``float32`` or ``bfloat16``.
        max_model_len: Longest prompt plus completion, in tokens.
        tensor_parallel_size: GPUs one copy of the model is spread over.

    Raises:
        ValueError: vLLM is not installed.
    """

    def __init__(self, folder: Path, dtype: str, max_model_len: int, tensor_parallel_size: int = 1) -> None:
        self._vllm = _import_vllm()
        self._llm = self._vllm.LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel_size,
            enable_prefix_caching=True,
            # log-probs of the distribution that was drawn from, not of the raw logits
            logprobs_mode="processed_logprobs",
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`."""
        seeds = [None if sampling.seed is None else prompt_seed(sampling.seed, prompt) for prompt in prompts]
        params = [
            self._vllm.SamplingParams(
                n=samples,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                # One seed for all would give every prompt the same noise.
                seed=seed,
                logprobs=0,
            )
            for seed in seeds
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(requests, params, use_tqdm=False)
        return [[_completion(choice) for choice in output.outputs] for output in outputs]


def _completion(choice: Any) -> Completion:
    token_ids = tuple(choice.token_ids)
    logprobs = tuple(float(at[token].logprob) for at, token in zip(choice.logprobs, token_ids))
    return Completion(
        text=choice.text,
        token_ids=token_ids,
        finish_reason="stop" if choice.finish_reason == "stop" else "length",
        logprobs=logprobs,
    )
