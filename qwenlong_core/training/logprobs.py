"""Log-probabilities at labelled positions only, in tiles, on every device.

TRL's fused head never builds the logits matrix. On a GPU it projects labelled positions only; on
a CPU it projects every position, so a 1,024-token prompt before a 64-token completion costs 17
times what it must. This head takes its place there, with the same tiles and the same outputs.
"""

from __future__ import annotations

import logging
import types
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import FusedCausalLMOutput

logger = logging.getLogger(__name__)

_TOKENS_AT_ONCE = 4096
"""TRL's own; not a parameter of its function."""
_TILE = 2**24
"""Logits that exist at a time, 64 MB in float32; a few tensors of that size stand beside it."""
_OUTPUTS = ("entropy", "is_top1")
_OTHER_HEADS = (
    "final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling",
    "router_aux_loss_coef",
)  # fmt: skip
"""Config fields of models whose head does more than project: logits scaled or capped (Gemma, Cohere,
Granite), or a mixture-of-experts loss on top."""


def label_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float
) -> FusedCausalLMOutput:
    """Score the labels that are not -100.

    Args:
        hidden: ``[B, T, H]``.
        weight: ``[V, H]`` of the output head, and ``bias`` ``[V]``.
        labels: ``[B, T]``, the token each position should predict, or -100.
        temperature: Divides the logits.

    Returns:
        ``log_probs``, ``entropy`` and ``is_top1``, each ``[B, T]`` and zero where the label is -100.
        ``log_probs`` stays connected to ``hidden`` even when no position is labelled.
    """
    mask = labels != -100
    scored = labels[mask]
    vocabulary_tile = min(len(weight), _TILE // min(max(len(scored), 1), _TOKENS_AT_ONCE))
    log_probs, entropy, _, _, is_top1 = ChunkedLogProbFunction.apply(
        hidden[mask], weight, bias, scored, temperature, vocabulary_tile, None, 1.0, _OUTPUTS
    )
    log_probs, entropy, is_top1 = (
        x.new_zeros(mask.shape).masked_scatter(mask, x) for x in (log_probs, entropy, is_top1)
    )
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy,
        is_top1=is_top1,
        label_mask=mask,
    )


def use_compact_head(model: Any, temperature: float = 1.0) -> bool:
    """Replace TRL's fused head of a model on CPU; call it after the trainer has been built.

    Returns:
        Whether it was replaced. It is not on a GPU, where TRL's own is as good, and for models
        whose head does more than project, which keep TRL's.
    """
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
        kwargs.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state
        head = self.get_output_embeddings()
        weight = head.weight.full_tensor() if hasattr(head.weight, "full_tensor") else head.weight
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]
        return label_log_probs(hidden, weight, head.bias, shift_labels, temperature)

    # generate() reads the signature of forward to check its arguments
    forward.__wrapped__ = type(model).forward  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)
    return True
