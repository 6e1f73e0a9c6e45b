"""Low-rank adapters in place of the weights."""

from __future__ import annotations

from pydantic import Field

from qwenlong_core.settings.base import Block, Name
from qwenlong_core.settings.running import LaunchSettings


class LoRASettings(Block):
    """Low-rank adaptation (arXiv 2106.09685) in SFT and every phase of GRPO: the weights are frozen in ``model.dtype``,
    and each linear layer learns an update of low rank beside its weight, in float32. Gradients and optimizer are those
    of the adapter alone, for which one card has room. When a stage ends, its adapter is merged into the weights.

    An adapter needs a learning rate about ten times that of full training, or more: the defaults of
    ``sft.learning_rate`` and ``grpo.learning_rate`` are those of full training.
    """

    rank: int = Field(32, ge=1, le=65_536)
    """Of the update of a weight."""
    alpha: float = Field(32.0, gt=0, le=65_536)
    """The update counts ``alpha / rank`` times."""
    targets: tuple[Name, ...] | None = Field(None, min_length=1)
    """Names of the linear layers that learn, such as ``["q_proj", "v_proj"]``; ``None`` takes all but the output
    head."""


def require_lora_alone(
    lora: LoRASettings | None, launch: LaunchSettings, optimizer_across_phases: str = "fresh"
) -> None:
    """Refuse settings that do not go with an adapter.

    Raises:
        ValueError: naming both settings.
    """
    if lora is None:
        return
    if launch.accelerate_config is not None:
        raise ValueError(
            f"lora trains on whole weights, and launch.accelerate_config={launch.accelerate_config!r} may shard them: "
            "drop one of them"
        )
    if launch.sequence_parallel > 1:
        raise ValueError(
            f"lora has not been tried on rows that processes share (launch.sequence_parallel="
            f"{launch.sequence_parallel}): drop one of them"
        )
    if optimizer_across_phases == "carried":
        raise ValueError(
            "grpo.optimizer_across_phases='carried' has nothing to carry with lora, whose adapter is a new one in each "
            "phase: set it to 'fresh'"
        )
