"""One forward and backward over the prompt for all completions of a group.

A group of G completions of C tokens on a prompt of P tokens is packed into one row::

    p_0 .. p_{P-2} | p_{P-1} a_1 .. a_{C-1} | p_{P-1} b_1 .. b_{C-1} | ...
       prefix             branch a                branch b

Positions of every branch continue at the prompt's end, and a branch sees the prefix and itself. The
last prompt token stands in every branch, so that each position predicts exactly one label. What the
model computes is what it computes for G separate rows, but the prompt is run once: P + G * C
tokens in place of G * (P + C). This works through transformers' ``AttentionInterface``; no model is
patched.

The prefix's keys and values are not copied either. All branches attend to them in one call without
a mask, each branch attends to itself causally, and the two results are merged by their
log-sum-exps. The backward replays both calls with the merged output and log-sum-exp, as ring
attention does (arXiv 2310.01889).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IGNORED = -100

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a packed row's parts lie: ``prefix`` tokens, then ``branches`` times ``length`` tokens."""

    prefix: int
    branches: int
    length: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed row of N tokens, each tensor ``[1, N]``."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    """The token each position predicts; -100 in the prefix and after a branch's end."""
    layout: Layout


def pack(prompt: Tensor, completions: Tensor, mask: Tensor) -> Packed:
    """Pack a group.

    Args:
        prompt: ``[P]``, at least two tokens.
        completions: ``[G, C]``, padded on the right.
        mask: ``[G, C]``, 1 on tokens.
    """
    branches, length = completions.shape
    prefix = len(prompt) - 1
    inputs = torch.cat([prompt[-1:].expand(branches, 1), completions[:, :-1]], dim=1)
    positions = torch.arange(prefix + length, device=prompt.device)
    labels = completions.masked_fill(mask == 0, IGNORED)
    return Packed(
        input_ids=torch.cat([prompt[:-1], inputs.flatten()])[None],
        position_ids=torch.cat([positions[:prefix], positions[prefix:].repeat(branches)])[None],
        labels=torch.cat([labels.new_full((prefix,), IGNORED), labels.flatten()])[None],
        layout=Layout(prefix, branches, length),
    )


def unpack(values: Tensor, layout: Layout) -> Tensor:
    """The branches' part ``[G, C]`` of values ``[1, N]``."""
    return values[0, layout.prefix :].view(layout.branches, layout.length)


class _MergedAttention(torch.autograd.Function):
    """Branch queries against the shared prefix and against their own branch, merged."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, scale: float
    ) -> Tensor:
        """``query [G, H, C, D]``, ``key`` and ``value`` ``[1, K, P, D]``, own ``[G, H, C, D]``; H is a
        multiple of K. Returns ``[G, H, C, D]``."""
        heads = key.size(1)
        shared, shared_lse = _flash(_fold(query, heads), key, value, scale=scale)
        own, own_lse = _flash(query, own_key, own_value, is_causal=True, scale=scale)
        shared = _unfold(shared, query.shape)
        shared_lse = _unfold(shared_lse.unsqueeze(-1), (*query.shape[:3], 1))
        own_lse = own_lse.unsqueeze(-1)
        lse = torch.logaddexp(shared_lse, own_lse)
        merged: Tensor = shared * (shared_lse - lse).exp() + own * (own_lse - lse).exp()
        output = merged.to(query.dtype)
        ctx.save_for_backward(query, key, value, own_key, own_value, output, lse)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, own_key, own_value, output, lse = ctx.saved_tensors
        heads = key.size(1)
        gradient = gradient.contiguous()
        to_shared, d_key, d_value = _flash_backward(
            _fold(gradient, heads), _fold(query, heads), key, value, _fold(output, heads),
            _fold(lse, heads).squeeze(-1), 0.0, False, scale=ctx.scale,
        )  # fmt: skip
        to_own, d_own_key, d_own_value = _flash_backward(
            gradient,
            query,
            own_key,
            own_value,
            output,
            lse.squeeze(-1).contiguous(),
            0.0,
            True,
            scale=ctx.scale,
        )
        return _unfold(to_shared, query.shape) + to_own, d_key, d_value, d_own_key, d_own_value, None


def _fold(states: Tensor, heads: int) -> Tensor:
    """``[G, H, C, D]`` as ``[1, heads, H / heads * G * C, D]``: one long query per key head."""
    g, h, c, d = states.shape
    return states.view(g, heads, h // heads, c, d).permute(1, 2, 0, 3, 4).reshape(1, heads, -1, d)


def _unfold(states: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """The inverse of :func:`_fold`."""
    g, h, c, d = shape
    heads = states.size(1)
    return states.view(heads, h // heads, g, c, d).permute(2, 0, 1, 3, 4).reshape(g, h, c, d)


def _by_concatenation(
    query: Tensor, key: Tensor, value: Tensor, own_key: Tensor, own_value: Tensor, scale: float
) -> Tensor:
    """The same result by a stock kernel, on any device, with the prefix copied for every branch."""
    g, h, c, _ = query.shape

    def join(shared: Tensor, own: Tensor) -> Tensor:
        repeated = shared.repeat_interleave(h // shared.size(1), dim=1).expand(g, -1, -1, -1)
        return torch.cat([repeated, own], dim=2)

    mask = torch.ones(c, key.size(2) + c, dtype=torch.bool, device=query.device).tril(key.size(2))
    return scaled_dot_product_attention(
        query, join(key, own_key), join(value, own_value), attn_mask=mask, scale=scale
    )


def group_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attention over a packed row.

    Args:
        query: ``[1, H, N, D]``.
        key: ``[1, K, N, D]`` with K key heads, as ``value``.
        layout: The row's.
        scale: Of the scores.

    Returns:
        ``[1, H, N, D]``.
    """
    p, g, c = layout.prefix, layout.branches, layout.length
    repeats = query.size(1) // key.size(1)

    def branches(states: Tensor) -> Tensor:
        heads, width = states.size(1), states.size(3)
        return states[0, :, p:].view(heads, g, c, width).transpose(0, 1).contiguous()

    shared_key, shared_value = key[:, :, :p], value[:, :, :p]
    prefix = scaled_dot_product_attention(
        query[:, :, :p], shared_key, shared_value, is_causal=True, scale=scale, enable_gqa=repeats > 1
    )
    own = [branches(states).repeat_interleave(repeats, dim=1) for states in (key, value)]
    merge: Callable[..., Tensor] = _MergedAttention.apply if query.device.type == "cpu" else _by_concatenation
    merged = merge(branches(query), shared_key.contiguous(), shared_value.contiguous(), *own, scale)
    return torch.cat([prefix, merged.transpose(0, 1).reshape(1, query.size(1), g * c, -1)], dim=2)


