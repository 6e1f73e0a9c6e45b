"""Attention over a packed row as two kinds of flash call, merged.

Each part of the row attends to itself causally, and everything below a prefix attends to it in one call without a mask.
A token's results are merged by their log-sum-exps. The backward repeats the calls with the merged output and
log-sum-exp, as ring attention does (arXiv 2310.01889). Neither a prefix's keys and values nor the key heads are copied,
and the backward needs no more saved tensors than one plain call over the row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwenlong_core.training.logprobs.packing import Layout

_aten = torch.ops.aten


def flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """torch's flash attention for the device: output ``[B, H, Q, D]`` and log-sum-exp ``[B, H, Q]``."""
    if query.device.type == "cpu":
        output, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal, scale=scale
        )
    else:
        output, lse, *_ = _aten._scaled_dot_product_flash_attention(query, key, value, is_causal=causal, scale=scale)
    return output, lse


def flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value of one call.

    ``output`` and ``lse`` are those over all keys that the queries attend to, which may be more than ``key``: with them
    the kernel recomputes this call's share of the merged softmax.
    """
    # The kernels read it as one block; slices of the row are strided.
    lse = lse.contiguous()
    if query.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(  # type: ignore[no-any-return]
            gradient, query, key, value, output, lse, 0.0, causal, scale=scale
        )
    random_state = torch.empty(2, dtype=torch.uint64, device=query.device)  # read by dropout only
    return _aten._scaled_dot_product_flash_attention_backward(  # type: ignore[no-any-return]
        gradient, query, key, value, output, lse, None, None, query.size(2), key.size(2), 0.0, causal,
        random_state, random_state, scale=scale,
    )  # fmt: skip


def has_flash_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the device has a flash kernel for these tensors; CUDA needs 16-bit numbers and Ampere or later."""
    if query.device.type != "cuda":
        return query.device.type == "cpu"
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(query, key, value, None, 0.0, False, query.size(1) != key.size(1))
    return query.size(-1) % 8 == 0 and cuda.can_use_flash_attention(asked)


def _parts(states: Tensor, rows: slice, count: int) -> Tensor:
    """A view ``[count, H, C, D]`` of the row's ``[1, H, N, D]``."""
    part = states[0, :, rows]
    return part.view(part.size(0), count, -1, part.size(2)).transpose(0, 1)


def _row(states: Tensor) -> Tensor:
    """The inverse of :func:`_parts`: ``[1, H, count * C, D]``."""
    return states.transpose(0, 1).flatten(1, 2)[None]


class MergedAttention(torch.autograd.Function):
    """``query [1, H, N, D]``, ``key`` and ``value`` ``[1, K, N, D]``, H a multiple of K; returns ``[1, H, N, D]``."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        output = torch.empty_like(query)
        lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
        # Parts of equal length share one call.
        for rows, count in layout.runs():
            q, k, v = (_parts(x, rows, count) for x in (query, key, value))
            own, own_lse = flash(q, k, v, True, scale)
            output[:, :, rows], lse[:, :, rows] = _row(own), _row(own_lse[..., None])[..., 0]
        for prefix, below in layout.shared():
            seen, seen_lse = flash(query[:, :, below], key[:, :, prefix], value[:, :, prefix], False, scale)
            found, found_lse = output[:, :, below], lse[:, :, below]
            # The weight of the prefix in the joint softmax: exp(a) / (exp(a) + exp(b)) = sigmoid(a - b).
            weight = (seen_lse - found_lse).sigmoid()[..., None]
            output[:, :, below] = found + (seen - found.to(weight.dtype)) * weight
            lse[:, :, below] = torch.logaddexp(seen_lse, found_lse)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, output, lse = ctx.saved_tensors
        gradients = d_query, d_key, d_value = [torch.empty_like(x) for x in (query, key, value)]
        for rows, count in ctx.layout.runs():
            d_own, q, k, v, out = (_parts(x, rows, count) for x in (gradient, query, key, value, output))
            own_lse = _parts(lse[..., None], rows, count)[..., 0]
            own = flash_backward(d_own, q, k, v, out, own_lse, causal=True, scale=ctx.scale)
            for whole, part in zip(gradients, own):
                whole[:, :, rows] = _row(part)
        for prefix, below in ctx.layout.shared():
            d_seen, q, out = (x[:, :, below] for x in (gradient, query, output))
            k, v = key[:, :, prefix], value[:, :, prefix]
            seen = flash_backward(d_seen, q, k, v, out, lse[:, :, below], causal=False, scale=ctx.scale)
            for whole, rows, part in zip(gradients, (below, prefix, prefix), seen):
                whole[:, :, rows] += part
        return d_query, d_key, d_value, None, None
