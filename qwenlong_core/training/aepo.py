"""AEPO (QwenLong-L1.5, arXiv 2512.12967): what went wrong is learned from only while the entropy is not too high.

The released snippet masks while the entropy lies between the two thresholds, against its own comment and the paper.
This follows the paper: masking begins above ``high`` and ends below ``low``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.settings.training import AEPOSettings


def batch_entropy(batch: dict[str, Any], entropies: Tensor, accelerator: Any) -> float | None:
    """Mean entropy (nats per token) over the tokens in the loss, on all processes; ``None`` without any.

    Args:
        batch: TRL's batch, for its masks.
        entropies: Of this process's rows, ``[rows, tokens]``.
        accelerator: Sums over the processes; call it on every process.
    """
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    sums = torch.stack([entropies[mask].double().sum(), mask.sum().double()])
    total, tokens = accelerator.reduce(sums, reduction="sum").tolist()
    return total / tokens if tokens else None


def mask_negatives(batch: dict[str, Any], accelerator: Any) -> float:
    """Take rows with a negative advantage out of the loss and of its denominator; call it on every process.

    Returns:
        Their share of the rows in the loss, on all processes.
    """
    negative, counted = batch["advantages"] < 0, (batch["completion_mask"] * batch["tool_mask"]).any(dim=1)
    batch["tool_mask"] = batch["tool_mask"] * ~negative[:, None]
    tokens = (batch["completion_mask"] * batch["tool_mask"]).sum()
    totals = accelerator.gather(torch.stack([tokens, negative.sum(), counted.sum()])[None]).sum(dim=0)
    batch["num_items_in_batch"] = totals[0]
    return float(totals[1] / totals[2])


@dataclass
class NegativeMask:
    """Whether completions with a negative advantage are masked. All of its state, so that a run resumes exactly."""

    on: bool = False

    def see(self, entropy: float | None, settings: AEPOSettings) -> bool:
        """Take in a batch's entropy (``None`` if it has no tokens) and return whether to mask this batch."""
        if entropy is not None and entropy > settings.high:
            self.on = True
        elif entropy is not None and entropy < settings.low:
            self.on = False
        return self.on

    def apply(
        self, batch: dict[str, Any], entropies: Tensor | None, settings: AEPOSettings, accelerator: Any
    ) -> dict[str, Any]:
        """Mask a batch before its first update, if it is due; call it on every process.

        Args:
            batch: TRL's batch, which is changed.
            entropies: ``[rows, tokens]`` of this process's rows under the policy that is about to be updated.
            settings: The thresholds.
            accelerator: Sums over the processes.

        Returns:
            Metrics: ``entropy_batch`` before masking, and ``negatives_masked_share`` of the completions in the loss.
        """
        assert entropies is not None
        entropy = batch_entropy(batch, entropies, accelerator)
        share = mask_negatives(batch, accelerator) if self.see(entropy, settings) else 0.0
        return {"entropy_batch": entropy, "negatives_masked_share": share}
