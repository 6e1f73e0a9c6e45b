"""The curves of a running stage as text, for Prefect's page and the terminal, with time left, GPU hours and money."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from qwenlong_core.markdown import markdown_table
from qwenlong_core.settings.tree import Settings

Line = Mapping[str, Any]

_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 24
"""Steps that a curve shows: the newest."""
_PACE = 10
"""Newest steps by whose mean the time left is told."""


def _field(name: str) -> Callable[[Line], float | None]:
    return lambda line: line.get(name)


def _kept(line: Line) -> float | None:
    return line["groups_kept"] / line["groups_drawn"] if line.get("groups_drawn") else None


_ROWS: dict[str, Callable[[Line], float | None]] = {
    "reward": _field("reward"),
    "accuracy": _field("accuracy"),
    "entropy (nats per token)": _field("entropy"),
    "completion length (tokens)": _field("length_mean"),
    "groups kept (share)": _kept,
    "truncated (share)": _field("truncated_share"),
    "loss": _field("loss"),
    "token accuracy": _field("mean_token_accuracy"),
    "seconds a step": _field("seconds"),
    "TFLOP/s of the update": _field("tflops_per_second"),
    "MFU": _field("mfu"),
}


def sparkline(values: Sequence[float]) -> str:
    """The values as a line of bars, from the lowest to the highest of them."""
    shown = values[-_CURVE:]
    low, span = min(shown), max(shown) - min(shown)
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span else 0] for value in shown)


def clock(seconds: float) -> str:
    """``7s``, ``3m05s``, ``1h02m``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def curve_rows(lines: Sequence[Line]) -> list[dict[str, str]]:
    """One row per quantity that the lines have: its first and newest value, and its curve."""
    rows = []
    for name, value_of in _ROWS.items():
        values = [value for line in lines if (value := value_of(line)) is not None]
        if values:
            first, newest = f"{values[0]:.4g}", f"{values[-1]:.4g}"
            rows.append({"quantity": name, "first": first, "newest": newest, "curve": sparkline(values)})
    return rows


def curve_page(lines: Sequence[Line], settings: Settings, stage: str) -> str:
    """What the stage's page shows: how far it is, what it has cost, and the curves; Markdown.

    Args:
        lines: Its step lines so far, one a step, at least one.
    """
    return f"# {stage}\n\n{_standing(lines)}{_price(lines, settings)}\n\n{markdown_table(curve_rows(lines))}"


def _standing(lines: Sequence[Line]) -> str:
    last = lines[-1]
    words = f"Step {last['step']} of {last['total_steps']}"
    paces = [line["seconds"] for line in lines[-_PACE:] if "seconds" in line]
    left = last["total_steps"] - last["step"]
    return f"{words}, about {clock(fmean(paces) * left)} left." if paces and left > 0 else f"{words}."


def _price(lines: Sequence[Line], settings: Settings) -> str:
    """GPU hours and money of the steps so far, those of earlier tries included; nothing for a training on the CPU."""
    gpus, price = gpus_of(settings), settings.plan.price_per_gpu_hour
    hours = gpus * sum(line.get("seconds", 0.0) for line in lines) / 3600
    if not hours:
        return ""
    return f" {hours:.2f} GPU hours in steps so far, {hours * price:.2f} at {price:g} an hour."


def gpus_of(settings: Settings) -> int:
    """GPUs of a training; 0 on the CPU, as ``plan.machine`` tells it."""
    machine = settings.plan.machine
    on_cpu = machine == "cpu" or (machine == "auto" and settings.model.dtype == "float32")
    return 0 if on_cpu else settings.launch.num_processes
