"""Seconds of a GRPO step and an SFT step, by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

from pydantic import JsonValue

from qwenlong_core.plan.adapter import frozen_bytes, trained
from qwenlong_core.plan.assumptions import JUDGE_SECONDS, SPECULATION, Rows, groups_drawn
from qwenlong_core.plan.flops import Tokens, causal, model_flops, shared_row
from qwenlong_core.plan.machine import Machine
from qwenlong_core.plan.memory import kept_bytes
from qwenlong_core.plan.passes import IMBALANCE, forward_work, link_rate, training_work
from qwenlong_core.plan.rollout import LEVERS, Engine, Rollout, rollout
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.plan.traffic import sent_bytes, sharded_over
from qwenlong_core.settings.training import VLLMSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.settings.vllm import cache_bytes, speculates

PARTS = ("prefill", "decode", "judge", "weights to engine", "old pass", "update", "saving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a stage on the whole machine."""

    seconds: Mapping[str, float]
    """By part; a part that the stage does not have is 0."""
    tokens: float
    """That go through the model's update: a prompt once a group."""
    flops: float
    """Computed in the step, recomputation included, without decoding."""
    mfu: float
    """Share of the devices' peak that the update's own FLOPs take, as in papers: recomputation does not count."""
    bytes_sent: float
    """By one process to others."""
    at_once: float = 0.0
    """Completions in flight in one copy of the model."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.seconds.values())


def slowed(step: Step, factor: float) -> Step:
    """A step that takes ``factor`` times as long, as earlier runs have taught."""
    return replace(step, seconds={part: value * factor for part, value in step.seconds.items()}, mfu=step.mfu / factor)


def engine_of(settings: Settings, machine: Machine) -> Engine:
    """The rollout engine of the profile."""
    grpo, processes = settings.grpo, settings.launch.num_processes
    if grpo.engine == "transformers":
        wide = 4 if settings.model.dtype == "float32" else 2
        return Engine(
            devices=processes,
            parallel=1,
            memory=float("inf"),
            weight_bytes=wide,
            cache_bytes=wide,
            reads_prompt_once=True,
            groups_at_once=grpo.micro_batch_size,
        )
    if grpo.engine == "vllm-server":
        # Its machine is not part of the profile: one device as large as ours is assumed.
        return Engine(devices=1, parallel=1, memory=0.9 * machine.memory, graphs=True)
    vllm = grpo.vllm or VLLMSettings()
    found = vllm_engine(vllm.options, processes, vllm.tensor_parallel, vllm.memory_share * machine.memory)
    return replace(found, groups_at_once=1, group_at_a_time=True) if vllm.group_at_a_time else found


def vllm_engine(options: Mapping[str, JsonValue], devices: int, parallel: int, memory: float) -> Engine:
    """vLLM with further options."""
    return Engine(
        devices=devices,
        parallel=parallel,
        memory=memory,
        cache_bytes=cache_bytes(options),
        tokens_a_step=SPECULATION if speculates(options) else 1.0,
        graphs=True,
    )


def sampling(shape: Shape, settings: Settings, machine: Machine, rows: Rows, engine: Engine | None = None) -> Rollout:
    """A step's rollouts at the typical row.

    Raises:
        ValueError: the engine's memory does not hold one row.
    """
    return rollout(
        shape,
        machine,
        engine or engine_of(settings, machine),
        prompt=rows.prompt,
        completion=rows.completion,
        groups=groups_drawn(settings, rows.informative),
        group=settings.grpo.group_size,
        longest=rows.longest_completion,
    )


def has_old_pass(settings: Settings) -> bool:
    """Whether the batch is scored before training: with several updates a batch, for AEPO, or to correct for vLLM."""
    grpo = settings.grpo
    return grpo.engine != "transformers" or grpo.batch_size > grpo.mini_batch_size or grpo.aepo is not None


def grpo_step(shape: Shape, settings: Settings, machine: Machine, rows: Rows) -> Step:
    """A step of a phase at its typical row.

    Raises:
        ValueError: the engine's memory does not hold one row.
    """
    grpo, launch = settings.grpo, settings.launch
    drawn = groups_drawn(settings, rows.informative)
    kept = min(float(grpo.batch_size), drawn * rows.informative)
    sampled = sampling(shape, settings, machine, rows)
    tokens = shared_row(rows.prompt, [rows.completion] * grpo.group_size)
    wide = 4 if settings.model.dtype == "float32" else 2
    scoring = forward_work(shape, tokens, wide)
    training = training_work(
        shape, tokens, wide, checkpointing=launch.gradient_checkpointing, frozen=settings.lora is not None
    )
    share = kept / launch.num_processes  # groups that a device computes in full, or eighths of eight times as many
    waiting = IMBALANCE if launch.num_processes > launch.sequence_parallel else 1.0
    passes = int(has_old_pass(settings)) + int(grpo.kl_coefficient > 0)
    forwards = kept * launch.sequence_parallel / launch.num_processes / grpo.micro_batch_size
    updates = grpo.batch_size / grpo.mini_batch_size
    sent = sent_bytes(
        shape, launch, scored=passes * forwards, trained=forwards, updates=updates,
        tokens=tokens.total * grpo.micro_batch_size, parameters=trained(shape, settings.lora),
    )  # fmt: skip
    old = passes * share * scoring.seconds(machine) * waiting
    update = share * training.seconds(machine) * waiting
    update += _copying(shape, settings, machine, update, kept_bytes(shape, settings, tokens.total) * share)
    busy = old + update
    exposed = max(0.0, sent.shards / link_rate(settings, machine) - busy) + sent.rows / machine.link
    optimizer = updates * 28 * trained(shape, settings.lora) / sharded_over(launch) / machine.reading
    seconds = {
        "prefill": sampled.prefill,
        "decode": sampled.decode,
        "judge": _judging(settings, rows, drawn),
        "weights to engine": _to_engine(shape, settings, machine, drawn),
        "old pass": old,
        "update": update + exposed + optimizer,
    }
    return Step(
        seconds=seconds | {"saving": _saving(shape, settings, machine, sum(seconds.values()), grpo.save_steps)},
        tokens=kept * tokens.total,
        flops=kept * (passes * scoring.flops.total + training.flops.total),
        mfu=kept
        * model_flops(shape, tokens, frozen=settings.lora is not None)
        / (update + exposed + optimizer)
        / launch.num_processes
        / machine.peak,
        bytes_sent=sent.total,
        at_once=sampled.at_once,
    )


def sft_step(shape: Shape, settings: Settings, machine: Machine, length: float) -> Step:
    """An SFT step at rows of ``length`` tokens; half of a row is assumed to be its answer."""
    sft, launch = settings.sft, settings.launch
    tokens = Tokens(length, causal(length), length / 2) * sft.micro_batch_size
    wide = 4 if settings.model.dtype == "float32" else 2
    share = sft.batch_size / sft.micro_batch_size / launch.num_processes  # as for GRPO's groups
    forwards = share * launch.sequence_parallel
    training = training_work(
        shape, tokens, wide, checkpointing=launch.gradient_checkpointing, frozen=settings.lora is not None
    )
    update = share * training.seconds(machine)
    update += _copying(shape, settings, machine, update, kept_bytes(shape, settings, tokens.total) * share)
    learned = trained(shape, settings.lora)
    sent = sent_bytes(shape, launch, scored=0, trained=forwards, updates=1, tokens=tokens.total, parameters=learned)
    update += max(0.0, sent.shards / link_rate(settings, machine) - update) + sent.rows / machine.link
    update += 28 * learned / sharded_over(launch) / machine.reading
    done = share * launch.num_processes
    return Step(
        seconds=dict.fromkeys(PARTS, 0.0)
        | {"update": update, "saving": _saving(shape, settings, machine, update, sft.save_steps)},
        tokens=done * tokens.total,
        flops=done * training.flops.total,
        mfu=done
        * model_flops(shape, tokens, frozen=settings.lora is not None)
        / update
        / launch.num_processes
        / machine.peak,
        bytes_sent=sent.total,
    )


def _copying(shape: Shape, settings: Settings, machine: Machine, computing: float, kept: float) -> float:
    """Seconds by which copying activations to the host and back takes longer than computing meanwhile."""
    if not (settings.launch.activation_offload and machine.is_gpu):
        return 0.0
    return max(0.0, 2 * kept / machine.host_copy - computing)


def _judging(settings: Settings, rows: Rows, drawn: float) -> float:
    judge = settings.rewards.judge
    if judge is None:
        return 0.0
    asked = drawn * settings.grpo.group_size * (1 - rows.passed)
    return asked * JUDGE_SECONDS / judge.concurrency


def _to_engine(shape: Shape, settings: Settings, machine: Machine, drawn: float) -> float:
    """Gather the weights one by one and load them, once a round of rollouts: sleep has dropped them."""
    if settings.grpo.engine == "transformers":
        return 0.0
    rounds = max(1.0, drawn / settings.grpo.batch_size)
    size = frozen_bytes(shape, settings) or 4 * shape.parameters
    return rounds * (size / link_rate(settings, machine) + size / machine.reading)


def _saving(shape: Shape, settings: Settings, machine: Machine, step: float, every: int) -> float:
    """What a step of ``step`` seconds waits for checkpoints, one each ``every`` steps.

    The training waits while each process copies its share. The disk is written and read again for the seal meanwhile;
    what of that is not done when the next checkpoint is due is waited for, too.
    """
    size, processes = 12 * trained(shape, settings.lora), settings.launch.num_processes
    written = size * (1 / machine.disk + 1 / (machine.seal * processes))
    return (size / processes / machine.host_copy + max(0.0, written - every * step)) / every


def levers(shape: Shape, settings: Settings, machine: Machine, rows: Rows) -> dict[str, float]:
    """Seconds of a step: as it is, and with each lever on its rollouts.

    ``one step ahead`` samples the next batch while this one trains, on as many devices as make both end together. That
    is the same work; what it saves is the waiting for the judge, for saving and for the engine's new weights.
    """
    step, engine = grpo_step(shape, settings, machine, rows), engine_of(settings, machine)
    rest = step.total - step.seconds["prefill"] - step.seconds["decode"]
    engines = {name: change(engine) for name, change in LEVERS.items()}
    engines["all of these"] = reduce(lambda made, change: change(made), LEVERS.values(), engine)
    found = {"as it is": step.total}
    for name, changed in engines.items():
        sampled = sampling(shape, settings, machine, rows, changed)
        found[name] = rest + sampled.prefill + sampled.decode
    waiting = sum(step.seconds[part] for part in ("judge", "saving", "weights to engine"))
    return found | {"one step ahead": step.total - waiting}
