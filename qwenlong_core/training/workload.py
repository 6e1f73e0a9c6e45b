"""What a step's update computed and sent, for its metrics: FLOP/s, share of the GPU's peak, bytes between processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.plan.adapter import trained
from qwenlong_core.plan.flops import PEAKS, model_flops, shared_row
from qwenlong_core.plan.shapes import NoPlan, Shape, shape_from
from qwenlong_core.plan.traffic import sent_bytes

logger = logging.getLogger(__name__)


def shape_of_config(config: Any) -> Shape | None:
    """The shape of a model; ``None``, with a line in the log, if its FLOPs are not known (a mixture of experts)."""
    try:
        return shape_from(config.get_text_config().to_dict(), config.name_or_path)
    except NoPlan as error:
        logger.info("steps report no FLOPs: %s", error)
        return None


def device_peak() -> float | None:
    """The GPU's dense bfloat16 FLOP/s by its data sheet; ``None`` for a CPU or a GPU that is not in the table."""
    name = torch.cuda.get_device_name().upper() if torch.cuda.is_available() else ""
    return next((peak for kind, peak in PEAKS.items() if kind.upper() in name), None)


class Workload:
    """Counts by formula, from the lengths of what was trained on.

    Args:
        shape: The model's; ``None`` reports nothing.
        job: The phase.
        arguments: TRL's, for the passes and forwards of a step.
    """

    def __init__(self, shape: Shape | None, job: GRPOJob, arguments: Any) -> None:
        self.shape, self.launch, self.lora, self.arguments = shape, job.launch, job.lora, arguments
        self.updates = arguments.steps_per_generation // arguments.gradient_accumulation_steps
        old = self.updates > 1 or arguments.use_vllm or job.grpo.aepo is not None
        self.scored = int(old) + int(arguments.beta > 0)
        self.peak = device_peak()

    def of_step(self, groups: Sequence[tuple[int, Sequence[int]]], seconds: float) -> dict[str, Any]:
        """Metrics of a step.

        Args:
            groups: Prompt tokens, and tokens of each completion, of every group that was trained on.
            seconds: From the finished batch to the last update.

        Returns:
            ``update_seconds``; ``tflops_per_second`` of one process, without what checkpointing computes again; ``mfu``
            where the device's peak is known; ``gigabytes_sent`` by one process to others, by formula.
        """
        found: dict[str, Any] = {"update_seconds": round(seconds, 3)}
        if self.shape is None:
            return found
        rows = [shared_row(prompt, completions) for prompt, completions in groups]
        rate = (
            sum(model_flops(self.shape, row, frozen=self.lora is not None) for row in rows)
            / self.launch.num_processes
            / seconds
        )
        forwards = self.arguments.steps_per_generation
        # Rows of a step are dealt out evenly, whichever process they lie on.
        a_forward = (
            sum(row.total for row in rows) * self.launch.sequence_parallel / self.launch.num_processes / forwards
        )
        sent = sent_bytes(
            self.shape, self.launch, scored=self.scored * forwards, trained=forwards, updates=self.updates,
            tokens=a_forward, parameters=trained(self.shape, self.lora),
        )  # fmt: skip
        found |= {"tflops_per_second": round(rate / 1e12, 4), "gigabytes_sent": round(sent.total / 1e9, 6)}
        return found | ({} if self.peak is None else {"mfu": round(rate / self.peak, 4)})
