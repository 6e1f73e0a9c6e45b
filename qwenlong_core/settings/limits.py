"""Between which values a number in the settings makes sense, by its name.

Far beyond what anybody needs, and far below where a machine would fail on it hours later. A field that states its own
bounds has them as well. ``tests/settings/test_limits.py`` holds that every number has an upper bound.
"""

from __future__ import annotations

import math

_NAMES: dict[str, tuple[float, float]] = {
    "batch_size": (0, 1_000_000),
    "bootstrap_resamples": (0, 1_000_000),
    "clip_high": (0, 1_000),
    "clip_low": (0, 1_000),
    "concurrency": (0, 10_000),
    "cpu_threads": (0, 1_024),
    "epochs": (0.001, 10_000),
    "floor": (0, 100),
    "gpus": (0, 10_000),
    "group_size": (0, 4_096),
    "high": (0, 100),
    "keep_per_question": (0, 10_000),
    "kl_coefficient": (0, 1_000),
    "kl_to_start_every": (0, 1_000_000),
    "learning_rate": (0, 10),
    "limit": (0, 100_000_000),
    "low": (0, 100),
    "margin": (-1, 1),
    "max_grad_norm": (0, 1e6),
    "max_rounds": (0, 1_000),
    "nights": (0, 3_650),
    "num_machines": (0, 10_000),
    "num_processes": (0, 100_000),
    "probe_samples": (0, 10_000),
    "restarts": (0, 1_000),
    "retire_after_visits": (0, 1_000_000),
    "rows": (0, 10_000_000),
    "samples": (0, 10_000),
    "sequence_parallel": (0, 1_024),
    "temperature": (0, 100),
    "tensor_parallel": (0, 1_024),
    "tolerance": (0, 1),
    "weight_decay": (0, 100),
    "yarn_factor": (0, 1_024),
}
_ENDINGS: dict[str, tuple[float, float]] = {
    "batch_size": (0, 1_000_000),
    "gb": (0, 1e9),
    "gib": (0, 1e9),
    "minutes": (0, 7 * 24 * 60),
    "positions": (0, 100_000_000),
    "price": (0, 1e6),
    "retries": (0, 100),
    "seconds": (0, 7 * 24 * 3_600),
    "seed": (-(2**63), 2**63 - 1),
    "steps": (0, 10_000_000),
    "tokens": (0, 100_000_000),
}


def bounds(name: str) -> tuple[float, float]:
    """The least and the greatest value of the setting; infinities if no limit is known."""
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("price_"):
        return _ENDINGS["price"]
    for ending, found in _ENDINGS.items():
        if name == ending or name.endswith(f"_{ending}"):
            return found
    return -math.inf, math.inf


def outside(name: str, value: object) -> str | None:
    """What is wrong with a setting's value, if it is a number out of its bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = bounds(name)
    if low <= value <= high:
        return None
    return f"{value:,} is not between {low:,} and {high:,}, the limits of {name!r}"
