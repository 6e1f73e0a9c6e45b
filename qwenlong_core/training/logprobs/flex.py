"""Attention over a packed row by torch's flex attention, for devices without a flash kernel.

On CUDA it is used for float32 and for cards before Ampere. On a CPU flex attention has no backward.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from qwenlong_core.training.logprobs.packing import Layout


@lru_cache(maxsize=1)
def _compiled() -> Any:
    """One graph for all lengths: without ``dynamic`` it would be compiled again for every prompt length."""
    return torch.compile(flex_attention, dynamic=True)


def seen_until(layout: Layout, device: torch.device) -> Tensor:
    """Where the tokens end that see each token, ``[N]``: a token is seen by its own part and by all below it."""
    parts = list(layout.parts())
    ends = torch.tensor([start + part.tokens for start, part in parts], device=device)
    return ends.repeat_interleave(torch.tensor([part.prefix for _, part in parts], device=device))


# All layers of a forward, and its backward, use the same layout.
@lru_cache(maxsize=4)
def block_mask(layout: Layout, device: torch.device) -> BlockMask:
    """Which tokens each token of the row sees: the prefixes above it and its own part, up to itself."""
    until = seen_until(layout, device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query < until[key])

    # Compiled, it does not build the N x N mask from which the blocks are computed.
    return create_block_mask(sees, None, None, len(until), len(until), device, _compile=device.type != "cpu")


def flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """``query [1, H, N, D]``, ``key`` and ``value`` ``[1, K, N, D]``; returns ``[1, H, N, D]``."""
    attend = flex_attention if query.device.type == "cpu" else _compiled()
    mask, grouped = block_mask(layout, query.device), query.size(1) != key.size(1)
    output: Tensor = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    return output
