"""Planned beside measured, and what a machine learns from it: one file of ratios a kind of machine.

A stage's steps are planned twice: with the lengths that were assumed beforehand, and with the lengths that came. Only
the second says how good the rates are, so only its ratio corrects later plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from qwenlong_core.plan.assumptions import Rows
from qwenlong_core.plan.machine import Learned, Machine, learned_file
from qwenlong_core.plan.make import Plan, StagePlan
from qwenlong_core.plan.memory import PROCESS
from qwenlong_core.plan.steps import grpo_step
from qwenlong_core.store.files import write_json

_KEPT = 10
"""Newest ratios that count."""
_LEAST = 2**30
"""Bytes; smaller plans are mostly interpreter and libraries, and teach nothing about activations."""
Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A stage's plan and what came; seconds of a step, bytes of a process (on a GPU: of torch's allocator)."""

    planned_seconds: float
    expected_seconds: float
    """Planned with the lengths that came."""
    measured_seconds: float
    planned_bytes: float
    measured_bytes: float
    own_bytes: float
    """Of both, what the plan takes for interpreter and libraries: no step changes it."""


def measured_rows(lines: Sequence[Line], planned: StagePlan, group: int) -> Rows:
    """The rows of a phase as its ``metrics.jsonl`` tells them."""
    drawn = fmean(line["groups_drawn"] for line in lines)
    completion = fmean(line["length_mean"] for line in lines)
    tokens = fmean(line["tokens_per_second"] * line["seconds"] for line in lines)
    prompt = max(2.0, tokens / drawn - group * completion)
    return Rows(
        prompt=prompt,
        completion=max(completion, 1.0),
        longest_prompt=round(prompt),
        longest_completion=max(round(completion), 1),
        informative=fmean(line["groups_kept"] for line in lines) / drawn,
        passed=fmean(line.get("accuracy") or 0.0 for line in lines),
        source=f"measured in {planned.name}",
    )


def own_bytes(machine: Machine) -> float:
    """Bytes of a process that holds nothing yet. On a GPU they lie in the driver, where torch does not count them."""
    return 0.0 if machine.is_gpu else PROCESS


def process_bytes(planned: StagePlan, machine: Machine) -> float:
    """Bytes that a process is planned to hold at most in a step, without the engine: what ``memory_mb`` measures."""
    memory = planned.longest
    if memory is None:
        return 0.0
    moment = memory.instants[memory.training]
    return own_bytes(machine) + sum(value for term, value in moment.items() if term not in ("engine", "reserve"))


def compare(plan: Plan, lines_of: Mapping[str, Sequence[Line]]) -> dict[str, Compared]:
    """Every stage that has steps in both.

    Args:
        plan: Made with uncorrected rates.
        lines_of: The lines of ``metrics.jsonl``, by stage.
    """
    found = {}
    for stage in plan.stages:
        lines = lines_of.get(stage.name) or []
        steady = lines[1:] or lines  # the first step also starts the engine and compares shared prompts
        if stage.step is None or not steady:
            continue
        expected = stage.step.total
        if stage.name != "sft":
            rows = measured_rows(steady, stage, plan.settings.grpo.group_size)
            expected = grpo_step(plan.shape, plan.settings, plan.machine, rows).total
        found[stage.name] = Compared(
            planned_seconds=stage.step.total,
            expected_seconds=expected,
            measured_seconds=median(line["seconds"] for line in steady),
            planned_bytes=process_bytes(stage, plan.machine),
            measured_bytes=max(line["memory_mb"] for line in lines) * 2**20,
            own_bytes=own_bytes(plan.machine),
        )
    return found


def metrics(compared: Mapping[str, Compared]) -> dict[str, float]:
    """As numbers for a tracker: ``plan/grpo-1/planned_seconds`` and so on."""
    return {f"plan/{stage}/{name}": value for stage, one in compared.items() for name, value in asdict(one).items()}


def learn(plan: Plan, compared: Mapping[str, Compared]) -> Path | None:
    """Keep the ratios of a run for later plans of the same kind of machine; returns the file."""
    seconds = [one.measured_seconds / one.expected_seconds for one in compared.values()]
    held = [(one.planned_bytes - one.own_bytes, one.measured_bytes - one.own_bytes) for one in compared.values()]
    space = [measured / planned for planned, measured in held if min(planned, measured) > _LEAST]
    if not seconds:
        return None
    path = learned_file(Path(plan.settings.plan.folder), plan.machine.name)
    before = Learned.model_validate_json(path.read_text()) if path.is_file() else Learned()
    after = Learned(seconds=(*before.seconds, *seconds)[-_KEPT:], space=(*before.space, *space)[-_KEPT:])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, after.model_dump(mode="json"))
    return path
