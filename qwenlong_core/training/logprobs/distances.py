"""How far the policy that is trained is from the one that sampled, and from the one it started as.

Both are measured on log-probs that a step computes anyway, or on passes without gradient, so nothing
here changes what is learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from trl.models import prepare_fsdp
from trl.trainer.utils import add_fused_lm_head


def beyond_nucleus(difference: Tensor, top_p: float) -> Tensor:
    """The part of a log-prob difference (engine minus trainer) that nucleus sampling cannot explain.

    The engine's log-probs are of the distribution it drew from: tempered, cut to the nucleus and
    renormalised. The trainer's are of the tempered distribution before the cut. A nucleus holds between
    ``top_p`` and all of the probability, so with equal models the difference lies in
    ``[0, -log(top_p)]``; returned is the distance from that interval, never negative. With
    ``top_p = 1`` that is the absolute difference.
    """
    explained = -math.log(top_p)
    return torch.maximum(difference - explained, -difference).clamp(min=0)


def kl_estimate(start: Tensor, policy: Tensor) -> Tensor:
    """KL(policy || start) from each token sampled by the policy, as TRL's KL term takes it: ``e^d - d - 1``
    with ``d = start - policy`` in log-probs. Unbiased and never negative."""
    gap = start - policy
    return gap.exp() - gap - 1


class LogprobDistances:
    """Mixin for a GRPO trainer: the engine's mismatch of every step, the KL to the start when asked for."""

    accelerator: Any
    args: Any
    model: Any
    ref_model: Any
    is_fsdp_enabled: bool
    temperature: float
    top_p: float
    _metrics: Any

    def keep_start(self, start: Any) -> None:
        """Keep the starting weights beside the policy, sharded as it is, for :meth:`measure_kl`."""
        add_fused_lm_head(start, temperature=self.temperature)
        if self.is_fsdp_enabled:
            self.ref_model = prepare_fsdp(start, self.accelerator)
        else:
            self.ref_model = self.accelerator.prepare_model(start, evaluation_mode=True)

    def measure_kl(self, batch: dict[str, Any]) -> None:
        """Report ``kl``, the mean over the tokens of the batch's kept groups on all processes."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        size = (batch["completion_ids"].size(1), self.args.per_device_train_batch_size)
        with torch.no_grad():
            policy = batch.get("old_per_token_logps")
            if policy is None:
                policy = self._get_per_token_logps_and_entropies(self.model, ids, attended, *size)[0]
            start = self._get_per_token_logps_and_entropies(self.ref_model, ids, attended, *size)[0]
        mask = _in_loss(batch)
        sums = torch.stack([(kl_estimate(start, policy) * mask).sum(), mask.sum()])
        total, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._metrics["train"]["kl"].append(total / tokens if tokens else math.nan)

    def engine_difference(self) -> dict[str, float]:
        """Of the step's tokens on all processes, engine against trainer; call it on every process.

        ``engine_logprob_difference`` is the mean absolute difference of the two log-probs as they are;
        ``engine_mismatch`` and ``engine_mismatch_max`` are mean and maximum of :func:`beyond_nucleus`.
        """
        found: list[Tensor] = self.__dict__.pop("_differences", [])
        difference = torch.cat(found) if found else torch.zeros(0, device=self.accelerator.device)
        outside = beyond_nucleus(difference, self.top_p)
        sums = torch.stack([difference.abs().sum(), outside.sum(), difference.new_tensor(len(difference))])
        apart, beyond, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        largest = torch.cat([outside, outside.new_zeros(1)]).max()
        maximum = float(self.accelerator.gather(largest).max())
        if not tokens:
            return {}
        return {
            "engine_logprob_difference": apart / tokens,
            "engine_mismatch": beyond / tokens,
            "engine_mismatch_max": maximum,
        }

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        self._newest_logps: Tensor = scored[0].detach()
        return scored

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        engine = inputs.get("sampling_per_token_logps")
        if engine is not None:
            # Without old log-probs this is the first pass since the rollouts: nothing has been updated.
            trained = inputs.get("old_per_token_logps", self._newest_logps)
            difference = (engine - trained)[_in_loss(inputs).bool()]
            # vLLM leaves a token it could not score as NaN.
            self.__dict__.setdefault("_differences", []).append(difference[~difference.isnan()])
        return loss


def _in_loss(batch: dict[str, Any]) -> Tensor:
    mask: Tensor = batch["completion_mask"] * batch.get("tool_mask", 1)
    return mask