def _attention_over(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Attention that packs where a layout is given, and is ``base`` everywhere else."""

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        prefix_layout: Layout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if prefix_layout is None:
            result: tuple[Tensor, Tensor | None] = ALL_ATTENTION_FUNCTIONS[base](
                module, query, key, value, attention_mask, **kwargs
            )
            return result
        scale = kwargs.get("scaling") or query.size(-1) ** -0.5
        return group_attention(query, key, value, prefix_layout, scale).transpose(1, 2), None

    return attend


def obstacle(config: Any) -> str | None:
    """Why a model cannot share prefixes, or ``None``."""
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps its attention scores"
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, and packing is written for sdpa"
    return None


NAME = "qwenlong_shared_prefix"
"""The attention's registered name. It stays set for the whole run: with gradient checkpointing a
layer runs again in the backward, after the forward call has returned."""

AttentionInterface.register(NAME, _attention_over("sdpa"))
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def forward_inputs(packed: Packed) -> dict[str, Any]:
    """Arguments for a forward over a packed row, apart from its labels."""
    return {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        # Restarting positions without a mask look like packed documents to transformers, which would cut
        # the completions off their prompt; a mask of four dimensions is handed through as it is.
        "attention_mask": packed.input_ids.new_zeros(1, 1, 1, 1, dtype=torch.bool),
        "prefix_layout": packed.layout,
    }


def share_prefixes(model: Any) -> None:
    """Let a model take packed rows, after checking on a small group that it computes the same.

    Raises:
        RuntimeError: log-probs of packed and separate rows differ.
    """
    model.set_attn_implementation(NAME)
    apart = disagreement(model)
    if apart > _TOLERANCE:
        raise RuntimeError(
            f"{type(model).__name__}: log-probs of packed rows differ from those of separate rows by {apart:.2g}, "
            f"over {_TOLERANCE}; set model.attention='eager' to train without sharing prefixes, and report the model"
        )


_TOLERANCE = 1e-3
"""Largest difference of a log-prob in float32. Rounding gives about 1e-5, a wrong mask 0.1 and more."""


@torch.no_grad()
def disagreement(model: Any) -> float:
    """Largest difference of log-probs between a packed group and its separate rows."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    prompt = torch.randint(vocabulary, (61,), generator=generator).to(model.device)
    completions = torch.randint(vocabulary, (3, 9), generator=generator).to(model.device)
    packed = pack(prompt, completions, torch.ones_like(completions))
    was_training = model.training
    model.eval()
    together = unpack(
        _label_logprobs(model(**forward_inputs(packed), use_cache=False).logits, packed.labels), packed.layout
    )
    rows = torch.cat([prompt.expand(3, -1), completions], dim=1)
    separate = _label_logprobs(model(input_ids=rows, use_cache=False).logits[:, 60:-1], completions)
    model.train(was_training)
    return float((together - separate).abs().max())


def _label_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
