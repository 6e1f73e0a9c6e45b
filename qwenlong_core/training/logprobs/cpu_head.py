"""The output head on a CPU: log-probs at labelled positions only, in tiles.

TRL's fused head never builds the whole logits matrix. On a GPU it projects only labelled positions, but on a CPU it
projects every position: with a prompt of 1,024 tokens and a completion of 64 that is 17 times the necessary work. It
also passes over each logit about ten times. This head replaces it on a CPU.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from qwenlong_core.training.logprobs.fast_linear import product
from qwenlong_core.training.logprobs.packing import IGNORED
from qwenlong_core.training.lora import base_of

logger = logging.getLogger(__name__)

_TILE = 2**24
"""Most logits that exist at a time: 64 MB in float32. One more tensor of that size is needed beside them."""
_OTHER_HEADS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Config fields of models whose head does more than project: it scales or caps logits (Gemma, Cohere, Granite)."""


class _LabelScores(torch.autograd.Function):
    """Scores of labels ``[N]`` after states ``[N, H]``: log-prob, entropy, whether the label is the likeliest token.

    Each is ``[N]``. The backward computes each tile of logits again; the entropy has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.dtype, ctx.temperature = dtype, temperature
        targets, entropies, sums, likeliest = (hidden.new_empty(len(labels), dtype=torch.float32) for _ in range(4))
        for rows in _tiles(len(labels), len(weight)):
            logits = _logits(hidden[rows], weight, bias, dtype, temperature)
            # One pass for everything: with s = exp(l - top), log-sum-exp = top + log(sum s) and
            # entropy = log(sum s) - sum(s * (l - top)) / sum s.
            target, top = logits.gather(1, labels[rows, None])[:, 0], logits.amax(1)
            shares = logits.sub_(top[:, None]).exp()
            total = shares.sum(1)
            sums[rows] = top + total.log()
            entropies[rows] = total.log() - torch.einsum("nv,nv->n", shares, logits) / total
            targets[rows], likeliest[rows] = target, (target == top).float()
        ctx.save_for_backward(hidden, weight, bias, labels, sums)
        ctx.mark_non_differentiable(entropies, likeliest)
        return targets - sums, entropies, likeliest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, labels, sums = ctx.saved_tensors
        to_hidden, to_weight, to_bias, *_rest = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if to_hidden else None
        # Sums over tiles are kept in float32: rounding every partial sum to bfloat16 would bias them.
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        for rows in _tiles(len(labels), len(weight)):
            states = hidden[rows]
            # d(log-prob) / d(logits) = (one-hot - softmax) / temperature; the tile holds softmax - one-hot.
            tile = _logits(states, weight, bias, ctx.dtype, ctx.temperature).sub_(sums[rows, None]).exp_()
            tile.scatter_add_(1, labels[rows, None], tile.new_full((len(tile), 1), -1.0))
            tile.mul_(gradient[rows, None] / -ctx.temperature)
            if d_hidden is not None:
                d_hidden[rows] = product(tile, weight.t().to(tile.dtype))
            if d_weight is not None:
                d_weight.addmm_(tile.t(), states.float())
            if d_bias is not None:
                d_bias += tile.sum(0)
        return (
            d_hidden,
            d_weight.to(weight.dtype) if d_weight is not None else None,
            d_bias.to(bias.dtype) if d_bias is not None else None,
            None,
            None,
        )


def _tiles(rows: int, vocabulary: int) -> list[slice]:
    """Slices of rows with at most ``_TILE`` logits, and at least one row."""
    size = max(1, _TILE // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, temperature: float) -> Tensor:
    """Logits divided by the temperature, in float32; the product is computed in ``dtype``."""
    cast = None if bias is None else bias.to(dtype)
    with torch.autocast(states.device.type, enabled=False):
        logits = product(states.to(dtype), weight.to(dtype), cast).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def label_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float
) -> FusedCausalLMOutput:
    """Score the labels that are not -100.

    Args:
        hidden: Last hidden states, ``[B, T, H]``.
        weight: Weight of the output head, ``[V, H]``.
        bias: Bias of the output head, ``[V]``, or ``None``.
        labels: The token each position should predict, or -100, ``[B, T]``.
        temperature: Divides the logits.

    Returns:
        ``log_probs``, ``entropy`` and ``is_top1``, each ``[B, T]`` and zero where the label is -100.
        ``log_probs`` stays connected to ``hidden`` even when no position is labelled. ``entropy`` has no gradient.
    """
    # Only labelled positions are projected. Autograd scatters the gradient of ``hidden[mask]`` back to all positions.
    mask = labels != IGNORED
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _LabelScores.apply
    scores = apply(hidden[mask], weight, bias, labels[mask], temperature)
    log_probs, entropy, is_top1 = (x.new_zeros(mask.shape).masked_scatter(mask, x) for x in scores)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy,
        is_top1=is_top1.bool(),
        label_mask=mask,
    )


def use_compact_head(model: Any, temperature: float = 1.0) -> bool:
    """Replace a model's fused head from TRL on a CPU. Call it after the trainer is built, which installs TRL's.

    Returns:
        Whether the head was replaced. TRL's head stays on a GPU, where it is as good, and for models whose head does
        more than project.
    """
    model = base_of(model)
    config = model.config.get_text_config()
    other = [name for name in _OTHER_HEADS if getattr(config, name, None) is not None]
    if torch.cuda.is_available():
        return False
    if other:
        logger.warning("%s sets %s: keeping TRL's slower output head", type(model).__name__, ", ".join(other))
        return False
    fused_forward = model.forward

    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Any = None,
        shift_labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            return fused_forward(*args, labels=labels, shift_labels=shift_labels, **kwargs)
        # The loss is TRL's; the base model does not know its normaliser.
        kwargs.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state
        head = self.get_output_embeddings()
        # Under FSDP2 the weight is a DTensor whose parts must be gathered for every call.
        weight = head.weight.full_tensor() if hasattr(head.weight, "full_tensor") else head.weight
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]
        return label_log_probs(hidden, weight, head.bias, shift_labels, temperature)

    # generate() checks its arguments against the signature of forward.
    forward.__wrapped__ = type(model).forward  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)
    return True
