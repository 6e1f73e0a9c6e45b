"""The plan of a profile: every stage's memory, time and money, and whether it fits.

In: settings, a machine, a probe where one stands. Out: a :class:`Plan`, which :mod:`tell` puts into words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwenlong_core.plan.adapter import lora_faults
from qwenlong_core.plan.assumptions import Rows, rows_of
from qwenlong_core.plan.disk import Disk, disk_of
from qwenlong_core.plan.machine import GIB, Learned, Machine
from qwenlong_core.plan.memory import Length, Memory, as_rehearsed, enlarged, grpo_memory, host_bytes, sft_memory
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.rollout import Engine, least_group, rollout
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.plan.steps import Step, engine_of, grpo_step, sft_step, slowed, vllm_engine
from qwenlong_core.rehearsal.report import Peak
from qwenlong_core.settings.data import LengthBucket
from qwenlong_core.settings.training import LEAST_IN_COMMON
from qwenlong_core.settings.tree import Settings
from qwenlong_core.spans import heads_reason

_SFT_ROWS = 5_300
"""The paper's; sources other than ``generated`` are counted only when they are read."""
_EVAL_ITEMS = 200
"""Of one benchmark."""
_TRAIN_ROWS = 1_600
"""DocQA-RL-1.6K."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage of training, or all its runs of sampling."""

    name: str
    steps: int
    step: Step | None
    """``None`` for a stage that only samples."""
    seconds: float
    """Of the whole stage."""
    rows: str
    """Lengths and where they come from, in words."""
    typical: Memory | None = None
    longest: Memory | None = None
    rehearsed: bool = False
    """Whether the longest row was rehearsed; else it is by formula."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run of the profile needs."""

    settings: Settings
    machine: Machine
    shape: Shape
    stages: tuple[StagePlan, ...]
    disk: Disk
    host: float
    """Bytes of host memory a node; 0 on a CPU, where the host's memory is the machine's."""
    faults: tuple[str, ...]
    """Why it cannot run; none if it fits."""

    @property
    def fits(self) -> bool:
        """Whether every stage has the memory that it needs."""
        return not self.faults

    @property
    def limit(self) -> float:
        """Bytes that one process may use."""
        return process_memory(self.settings, self.machine)

    @property
    def seconds(self) -> float:
        """Of all stages, one after the other."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs; 0 on a CPU."""
        return self.seconds / 3600 * self.settings.launch.num_processes if self.machine.is_gpu else 0.0

    @property
    def money(self) -> float:
        """In the currency of ``plan.price_per_gpu_hour``."""
        return self.gpu_hours * self.settings.plan.price_per_gpu_hour

    def uncorrected(self) -> Plan:
        """The same without what earlier runs have taught."""
        return make_plan(self.settings, self.machine.model_copy(update={"learned": Learned()}))

    def seconds_by_part(self) -> dict[str, float]:
        """Seconds of the run by part of a step, beside those of the stages that only sample, by their names."""
        found: dict[str, float] = {}
        for stage in self.stages:
            parts = stage.step.seconds if stage.step else {stage.name: stage.seconds / stage.steps}
            for part, seconds in parts.items():
                found[part] = found.get(part, 0.0) + seconds * stage.steps
        return found


def process_memory(settings: Settings, machine: Machine) -> float:
    """Bytes of one process: a GPU, or its share of the host."""
    processes = settings.launch.num_processes // settings.launch.num_machines
    return machine.memory if machine.is_gpu else machine.memory / processes


def lengths(settings: Settings, rows: Rows) -> tuple[Length, Length]:
    """The typical and the longest pass of a phase."""
    size, group = settings.grpo.micro_batch_size, settings.grpo.group_size
    return (
        Length(rows.prompt, rows.completion, size, group),
        Length(rows.longest_prompt, rows.longest_completion, size, group),
    )


def _middle(buckets: tuple[LengthBucket, ...], otherwise: float) -> float:
    rows = sum(bucket.rows for bucket in buckets)
    return sum(b.rows * (b.min_tokens + b.max_tokens) / 2 for b in buckets) / rows if rows else otherwise


def sft_steps(settings: Settings) -> int:
    """Optimizer steps of SFT; rows are those that are generated, else the paper's number. None where SFT is skipped."""
    if settings.sft_rows == "none":
        return 0
    rows = sum(bucket.rows for bucket in settings.data.generate_sft) or _SFT_ROWS
    return math.ceil(math.ceil(rows / settings.sft.batch_size) * settings.sft.epochs)


