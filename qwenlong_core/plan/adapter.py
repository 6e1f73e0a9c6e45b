"""What LoRA changes in a plan: weights stay in the model's dtype, and only an adapter has gradients and an optimizer.

The adapter's own products are left out of times: of the ranks in use they are about a hundredth.
"""

from __future__ import annotations

from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.settings.tree import Settings


def trained(shape: Shape, lora: LoRASettings | None) -> int:
    """Parameters that are trained, in float32: all, or those of an adapter."""
    if lora is None:
        return shape.parameters
    sizes = [size for name, size in shape.linear.items() if lora.targets is None or name in lora.targets]
    return shape.layers * lora.rank * sum(inputs + outputs for inputs, outputs in sizes)


def frozen_bytes(shape: Shape, settings: Settings) -> float:
    """Bytes of weights that are not trained."""
    if settings.lora is None:
        return 0.0
    return (4.0 if settings.model.dtype == "float32" else 2.0) * shape.parameters


def lora_faults(shape: Shape, settings: Settings) -> list[str]:
    """Why an adapter cannot be trained."""
    if settings.lora is None or not shape.experts:
        return []
    return [
        f"lora does not reach the experts of model.name={settings.model.name!r}, which are no linear layers: leave it"
        " out, or name a dense model"
    ]
