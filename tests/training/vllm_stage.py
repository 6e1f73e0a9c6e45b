"""The GRPO stage of ``parity_stage`` with vLLM on a CPU, whose weights can be loaded again.

On a CPU vLLM packs each linear layer's weight for oneDNN and drops the weight itself, so that TRL's
weight sync finds nothing to load into. Without oneDNN it multiplies with the weight as it is.
"""

from __future__ import annotations

import vllm._custom_ops as ops
from parity_stage import run

from qwenlong_core.jobs import GRPOJob, stage_main

if __name__ == "__main__":
    ops._supports_onednn = False
    stage_main(GRPOJob, run)
