"""Attention over a packed row as three kinds of flash call, merged.

The prefix attends to itself causally, all branches attend to the prefix in one call without a mask, each branch attends
to itself causally, and the two results of a branch are merged by their log-sum-exps. The backward repeats the calls
with the merged output and log-sum-exp, as ring attention does (arXiv 2310.01889). Neither the prefix's keys and values
nor the key heads are copied, and the backward needs no more saved tensors than one plain call over the row.
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


def _branches(states: Tensor, rows: slice, branches: int) -> Tensor:
    """A view ``[branches, H, C, D]`` of the row's ``[1, H, N, D]``."""
    part = states[0, :, rows]
    return part.view(part.size(0), branches, -1, part.size(2)).transpose(0, 1)


def _row(states: Tensor) -> Tensor:
    """The inverse of :func:`_branches`: ``[1, H, branches * C, D]``."""
    return states.transpose(0, 1).flatten(1, 2)[None]


class MergedAttention(torch.autograd.Function):
    """``query [1, H, N, D]``, ``key`` and ``value`` ``[1, K, N, D]``, H a multiple of K; returns ``[1, H, N, D]``."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        p = layout.prefix
        prefix_key, prefix_value = key[:, :, :p], value[:, :, :p]
        prefix, prefix_lse = flash(query[:, :, :p], prefix_key, prefix_value, True, scale)
        shared, shared_lse = flash(query[:, :, p:], prefix_key, prefix_value, False, scale)
        output = torch.empty_like(query)
        output[:, :, :p] = prefix
        lse = torch.cat([prefix_lse, shared_lse], dim=2)
        # Branches of equal length share one call.
        for rows, count in layout.runs():
            own_query, own_key, own_value = (_branches(x, rows, count) for x in (query, key, value))
            own, own_lse = flash(own_query, own_key, own_value, True, scale)
            own, own_lse = _row(own), _row(own_lse[..., None])[..., 0]
            part = slice(rows.start - p, rows.stop - p)
            # The weight of the prefix in the joint softmax: exp(a) / (exp(a) + exp(b)) = sigmoid(a - b).
            weight = (shared_lse[:, :, part] - own_lse).sigmoid()[..., None]
            output[:, :, rows] = own + (shared[:, :, part] - own.to(weight.dtype)) * weight
            lse[:, :, rows] = torch.logaddexp(shared_lse[:, :, part], own_lse)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, output, lse = ctx.saved_tensors
        p, scale = ctx.layout.prefix, ctx.scale
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        prefix, rest = slice(0, p), slice(p, None)

        def over_prefix(rows: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            return flash_backward(
                gradient[:, :, rows],
                query[:, :, rows],
                key[:, :, prefix],
                value[:, :, prefix],
                output[:, :, rows],
                lse[:, :, rows],
                causal=causal,
                scale=scale,
            )

        d_query[:, :, prefix], from_prefix, value_from_prefix = over_prefix(prefix, True)
        d_query[:, :, rest], from_branches, value_from_branches = over_prefix(rest, False)
        torch.add(from_prefix, from_branches, out=d_key[:, :, prefix])
        torch.add(value_from_prefix, value_from_branches, out=d_value[:, :, prefix])
        for rows, count in ctx.layout.runs():
            d_own, q, k, v, out = (_branches(x, rows, count) for x in (gradient, query, key, value, output))
            own_lse = _branches(lse[..., None], rows, count)[..., 0]
            own, d_key_own, d_value_own = flash_backward(d_own, q, k, v, out, own_lse, causal=True, scale=scale)
            d_query[:, :, rows] += _row(own)
            d_key[:, :, rows], d_value[:, :, rows] = _row(d_key_own), _row(d_value_own)
        return d_query, d_key, d_value, None, None
