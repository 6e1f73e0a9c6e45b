"""Models and machines that the tests of plans share."""

from __future__ import annotations

from pathlib import Path

from qwenlong_core.plan.machine import ASSUMED, Machine, machine_of
from qwenlong_core.plan.make import Plan, make_plan
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

B14, B32 = (shape_of(ModelSettings(name=f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}B")) for size in (14, 32))
A3B = shape_of(ModelSettings(name="Qwen/Qwen3-30B-A3B-Thinking-2507"))
H100 = ASSUMED["h100"]
# One rate for every kernel, as public estimates of a step take it.
FLAT = H100.model_copy(
    update=dict.fromkeys(("products", "attention", "attention_backward"), 400e12) | {"elementwise": 1e18}
)


def of(profile: str, *overrides: str) -> Settings:
    return load_settings(profile, overrides)


def plan_of(profile: str, *overrides: str, machine: Machine | None = None) -> Plan:
    settings = of(profile, *overrides)
    kind = "cpu" if settings.model.dtype == "float32" else "h100"
    return make_plan(settings, machine or machine_of(kind, Path("/nonexistent"), settings.plan.memory_gib))


def little(**changes: int | bool) -> Shape:
    """A shape whose sums can be done in the head."""
    sizes = {"layers": 2, "hidden": 4, "intermediate": 8, "heads": 2, "kv_heads": 1, "head": 2, "vocabulary": 10}
    return Shape(**sizes | {"tied": False} | changes)
