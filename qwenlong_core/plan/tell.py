"""A plan as a record for machines, and as sentences and table rows for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong_core.plan.assumptions import JUDGE_SECONDS, SPECULATION, Rows, rows_of
from qwenlong_core.plan.machine import GIB
from qwenlong_core.plan.make import Plan, StagePlan
from qwenlong_core.plan.memory import PROCESS, RESERVE, ROLLOUTS, TERMS, Memory
from qwenlong_core.plan.search import LEAST_GAIN, Found
from qwenlong_core.plan.steps import levers
from qwenlong_core.settings.tree import Settings

Row = dict[str, Any]


def in_hours(seconds: float) -> str:
    """``178 h``, ``6.8 h``, ``11 min`` or ``40 s``."""
    hours = seconds / 3600
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def in_short(plan: Plan) -> str:
    """``at most 68.4 of 79.6 GiB of h100, about 178 h``."""
    peak = max((stage.longest.peak for stage in plan.stages if stage.longest), default=0.0)
    memory = f"at most {peak / GIB:.1f} of {plan.limit / GIB:.1f} GiB of {plan.machine.name}"
    return f"{memory}, about {in_hours(plan.seconds)}"


def _set(found: Found) -> str:
    return " and ".join(found.overrides)


def answer(plan: Plan, near: Sequence[Found]) -> list[str]:
    """What a person wants to know first: whether it fits, and if not, what does."""
    if plan.fits:
        tightest = max((stage for stage in plan.stages if stage.longest), key=lambda stage: _peak(stage.longest))
        return [
            f"fits: at most {_peak(tightest.longest) / GIB:.1f} of {plan.limit / GIB:.1f} GiB"
            f" ({tightest.name}, {tightest.longest.where if tightest.longest else ''})"
        ]
    lines = ["does not fit:", *(f"  {fault}" for fault in plan.faults)]
    if not near:
        return [*lines, "no combination of three settings fits: take larger GPUs, more of them, or shorter phases"]
    lines.append("the nearest settings that fit:")
    for found in near:
        confirmed = all(stage.rehearsed for stage in found.plan.stages if stage.longest)
        lines.append(f"  {_set(found)}   {in_hours(found.plan.seconds)} a run{', rehearsed' if confirmed else ''}")
    return lines


def _peak(memory: Memory | None) -> float:
    return memory.peak if memory else 0.0


def memory_unit(plan: Plan) -> tuple[str, int]:
    """The unit of the table of memory, and its bytes: MiB where a step's own tensors take less than one GiB."""
    own = [stage.longest.peak - stage.longest.terms["reserve"] for stage in plan.stages if stage.longest]
    return ("MiB", 2**20) if max(own, default=GIB) < GIB else ("GiB", GIB)


def memory_rows(plan: Plan) -> list[Row]:
    """One process's memory by term: at the typical and the longest row when training needs most, and in rollouts."""
    rows, (_, size) = [], memory_unit(plan)
    for stage in plan.stages:
        if stage.typical is None or stage.longest is None:
            continue
        rows.append(_memory_row(stage.name, "typical", stage.typical, stage.typical.training, size))
        rows.append(_memory_row(stage.name, "longest", stage.longest, stage.longest.training, size))
        if ROLLOUTS in stage.longest.instants:
            rows.append(_memory_row(stage.name, "longest", stage.longest, ROLLOUTS, size))
    unused = [term for term in TERMS if all(row[term] == "0.0" for row in rows)]
    return [{name: value for name, value in row.items() if name not in unused} for row in rows]


def _memory_row(stage: str, row: str, memory: Memory, moment: str, size: int) -> Row:
    terms = {term: f"{memory.instants[moment][term] / size:,.1f}" for term in TERMS}
    return {"stage": stage, "row": row, "moment": moment} | terms | {"sum": f"{memory.at(moment) / size:,.1f}"}


