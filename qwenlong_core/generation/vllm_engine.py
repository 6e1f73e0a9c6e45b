"""Sample with vLLM in this process, for evaluation and the probe (the ``gpu`` extra).

GRPO's rollouts use vLLM through TRL, which also keeps vLLM's weights in step with the trainer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.seeds import prompt_seeds
from qwenlong_core.records import Completion


class VLLMEngine:
    """Samples with vLLM. Prefix caching shares the prefill among samples and among questions on one document.

    Args:
        folder: Policy folder.
        dtype: ``float32`` or ``bfloat16``.
        max_model_len: Most tokens of a prompt and its completion together.
        tensor_parallel_size: Number of GPUs over which one copy of the model is spread.
        options: Further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        max_model_len: int,
        tensor_parallel_size: int = 1,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        import vllm  # seconds of import, and an extra: see vllm_check

        self._vllm = vllm
        self._max_model_len = max_model_len
        self._llm = self._vllm.LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel_size,
            enable_prefix_caching=True,
            # Log-probs of the distribution that tokens are drawn from, not of the raw logits.
            logprobs_mode="processed_logprobs",
            # On a CPU compilation takes minutes, and only tests sample there.
            **{"enforce_eager": not torch.cuda.is_available(), **options},
        )

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`.

        Raises:
            ValueError: a prompt is empty, or does not fit ``max_model_len`` with its completion.
        """
        self._check(prompts, sampling)
        # One request per prompt with n samples: vLLM runs the prompt once and seeds each sample separately.
        seeds = [None] * len(prompts) if sampling.seed is None else prompt_seeds(sampling.seed, prompts)
        # Greedy samples are all equal, and vLLM refuses n > 1 for them.
        distinct = samples if sampling.temperature else 1
        params = [
            self._vllm.SamplingParams(
                n=distinct,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed,
                logprobs=0,
                stop=list(sampling.stop),
                include_stop_str_in_output=True,
            )
            for seed in seeds
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(requests, params, use_tqdm=False)
        return [[_completion(choice) for choice in output.outputs] * (samples // distinct) for output in outputs]

    def _check(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        for prompt in prompts:
            if not prompt:
                raise ValueError("an empty prompt cannot be continued: give it at least one token")
            if len(prompt) + sampling.max_tokens > self._max_model_len:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens with max_tokens={sampling.max_tokens} is over max_model_len="
                    f"{self._max_model_len}: vLLM would silently cut the completion; raise max_model_len"
                )


def _completion(choice: Any) -> Completion:
    token_ids = tuple(choice.token_ids)
    logprobs = tuple(float(at[token].logprob) for at, token in zip(choice.logprobs, token_ids))
    return Completion(
        text=choice.text,
        token_ids=token_ids,
        finish_reason="stop" if choice.finish_reason == "stop" else "length",
        logprobs=logprobs,
    )
