"""The GRPO stage of ``parity_stage`` with vLLM on a CPU, whose weights can be loaded again.

On a CPU vLLM packs each linear layer's weight for oneDNN and drops the weight itself, so that TRL's
weight sync finds nothing to load into. Without oneDNN it multiplies with the weight as it is. Experts are
packed once they are loaded the first time, and here each time: on a GPU Triton's kernels take them as they are.
With speculation vLLM on a CPU also loses temperature and nucleus of what was drafted: the kernel that repeats them for
each token writes into a copy. Here torch repeats them, and the stage's refusal of speculation on a CPU is off.
Prints a line for each call of the engine, and one for what it has drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
import vllm
import vllm._custom_ops as ops
from parity_stage import run
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.v1.sample import rejection_sampler

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.stage_main import stage_main
from qwenlong_core.training import grpo

generate, load_experts = vllm.LLM.generate, RoutedExperts.load_weights


def noted(self: Any, prompts: Any, sampling_params: Any, **options: Any) -> Any:
    distinct = {tuple(prompt["prompt_token_ids"]) for prompt in prompts}
    print(f"vLLM: {len(prompts)} requests, {len(distinct)} prompts, n={sampling_params.n}", flush=True)
    assert not self.llm_engine.has_unfinished_requests()
    outputs = generate(self, prompts, sampling_params, **options)
    for output in outputs:
        drawn = [list(completion.token_ids) for completion in output.outputs]
        print(f"drawn: {json.dumps([output.prompt_token_ids, drawn])}", flush=True)
    return outputs


def repeated(
    x: torch.Tensor, ends: torch.Tensor, count: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=count)


def packed_again(self: Any, weights: Iterable[Any]) -> list[str]:
    loaded = list(load_experts(self, weights))
    kernel = self.quant_method.moe_kernel
    for name in set(loaded) if kernel is not None else ():
        weight = getattr(self, name)
        weight.data.copy_(ops.cpu_prepack_moe_weight(weight.data, kernel.fused_experts.isa))
    print(f"vLLM: {len(set(loaded))} tensors of experts loaded", flush=True)
    return loaded


if __name__ == "__main__":
    ops._supports_onednn = False
    rejection_sampler.expand_batch_to_tokens = repeated
    grpo.require_options = lambda *_: None
    vllm.LLM.generate = noted
    RoutedExperts.load_weights = packed_again
    stage_main(GRPOJob, run)