def time_rows(plan: Plan) -> list[Row]:
    """Seconds of a step by part, its tokens and FLOPs, and the time of every stage."""
    most = max((stage.step.flops for stage in plan.stages if stage.step), default=0.0)
    unit, size = ("PFLOP", 1e15) if most >= 1e15 else ("TFLOP", 1e12)
    rows = []
    for stage in plan.stages:
        row: Row = {"stage": stage.name, "steps": stage.steps}
        parts = stage.step.seconds if stage.step else {}
        row |= {part: _number(parts.get(part)) for part in _parts(plan)}
        row["s a step"] = _number(stage.step.total if stage.step else stage.seconds / stage.steps)
        row["tokens"] = f"{stage.step.tokens:,.0f}" if stage.step else ""
        row[unit] = _number(stage.step.flops / size) if stage.step else ""
        row["MFU"] = f"{stage.step.mfu:.0%}" if stage.step else ""
        row["in all"] = in_hours(stage.seconds)
        rows.append(row)
    return rows


def _parts(plan: Plan) -> list[str]:
    """Parts that some stage has."""
    steps = [stage.step for stage in plan.stages if stage.step]
    return [part for part in (steps[0].seconds if steps else ()) if any(step.seconds[part] for step in steps)]


def lever_table(plan: Plan, probe: Mapping[str, Any] | None) -> list[Row]:
    """:func:`lever_rows` for people."""
    rows = lever_rows(plan, probe)
    return [{name: value if name == "a step" else _number(value) for name, value in row.items()} for row in rows]


def _number(value: float | None) -> str:
    if not value:
        return ""
    if value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lever_rows(plan: Plan, probe: Mapping[str, Any] | None) -> list[Row]:
    """Seconds of a step of each phase with what would make its rollouts cheaper."""
    rows: dict[str, Row] = {}
    for index in range(1, len(plan.settings.grpo.phases) + 1):
        if not any(stage.name == f"grpo-{index}" for stage in plan.stages):
            continue  # its engine does not hold a row
        found = levers(plan.shape, plan.settings, plan.machine, rows_of(plan.settings, index, probe))
        for name, seconds in found.items():
            rows.setdefault(name, {"a step": name})[f"grpo-{index}, s"] = seconds
    return list(rows.values())


def facts(plan: Plan, helping: Sequence[Found]) -> list[str]:
    """Totals, what dominates, and what would help most."""
    disk, parts = plan.disk, plan.seconds_by_part()
    lines = [f"time     {in_hours(plan.seconds)}" + _cost(plan)]
    total = sum(parts.values())
    if total:
        most = sorted(parts.items(), key=lambda item: -item[1])[:3]
        lines.append("most     " + ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in most))
    for found in helping:
        gain = plan.seconds - found.plan.seconds
        lines.append(f"helps    {_set(found)}: {in_hours(gain)} less ({gain / plan.seconds:.0%})")
    if plan.fits and not helping:
        lines.append(f"helps    no single setting saves {LEAST_GAIN:.0%}; cheaper rollouts are priced below")
    lines += [
        f"disk     work folder {_size(disk.work)}, store {_size(disk.store)} after the run",
        f"saving   a checkpoint {_size(disk.checkpoint)}, {_size(disk.written)} written by all of them",
    ]
    if plan.machine.is_gpu:
        lines.append(f"host     {plan.host / GIB:,.0f} GiB a node")
    return lines


def _size(count: float) -> str:
    """``590 GB`` or ``1.4 MB``."""
    number, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"


def _cost(plan: Plan) -> str:
    if not plan.machine.is_gpu:
        return ""
    price = plan.settings.plan.price_per_gpu_hour
    return f", {plan.gpu_hours:,.0f} GPU hours, {plan.money:,.0f} at {price:g} a GPU hour"


