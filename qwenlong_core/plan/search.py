"""Search over settings: the nearest ones that fit, and the single change that saves most time.

Nothing here knows what should help. Every combination of a few changes is planned; those that fit are sorted by how far
they are from the profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from pydantic import ValidationError

from qwenlong_core.plan.make import Plan, make_plan
from qwenlong_core.settings.tree import Settings
from qwenlong_core.spans import possible_spans

Values = dict[str, Any]
"""Settings by dotted name."""
_MOST_CHANGES = 3
_SHOWN = 3
LEAST_GAIN = 0.01
"""Of a run's time; less is no reason to change anything."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plan that is better, and what leads to it."""

    changes: Values
    plan: Plan

    @property
    def overrides(self) -> list[str]:
        """``launch.sequence_parallel=8``, as a profile or an override takes it."""
        return [f"{name}={_typed(value)}" for name, value in self.changes.items()]


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_values(settings: Settings, changes: Mapping[str, Any]) -> Settings | None:
    """The settings with changes by dotted name; ``None`` where they do not go together."""
    tree = settings.model_dump(mode="json")
    for name, value in changes.items():
        *parents, last = name.split(".")
        node: Any = tree
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError:
        return None


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _halves(value: int, least: int) -> list[int]:
    """Three quarters, a half, a quarter."""
    return [part for part in (value * 3 // 4, value // 2, value // 4) if part >= least]


def moves(plan: Plan) -> list[list[Values]]:
    """Changes that give memory away for time or the other way round, one list of values a setting."""
    settings, launch = plan.settings, plan.settings.launch
    per_machine = launch.num_processes // launch.num_machines
    spans = set(possible_spans(plan.shape.heads, plan.shape.kv_heads))
    tensor_parallel = [n for n in _divisors(per_machine) if plan.shape.heads % n == 0]  # vLLM's own rule
    micro, rows = settings.grpo.micro_batch_size, settings.sft.micro_batch_size
    found: list[list[Values]] = [
        [
            {"launch.sequence_parallel": n}
            for n in _divisors(per_machine)
            if n in spans and n != launch.sequence_parallel
        ],
        [{"launch.gradient_checkpointing": not launch.gradient_checkpointing}],
        [{"grpo.micro_batch_size": n} for n in _divisors(settings.grpo.mini_batch_size) if n != micro],
        [{"sft.micro_batch_size": n} for n in _divisors(settings.sft.batch_size) if n != rows],
    ]
    if plan.machine.is_gpu:
        found.append([{"launch.activation_offload": not launch.activation_offload}])
    if settings.grpo.engine == "vllm-colocate" and settings.grpo.vllm is not None:
        vllm = settings.grpo.vllm
        shares = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        found.append([{"grpo.vllm.memory_share": share} for share in shares if share != vllm.memory_share])
        found.append([{"grpo.vllm.tensor_parallel": n} for n in tensor_parallel if n != vllm.tensor_parallel])
        found.append([{"grpo.vllm.sleep": not vllm.sleep}])
        if vllm.group_at_a_time:
            found.append([{"grpo.vllm.group_at_a_time": False}])
    return found


def _shorter(plan: Plan) -> list[list[Values]]:
    """Shorter answers in the phases that do not fit, and shorter rows of SFT: the last resort. It changes results."""
    phases = plan.settings.grpo.phases
    bad = [i for i in range(len(phases)) if any(fault.startswith(f"grpo-{i + 1} ") for fault in plan.faults)]
    shares = range(3)
    answers = []
    for share in shares if bad else ():
        budgets = {f"grpo.phases.{i}.max_completion_tokens": _halves(phases[i].max_completion_tokens, 8) for i in bad}
        if all(len(values) > share for values in budgets.values()):
            answers.append({name: values[share] for name, values in budgets.items()})
    rows = [{"sft.max_tokens": n} for n in _halves(plan.settings.sft.max_tokens, 128)]
    return [answers, rows]


def _combined(groups: list[list[Values]], count: int) -> Iterator[Values]:
    for chosen in combinations(groups, count):
        for values in product(*chosen):
            yield {name: value for part in values for name, value in part.items()}


def _plans(plan: Plan, candidates: Iterator[Values], probe: Mapping[str, Any] | None) -> Iterator[Found]:
    for changes in candidates:
        settings = with_values(plan.settings, changes)
        if settings is not None:
            yield Found(changes, make_plan(settings, plan.machine, probe))


def nearest(plan: Plan, probe: Mapping[str, Any] | None = None) -> list[Found]:
    """The nearest settings that fit: fewest changes, answers as long as they are if possible, least time.

    Args:
        plan: One that does not fit.
        probe: Content of the ``probe.json`` that the plan was made with.
    """
    kept = [group for group in moves(plan) if group]
    shorter = [group for group in _shorter(plan) if group]
    for groups in (kept, kept + shorter):
        for count in range(1, _MOST_CHANGES + 1):
            fitting = [found for found in _plans(plan, _combined(groups, count), probe) if found.plan.fits]
            if fitting:
                return _best(fitting)
    return []


def helps_most(plan: Plan, probe: Mapping[str, Any] | None = None) -> list[Found]:
    """Single changes that save time and still fit, the best first. None of them changes what is learned."""
    groups = [group for group in moves(plan) if group]
    groups.append([{"grpo.save_steps": n} for n in (5, 10, 20) if n > plan.settings.grpo.save_steps])
    better = [
        found
        for found in _plans(plan, _combined(groups, 1), probe)
        if found.plan.fits and found.plan.seconds < plan.seconds * (1 - LEAST_GAIN)
    ]
    return _best(better)


def _best(found: list[Found]) -> list[Found]:
    """The fastest of each set of changed settings."""
    best: dict[tuple[str, ...], Found] = {}
    for one in sorted(found, key=lambda one: one.plan.seconds):
        best.setdefault(tuple(one.changes), one)
    return list(best.values())[:_SHOWN]
