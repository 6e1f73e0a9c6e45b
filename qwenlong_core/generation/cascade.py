"""Attention of many rows to keys and values that they share.

A row attends to the shared parts of its prompt and to its own tokens. Each shared part is in memory once, at batch
size 1: the queries of all rows below it are folded into one long query, so its keys and values are read once for all
rows. The results are merged by their log-sum-exps, which is exact (cascade attention, flashinfer.ai, 2024/02/02). It
works through transformers' ``AttentionInterface``; no model is patched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from qwenlong_core.generation.kv_cache import growing_cache

logger = logging.getLogger(__name__)

NAME = "qwenlong_cascade"
"""Registered name of the attention, set inside :func:`cascading`."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A part's keys and values, ``[1, heads, length, head_dim]`` in each layer, and the rows that attend to it."""

    cache: Cache
    first: int
    stop: int
    """The rows ``first .. stop - 1`` attend to the part."""


def keep_rows(shared: Sequence[Shared], rows: Sequence[int]) -> list[Shared]:
    """The parts once only these rows (ascending) are left; a part that no row attends to any more is dropped."""
    kept = []
    for part in shared:
        # Rows behind those that left move up: a border's new place is the number of remaining rows before it.
        first = sum(row < part.first for row in rows)
        stop = sum(row < part.stop for row in rows)
        if stop > first:
            kept.append(Shared(part.cache, first, stop))
    return kept


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention ``[B, H, S, D]`` and its log-sum-exps ``[B, H, S]``."""
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal, scale=scale
        )
        return output, lse
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, is_causal=causal, scale=scale
    )
    return output, lse[..., : query.size(2)]  # the kernel pads them to whole tiles


def _own(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each row's attention to its own tokens, ``[R, K, H / K * S, D]``, with its log-sum-exps."""
    rows, heads, length, width = query.shape
    kv_heads = key.size(1)
    if length == 1:
        # One new token sees all its own tokens, so the query heads of a key head can stand in as query positions and
        # the keys need not be repeated.
        return _attend(query.reshape(rows, kv_heads, -1, width), key, value, scale, causal=False)
    key, value = (states.repeat_interleave(heads // kv_heads, dim=1) for states in (key, value))
    output, lse = _attend(query, key, value, scale, causal=True)
    return output.reshape(rows, kv_heads, -1, value.size(-1)), lse.reshape(rows, kv_heads, -1)


def cascade_attention(
    query: Tensor, key: Tensor, value: Tensor, shared: Sequence[tuple[Tensor, Tensor, int, int]], scale: float
) -> Tensor:
    """Attention over own and shared tokens.

    Args:
        query: ``[R, H, S, D]``: one new token in each of R rows, or S new tokens of one row.
        key: ``[R, K, T, D]``, the rows' own tokens up to the new ones; H is a multiple of K.
        value: Same shape as ``key``.
        shared: Keys and values ``[1, K, P, D]`` of the tokens before them, with the first and the one-past-last row
            that attends to them.
        scale: Factor of the attention scores.

    Returns:
        ``[R, H, S, D]``.
    """
    rows, heads, length, width = query.shape
    kv_heads = key.size(1)
    output, lse = _own(query, key, value, scale)
    folded = query.reshape(rows, kv_heads, -1, width)
    for part_key, part_value, first, stop in shared:
        queries = folded[first:stop].transpose(0, 1).reshape(1, kv_heads, -1, width)
        part, part_lse = _attend(queries, part_key, part_value, scale, causal=False)
        part = part.view(kv_heads, stop - first, -1, part.size(-1)).transpose(0, 1)
        part_lse = part_lse.view(kv_heads, stop - first, -1).transpose(0, 1)
        # softmax over two blocks: exp(b) / (exp(a) + exp(b)) = sigmoid(b - a), with their log-sum-exps a and b
        share = torch.sigmoid(part_lse - lse[first:stop]).unsqueeze(-1).to(output.dtype)
        output[first:stop] = torch.lerp(output[first:stop], part, share)
        lse[first:stop] = torch.logaddexp(lse[first:stop], part_lse)
    return output.reshape(rows, heads, length, -1)  # not view: the CUDA kernel lays its output out by token, then head


def _interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_parts: Sequence[Shared] = (),
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    layer = module.layer_idx
    shared = [
        (part.cache.layers[layer].keys, part.cache.layers[layer].values, part.first, part.stop) for part in shared_parts
    ]
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    return cascade_attention(query, key, value, shared, scale).transpose(1, 2), None


AttentionInterface.register(NAME, _interface)


@contextmanager
def cascading(model: Any) -> Iterator[None]:
    """The model attends to shared parts inside this context, and as before afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def forward_inputs(tokens: Tensor, positions: Tensor, cache: Cache, shared: Sequence[Shared]) -> dict[str, Any]:
    """Arguments of a forward inside :func:`cascading`.

    Args:
        tokens: New tokens, ``[R, S]``.
        positions: Positions of the new tokens, ``[R, S]``.
        cache: The rows' own keys and values; the forward appends the new tokens.
        shared: The parts that the rows attend to besides their own tokens.
    """
    return {
        "input_ids": tokens,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
        # The attention itself decides which tokens see which. transformers would build a mask here, but it passes a
        # mask of four dimensions on unchanged.
        "attention_mask": tokens.new_zeros(1, 1, 1, 1, dtype=torch.bool),
        "shared_parts": shared,
        "logits_to_keep": 1,
    }


_TOLERANCE = {torch.float32: 1e-4}
"""Largest mean difference of log-probs. In float32 rounding gives about 1e-6 and a wrong mask 0.01 or more."""
_HALF_TOLERANCE = 0.1


@torch.no_grad()
def disagreement(model: Any, layers: int) -> float:
    """Mean difference of next-token log-probs between shared parts and a plain forward, on a few random rows."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (3, 48), generator=generator).to(model.device)
    # Three rows that share 40 tokens and have 8 of their own, which are decoded one by one below.
    ids[:, :40] = ids[0, :40]
    positions = torch.arange(48, device=model.device).expand(3, -1)
    plain = model(input_ids=ids, use_cache=False).logits[:, -1]
    prefix, cache = growing_cache(layers), growing_cache(layers)
    model(input_ids=ids[:1, :40], past_key_values=prefix, use_cache=True)
    with cascading(model):
        for at in range(40, 48):
            here = slice(at, at + 1)
            inputs = forward_inputs(ids[:, here], positions[:, here], cache, [Shared(prefix, 0, 3)])
            logits = model(**inputs).logits[:, -1]
    return float((logits.float().log_softmax(-1) - plain.float().log_softmax(-1)).abs().mean())


def shares_exactly(model: Any, layers: int) -> bool:
    """Whether the model computes the same log-probs with shared parts; if not, a warning is logged."""
    apart = disagreement(model, layers)
    if apart <= _TOLERANCE.get(model.dtype, _HALF_TOLERANCE):
        return True
    logger.warning(
        "%s computes other log-probs (mean difference %.2g) if rows share their prompt's keys and values: they are "
        "copied for every row, which takes more memory and time",
        type(model).__name__,
        apart,
    )
    return False