def _sft(shape: Shape, settings: Settings, machine: Machine, peak: Peak | None) -> StagePlan | None:
    if settings.sft_rows == "none":
        return None
    typical = min(_middle(settings.data.generate_sft, settings.sft.max_tokens / 2), settings.sft.max_tokens)
    learned, steps = machine.learned, sft_steps(settings)
    step = slowed(sft_step(shape, settings, machine, typical), learned.slower)
    most = sft_memory(shape, settings, machine, settings.sft.max_tokens)
    return StagePlan(
        name="sft",
        steps=steps,
        step=step,
        seconds=steps * step.total,
        rows=f"{typical:,.0f} tokens, at most {settings.sft.max_tokens:,}",
        typical=enlarged(sft_memory(shape, settings, machine, typical), learned.larger),
        longest=enlarged(as_rehearsed(most, peak) if peak else most, learned.larger),
        rehearsed=peak is not None,
    )


def _phase(shape: Shape, settings: Settings, machine: Machine, index: int, rows: Rows, peak: Peak | None) -> StagePlan:
    learned = machine.learned
    step = slowed(grpo_step(shape, settings, machine, rows), learned.slower)
    typical, longest = lengths(settings, rows)
    steps = settings.grpo.phases[index - 1].steps
    most = grpo_memory(shape, settings, machine, longest)
    most = as_rehearsed(most, peak) if peak else most
    return StagePlan(
        name=f"grpo-{index}",
        steps=steps,
        step=step,
        seconds=steps * step.total,
        rows=(
            f"P={rows.prompt:,.0f} C={rows.completion:,.0f} ({rows.source}), at most P={rows.longest_prompt:,}"
            f" C={rows.longest_completion:,}; {rows.informative:.0%} of groups informative"
        ),
        typical=enlarged(grpo_memory(shape, settings, machine, typical), learned.larger),
        longest=enlarged(most, learned.larger),
        rehearsed=peak is not None,
    )


def sampling_engine(settings: Settings, machine: Machine) -> Engine:
    """The engine of probe and evaluation: vLLM takes 90% of every GPU there, since nothing trains."""
    if settings.evaluation.engine == "transformers":
        wide = 4 if settings.model.dtype == "float32" else 2
        return Engine(devices=1, parallel=1, memory=float("inf"), weight_bytes=wide, cache_bytes=wide,
                      reads_prompt_once=True, groups_at_once=settings.evaluation.batch_size)  # fmt: skip
    processes = settings.launch.num_processes // settings.launch.num_machines
    return vllm_engine(settings.evaluation.vllm_options, processes, processes, 0.9 * machine.memory)


def _evaluations(shape: Shape, settings: Settings, machine: Machine) -> StagePlan:
    chosen, data = settings.evaluation, settings.data
    items = sum(bucket.rows for bucket in data.generate_eval) if "generated" in data.eval else 0
    sources = sum(source != "generated" for source in data.eval)
    items += sources * min(chosen.limit or _EVAL_ITEMS, _EVAL_ITEMS)
    prompt = min(_middle(data.generate_eval, 12_000.0), chosen.max_prompt_tokens)
    completion = min(0.4 * chosen.max_completion_tokens, 4_000.0)
    checkpoints = 1 + (settings.sft_rows != "none") + sum(phase.evaluate for phase in settings.grpo.phases)
    engine = sampling_engine(settings, machine)
    sampled = rollout(
        shape, machine, engine, prompt=prompt, completion=completion, groups=items, group=chosen.samples
    ) if chosen.engine != "openai" else None  # fmt: skip
    each = sampled.prefill + sampled.decode if sampled else 0.0
    return StagePlan(
        name="evaluate",
        steps=checkpoints,
        step=None,
        seconds=checkpoints * each,
        rows=(
            f"{checkpoints} checkpoints x {items} items x {chosen.samples},"
            f" P={prompt:,.0f} C={completion:,.0f} (assumed)"
        ),
    )