def assumptions(plan: Plan, probe: Mapping[str, Any] | None) -> list[str]:
    """What the numbers rest on."""
    machine, settings = plan.machine, plan.settings
    lines = [
        f"machine {machine.name}, rates {machine.source}: {machine.products / 1e12:,.3g} TFLOP/s in matrix products,"
        f" {machine.attention / 1e12:,.3g} in attention, {machine.reading / 1e9:,.0f} GB/s in decoding",
        "memory by formula (docs/plan.md), with "
        + (f"{RESERVE:.0%} of a GPU" if machine.is_gpu else f"{PROCESS / GIB:g} GiB for a process and its libraries")
        + " in reserve",
    ]
    if machine.learned.seconds:
        lines.append(
            f"earlier runs: steps take {machine.learned.slower:.2f} times as long as the rates say, memory"
            f" {machine.learned.larger:.2f} times as much"
        )
    if done := [stage.name for stage in plan.stages if stage.rehearsed]:
        lines.append(f"rehearsed at the longest row: {', '.join(done)}")
    lines += [f"{stage.name}: {stage.rows}" for stage in plan.stages]
    rows = [rows_of(settings, index, probe) for index in range(1, len(settings.grpo.phases) + 1)]
    if any(row.source == "assumed" for row in rows):
        lines.append(
            "lengths and pass rates of a phase are assumed where no probe stands: `qwenlong probe` measures them"
        )
    if settings.rewards.judge is not None:
        lines.append(f"a judge's answer takes {JUDGE_SECONDS:g} s")
    return [*lines, f"speculation accepts {SPECULATION:g} tokens a step; {_settings_of_levers(settings)}"]


def _settings_of_levers(settings: Settings) -> str:
    """Which of the levers can be set."""
    if settings.grpo.engine != "vllm-colocate":
        return "no lever is a setting of this engine"
    return (
        "grpo.vllm.options sets it (speculative_config) and an fp8 cache (kv_cache_dtype='fp8'); a prompt read once a"
        " group and one step ahead are no settings"
    )


def _memory(memory: Memory | None) -> Any:
    if memory is None:
        return None
    return {
        "peak_bytes": memory.peak,
        "where": memory.where,
        "bytes": dict(memory.terms),
        "over_the_step": {name: sum(terms.values()) for name, terms in memory.instants.items()},
    }


def _stage(stage: StagePlan) -> Row:
    step = stage.step
    return {
        "stage": stage.name,
        "rows": stage.rows,
        "steps": stage.steps,
        "seconds": stage.seconds,
        "step": step
        and {
            "seconds": step.total,
            "parts": dict(step.seconds),
            "tokens": step.tokens,
            "flops": step.flops,
            "mfu": step.mfu,
            "bytes_sent": step.bytes_sent,
            "completions_at_once": step.at_once,
        },
        "rehearsed": stage.rehearsed,
        "memory": {"typical": _memory(stage.typical), "longest": _memory(stage.longest)},
    }


def _rows(rows: Rows) -> Row:
    return {
        "prompt_tokens": rows.prompt,
        "completion_tokens": rows.completion,
        "informative_share": rows.informative,
        "pass_rate": rows.passed,
        "source": rows.source,
    }


def _found(found: Sequence[Found]) -> list[Row]:
    return [{"changes": one.changes, "seconds": one.plan.seconds, "money": one.plan.money} for one in found]


def record(plan: Plan, near: Sequence[Found], helping: Sequence[Found], probe: Mapping[str, Any] | None) -> Row:
    """Everything as JSON values; bytes and seconds."""
    settings = plan.settings
    return {
        "profile": settings.profile,
        "fits": plan.fits,
        "faults": list(plan.faults),
        "nearest": _found(near),
        "helps_most": _found(helping),
        "machine": plan.machine.model_dump(mode="json"),
        "parameters": plan.shape.parameters,
        "limit_bytes": plan.limit,
        "stages": [_stage(stage) for stage in plan.stages],
        "phases": [_rows(rows_of(settings, i, probe)) for i in range(1, len(settings.grpo.phases) + 1)],
        "levers": lever_rows(plan, probe),
        "seconds": plan.seconds,
        "gpu_hours": plan.gpu_hours,
        "money": plan.money,
        "host_bytes": plan.host,
        "disk": {name: getattr(plan.disk, name) for name in ("policy", "checkpoint", "work", "store", "written")},
        "assumptions": assumptions(plan, probe),
    }
