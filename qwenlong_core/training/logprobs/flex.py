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


def branch_of(layout: Layout, device: torch.device) -> Tensor:
    """The number of each token's branch, ``[N]``; 0 in the prefix."""
    lengths = torch.tensor([layout.prefix, *layout.lengths], device=device)
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths)


# All layers of a forward, and its backward, use the same layout.
@lru_cache(maxsize=4)
def block_mask(layout: Layout, device: torch.device) -> BlockMask:
    """Which tokens each token of the row sees: the prefix and its own branch, up to itself."""
    branch = branch_of(layout, device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & ((branch[key] == 0) | (branch[key] == branch[query]))

    # Compiled, it does not build the N x N mask from which the blocks are computed.
    return create_block_mask(sees, None, None, len(branch), len(branch), device, _compile=device.type != "cpu")


def flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """``query [1, H, N, D]``, ``key`` and ``value`` ``[1, K, N, D]``; returns ``[1, H, N, D]``."""
    attend = flex_attention if query.device.type == "cpu" else _compiled()
    mask, grouped = block_mask(layout, query.device), query.size(1) != key.size(1)
    output: Tensor = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    return output
