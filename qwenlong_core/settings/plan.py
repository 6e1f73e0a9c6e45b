"""The plan: which machine it reckons with, and whether it may refuse a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenlong_core.settings.base import Block, Name


class PlanSettings(Block):
    """What ``qwenlong plan`` and the checks before a run reckon with."""

    check: Literal["on", "off"] = "on"
    """``off`` starts a run whose plan does not fit."""
    machine: str = Field("auto", pattern=r"^[a-z0-9-]+$")
    """``cpu``, ``a100``, ``h100``, ``h200``, or a kind that was measured. ``auto`` is ``cpu`` for a model in float32,
    else the GPU that stages find here, and ``h100`` where they find none or a pool runs them."""
    memory_gib: float | None = Field(None, gt=0)
    """Memory of one GPU, or of the host for ``cpu``; ``None`` takes the machine's."""
    host_memory_gib: float | None = Field(None, gt=0)
    """Host memory of one node; ``None`` does not check what the host needs."""
    price_per_gpu_hour: float = Field(2.5, ge=0)
    """Money for one GPU and hour, in your currency."""
    folder: Name = ".qwenlong/machines"
    """Measured rates and what earlier runs have taught, one file a kind of machine."""
