"""Attention over packed rows, through transformers' ``AttentionInterface``; no model is patched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qwenlong_core.training.logprobs.flex import flex
from qwenlong_core.training.logprobs.merged import MergedAttention, has_flash_kernel
from qwenlong_core.training.logprobs.packing import Layout, Packed
from qwenlong_core.training.logprobs.ulysses import Share, Span

logger = logging.getLogger(__name__)

NAME = "qwenlong_shared_prefix"
"""Registered name of the attention. It stays set for the whole run: with gradient checkpointing a layer runs again in
the backward, after the forward call has returned."""


@cache
def _announce(kernel: str, device: str, dtype: torch.dtype) -> None:
    logger.info("attention over shared prompts: %s on %s in %s", kernel, device, dtype)


def group_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attention over a packed row. Heads are independent, so any subset of them can be passed.

    Args:
        query: ``[1, H, N, D]``.
        key: ``[1, K, N, D]`` with K key heads; H is a multiple of K.
        value: Same shape as ``key``.
        layout: Layout of the row.
        scale: Factor of the attention scores.

    Returns:
        ``[1, H, N, D]``.
    """
    if not layout.branches:  # one text
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    by_flash = has_flash_kernel(query, key, value)
    _announce("flash calls merged" if by_flash else "flex attention", query.device.type, value.dtype)
    if by_flash:
        apply: Callable[..., Tensor] = MergedAttention.apply
        return apply(query, key, value, layout, scale)
    return flex(query, key, value, layout, scale)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix_layout: Layout | Share | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Packed attention if a layout is given, over the ranks of a share if it is one, otherwise transformers' SDPA."""
    if prefix_layout is None:
        result: tuple[Tensor, Tensor | None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, **kwargs
        )
        return result
    scale = kwargs.get("scaling") or query.size(-1) ** -0.5
    # Under autocast, Qwen3's norm of queries and keys returns them in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if isinstance(prefix_layout, Layout):
        output = group_attention(query, key, value, prefix_layout, scale)
    else:
        whole = prefix_layout.to_heads(query, key, value)
        output = prefix_layout.to_tokens(group_attention(*whole, prefix_layout.layout, scale))
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
# transformers looks up a mask function under the attention's name; without one, rows that are not packed get no mask.
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def unsupported_reason(model: Any) -> str | None:
    """The reason why a model cannot share prefixes, or ``None``."""
    return unsupported_config(model.config.get_text_config(), replaceable=model._supports_attention_backend)


def unsupported_config(config: Any, *, replaceable: bool) -> str | None:
    """The same from a text config, and from whether its kind of model lets its attention be replaced."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if not replaceable:
        return "its attention cannot be replaced"
    # Older configs have no layer_types, and one window for all layers.
    if not hasattr(config, "layer_types") and getattr(config, "sliding_window", None):
        return "its attention has a window"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps its attention scores"
    if getattr(config, "v_head_dim", None) is not None:
        return "its values have a width of their own"
    if getattr(config, "attention_dropout", 0.0):
        return "it drops attention weights"
    if config._attn_implementation == "eager":
        return "its attention is set to eager, the plain computation"
    return None


def forward_inputs(packed: Packed, span: Span | None = None) -> dict[str, Any]:
    """Arguments of a forward over a packed row; with a span, over this rank's tokens of it. Without labels."""
    share = packed.layout if span is None else Share(packed.layout, span)
    own = slice(None) if isinstance(share, Layout) else share.own
    return {
        "input_ids": packed.input_ids[:, own],
        "position_ids": packed.position_ids[:, own],
        # transformers takes restarting positions without a mask for packed documents, and would hide the prompt from
        # the completions. It passes a mask of four dimensions on unchanged.
        "attention_mask": packed.input_ids.new_zeros(1, 1, 1, 1, dtype=torch.bool),
        "prefix_layout": share,
    }


def run_row(model: Any, packed: Packed, span: Span | None, *names: str) -> list[Tensor]:
    """Values ``[1, N]`` of the output head over a packed row; with a span, its ranks compute the row together.

    Args:
        model: Its attention is set to :data:`NAME`.
        packed: The row, the same on all ranks of the span.
        span: The ranks that cut it.
        names: The head's: ``log_probs``, ``entropy`` or ``is_top1``.
    """
    inputs = forward_inputs(packed, span)
    share = inputs["prefix_layout"]
    if isinstance(share, Layout):
        output = model(**inputs, shift_labels=packed.labels, fused_lm_head=True)
        return [getattr(output, name) for name in names]
    output = model(**inputs, shift_labels=packed.labels[:, share.own], fused_lm_head=True)
    return [share.gather(getattr(output, name).float()) for name in names]
