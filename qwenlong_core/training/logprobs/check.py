"""Limits for the check of a run's first packed group against separate rows."""

from __future__ import annotations

import torch
from torch import Tensor

LIMITS = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest allowed mean difference of a log-prob, by the dtype of the computation.

Measured on SmolLM2-135M with real text: rounding gives 3e-6 in float32 and 0.035 in bfloat16, about as
much as bfloat16 differs from float32 (0.028). Positions that are off by one give 0.06; a branch that
sees another branch gives 1.2. TF32 rounds like float16. So in bfloat16 the check finds a wrong mask,
and in float32 also a wrong position.
"""


def disagreement(packed: Tensor, separate: Tensor, mask: Tensor) -> float:
    """Mean absolute difference of two sets of log-probs ``[G, C]`` where ``mask`` is 1."""
    return float((packed - separate)[mask.bool()].abs().mean())
