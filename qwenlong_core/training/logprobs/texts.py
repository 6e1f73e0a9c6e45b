"""Rows of an SFT forward as one row of texts that each see only themselves, cut over the ranks of a span."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from qwenlong_core.training.logprobs.attention import run_row
from qwenlong_core.training.logprobs.packing import IGNORED, Layout, Packed
from qwenlong_core.training.logprobs.ulysses import Span


def end_to_end(batch: dict[str, Any]) -> dict[str, Tensor]:
    """A batch of TRL's collator in the form that it has for packed rows, whether they were packed or padded.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, each ``[1, N]`` without padding. Positions restart at 0 with
        each row.
    """
    ids = batch["input_ids"]
    kept = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids, dtype=torch.bool)
    positions = batch.get("position_ids")
    if positions is None:
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
    rows = {"input_ids": ids, "labels": batch["labels"], "position_ids": positions}
    return {name: values[kept][None] for name, values in rows.items()}


def pack_texts(input_ids: Tensor, labels: Tensor, position_ids: Tensor) -> Packed:
    """Texts that lie end to end, each tensor ``[1, N]``, with the label that each position predicts."""
    starts = position_ids[0] == 0
    first = starts.nonzero().flatten().tolist()
    lengths = tuple(end - start for start, end in zip(first, [*first[1:], len(starts)]))
    # A text's last token predicts nothing: what follows is the next text's first token.
    predicted = labels.masked_fill(starts, IGNORED).roll(-1, dims=1)
    return Packed(input_ids, position_ids, predicted, Layout.group(0, lengths))


def forward_over(
    span: Span, model: Any, *, input_ids: Tensor, labels: Tensor, position_ids: Tensor, **_: Any
) -> FusedCausalLMOutput:
    """What TRL's head returns for texts that lie end to end, computed by the ranks of a span together.

    Raises:
        ValueError: the row has fewer tokens than the span has ranks.
    """
    packed = pack_texts(input_ids, labels, position_ids)
    if packed.layout.tokens < span.size:
        raise ValueError(
            f"a row of {packed.layout.tokens} tokens cannot be cut over {span.size} ranks: drop it or lower "
            "launch.sequence_parallel"
        )
    log_probs, entropy, is_top1 = run_row(model, packed, span, "log_probs", "entropy", "is_top1")
    mask = packed.labels != IGNORED
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy,
        is_top1=is_top1,
        label_mask=mask,
    )
