"""The GRPO stage of ``parity_stage`` with vLLM on a CPU, whose weights can be loaded again.

On a CPU vLLM packs each linear layer's weight for oneDNN and drops the weight itself, so that TRL's
weight sync finds nothing to load into. Without oneDNN it multiplies with the weight as it is.
Prints a line for each call of the engine.
"""

from __future__ import annotations

from typing import Any

import vllm
import vllm._custom_ops as ops
from parity_stage import run

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.stage_main import stage_main

generate = vllm.LLM.generate


def noted(self: Any, prompts: Any, sampling_params: Any, **options: Any) -> Any:
    distinct = {tuple(prompt["prompt_token_ids"]) for prompt in prompts}
    print(f"vLLM: {len(prompts)} requests, {len(distinct)} prompts, n={sampling_params.n}", flush=True)
    return generate(self, prompts, sampling_params, **options)


if __name__ == "__main__":
    ops._supports_onednn = False
    vllm.LLM.generate = noted
    stage_main(GRPOJob, run)
