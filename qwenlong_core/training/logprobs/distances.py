"""How far the trained policy is from the policy that sampled, and from the policy that the phase started with.

Both are measured on log-probs that a step computes anyway or on passes without gradient, so measuring
changes nothing in what is learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def beyond_nucleus(difference: Tensor, top_p: float) -> Tensor:
    """The part of a log-prob difference (engine minus trainer) that nucleus sampling cannot explain.

    The engine's log-probs belong to the distribution that it drew from: tempered, cut to the nucleus and
    renormalised. The trainer's belong to the tempered distribution before the cut. A nucleus holds
    between ``top_p`` and all of the probability, so with equal models the difference lies in
    ``[0, -log(top_p)]``. The result is the distance from that interval, never negative. With
    ``top_p = 1`` it is the absolute difference.
    """
    explained = -math.log(top_p)
    return torch.maximum(difference - explained, -difference).clamp(min=0)


def kl_estimate(start: Tensor, policy: Tensor) -> Tensor:
    """KL(policy || start) estimated at each token that the policy sampled; unbiased and never negative.

    ``e^d - d - 1`` with ``d = start - policy`` in log-probs (the k3 estimator), as in TRL's KL term.
    """
    gap = start - policy
    return gap.exp() - gap - 1


def mean_kl(batch: dict[str, Any], start: Tensor, policy: Tensor, accelerator: Any) -> float:
    """The mean of :func:`kl_estimate` over the tokens in the loss, on all processes; NaN without any.

    Args:
        batch: TRL's batch, for its masks.
        start: Log-probs ``[rows, tokens]`` under the starting weights.
        policy: Log-probs ``[rows, tokens]`` under the weights that are trained.
        accelerator: Sums over the processes; call it on every process.
    """
    mask = _in_loss(batch)
    sums = torch.stack([(kl_estimate(start, policy) * mask).sum(), mask.sum()])
    total, tokens = accelerator.reduce(sums, reduction="sum").tolist()
    return total / tokens if tokens else math.nan


class EngineDistance:
    """Collects, over the forwards of a step, how the engine's log-probs differ from the trainer's."""

    def __init__(self, accelerator: Any, top_p: float) -> None:
        self.accelerator, self.top_p = accelerator, top_p
        self._differences: list[Tensor] = []

    def add(self, inputs: dict[str, Any], trained: Tensor) -> None:
        """Take in one forward.

        Args:
            inputs: What the loss was computed on.
            trained: The forward's own log-probs ``[rows, tokens]``, without gradient.
        """
        engine = inputs.get("sampling_per_token_logps")
        if engine is None:
            return
        # A batch without old log-probs is a single optimizer step, so no weight has changed since the
        # rollouts and the forward's own log-probs are the sampling policy's.
        sampled = inputs.get("old_per_token_logps", trained)
        difference = (engine - sampled)[_in_loss(inputs).bool()]
        # vLLM reports NaN for a token that it could not score.
        self._differences.append(difference[~difference.isnan()])

    def report(self) -> dict[str, float]:
        """The step's metrics over the tokens of all processes, and start anew; call it on every process.

        ``engine_logprob_difference`` is the mean absolute difference of the two log-probs;
        ``engine_mismatch`` and ``engine_mismatch_max`` are mean and maximum of :func:`beyond_nucleus`.
        Empty if the engine reported no log-probs.
        """
        found, self._differences = self._differences, []
        difference = torch.cat(found) if found else torch.zeros(0, device=self.accelerator.device)
        outside = beyond_nucleus(difference, self.top_p)
        sums = torch.stack([difference.abs().sum(), outside.sum(), difference.new_tensor(len(difference))])
        absolute, beyond, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        largest = torch.cat([outside, outside.new_zeros(1)]).max()
        maximum = float(self.accelerator.gather(largest).max())
        if not tokens:
            return {}
        return {
            "engine_logprob_difference": absolute / tokens,
            "engine_mismatch": beyond / tokens,
            "engine_mismatch_max": maximum,
        }


def _in_loss(batch: dict[str, Any]) -> Tensor:
    # Rows outside the loss are masked by TRL's tool mask: see Generated in trainer.py.
    mask: Tensor = batch["completion_mask"] * batch.get("tool_mask", 1)
    return mask