def _probe(shape: Shape, settings: Settings, machine: Machine, rows: list[Rows]) -> StagePlan | None:
    samples = settings.grpo.curriculum.probe_samples
    if samples is None:
        return None
    count = sum(bucket.rows for bucket in settings.data.generate_train)
    count += sum(source != "generated" for source in settings.data.train) * _TRAIN_ROWS
    engine = engine_of(settings, machine)
    if engine.group_at_a_time:  # the probe's vLLM takes all groups that it has room for
        engine = replace(engine, groups_at_once=None, group_at_a_time=False)
    seconds = 0.0
    for one in rows:
        done = rollout(shape, machine, engine, prompt=one.prompt, completion=one.completion,
                       groups=count / len(rows), group=samples)  # fmt: skip
        seconds += done.prefill + done.decode
    words = f"{count:,} rows x {samples}, as many of each phase (assumed)"
    return StagePlan(name="probe", steps=1, step=None, seconds=seconds, rows=words)


def make_plan(
    settings: Settings,
    machine: Machine,
    probe: Mapping[str, Any] | None = None,
    peaks: Mapping[str, Peak] | None = None,
) -> Plan:
    """The plan of a profile on a machine.

    Args:
        settings: The profile.
        machine: Its machine.
        probe: Content of a ``probe.json``.
        peaks: Rehearsals of stages at their longest row, by name.

    Raises:
        NoPlan: a model that a plan cannot reckon with.
        ConnectionError: the model's shape is not known here, and the hub does not answer.
    """
    shape = shape_of(settings.model)
    rows = [rows_of(settings, index, probe) for index in range(1, len(settings.grpo.phases) + 1)]
    stages: list[StagePlan | None] = []
    faults = _span_faults(shape, settings) + lora_faults(shape, settings)
    faults += _common_prompt_faults(shape, settings, machine)
    makers: list[tuple[str, Callable[[], StagePlan | None]]] = [
        ("probe", lambda: _probe(shape, settings, machine, rows)),
        ("sft", lambda: _sft(shape, settings, machine, (peaks or {}).get("sft"))),
        *(
            (f"grpo-{i}", lambda i=i, one=one: _phase(shape, settings, machine, i, one, (peaks or {}).get(f"grpo-{i}")))
            for i, one in enumerate(rows, 1)
        ),
        ("evaluate", lambda: _evaluations(shape, settings, machine)),
    ]
    for name, maker in makers:
        try:
            stages.append(maker())
        except ValueError as error:
            faults.append(f"{name}: {error}")
    made = tuple(stage for stage in stages if stage)
    host = _host(shape, settings, machine, rows)
    faults += _memory_faults(settings, machine, made, host)
    return Plan(
        settings=settings,
        machine=machine,
        shape=shape,
        stages=made,
        disk=disk_of(shape, settings, sft_steps(settings)),
        host=host,
        faults=tuple(faults),
    )


def _host(shape: Shape, settings: Settings, machine: Machine, rows: list[Rows]) -> float:
    return host_bytes(shape, settings, machine, lengths(settings, rows[-1])[1]) if machine.is_gpu else 0.0


def _span_faults(shape: Shape, settings: Settings) -> list[str]:
    size = settings.launch.sequence_parallel
    reason = heads_reason(shape.heads, shape.kv_heads, size)
    return [f"launch.sequence_parallel={size} cannot be used: {reason}"] if reason else []


def _common_prompt_faults(shape: Shape, settings: Settings, machine: Machine) -> list[str]:
    engine, group = engine_of(settings, machine), settings.grpo.group_size
    if not engine.group_at_a_time or group >= (least := least_group(shape, engine)):
        return []
    return [
        f"grpo.vllm.group_at_a_time=true saves nothing: by vLLM's own rule {group} completions of a model with"
        f" {shape.kv_heads} key heads over {engine.parallel} GPUs read their prompt one by one; from"
        f" grpo.group_size={least} on they would not, or from {LEAST_IN_COMMON} on with"
        " grpo.vllm.options.speculative_config"
    ]


def _memory_faults(settings: Settings, machine: Machine, stages: tuple[StagePlan, ...], host: float) -> list[str]:
    limit, faults = process_memory(settings, machine), []
    for stage in stages:
        if stage.longest and stage.longest.peak > limit:
            faults.append(
                f"{stage.name} needs {stage.longest.peak / GIB:.1f} GiB of {limit / GIB:.1f} at its longest row"
                f" ({stage.longest.where}): {_largest(stage.longest)}"
            )
    node = settings.plan.host_memory_gib
    if node is not None and host > node * GIB:
        faults.append(f"the host needs {host / GIB:,.0f} GiB a node of plan.host_memory_gib={node:,.0f}")
    return faults


def _largest(memory: Memory) -> str:
    terms = sorted(memory.terms.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value / GIB:.1f}" for name, value in terms[:3])
