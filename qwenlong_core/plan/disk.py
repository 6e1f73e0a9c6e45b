"""Bytes on disk: policies, checkpoints, and what a run writes in all."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.plan.adapter import trained
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.tree import Settings

KEPT = 2
"""Checkpoints kept beside the one that is being written; the store keeps as many."""
_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes."""

    policy: float
    """One policy folder."""
    checkpoint: float
    """One training checkpoint: what is trained, and both moments of Adam, in float32."""
    work: float
    """The work folder at its fullest: checkpoints, the policy, the input."""
    store: float
    """The store after a run: a policy of each stage, and checkpoints where ``storage.keep_checkpoints`` keeps them.
    While a stage trains, its newest two lie there, too."""
    written: float
    """By all checkpoints of a run; each is sent to the store too."""


def disk_of(shape: Shape, settings: Settings, sft_steps: int) -> Disk:
    """What the profile's run needs; rows, samples and reports are small beside weights and are left out."""
    policy = float(_BYTES[settings.model.dtype] * shape.parameters)
    checkpoint = 12.0 * trained(shape, settings.lora)
    count = sft_steps // settings.sft.save_steps
    count += sum(phase.steps // settings.grpo.save_steps for phase in settings.grpo.phases)
    trainings = bool(sft_steps) + len(settings.grpo.phases)
    kept = KEPT * trainings * checkpoint if settings.storage.keep_checkpoints else 0.0
    carried = 8.0 * shape.parameters if settings.grpo.optimizer_across_phases == "carried" else 0.0
    return Disk(
        policy=policy,
        checkpoint=checkpoint,
        work=(KEPT + 1) * checkpoint + 2 * policy + carried,
        store=(1 + trainings) * policy + kept + len(settings.grpo.phases) * carried,
        written=count * checkpoint,
    )
