"""Memory of one GPU over a step, by formula: fast enough for a search, and corrected by a rehearsal where one stands.

A term is linear in the tokens of a process, N = micro-batch * (P + G * C) / sequence parallelism, or does not depend on
them. The bytes a token and layer were read off the trainer's step on fake devices (14B and 32B, twelve shapes):
``12 * intermediate + 23 * hidden`` while a layer is computed again and its gradient flows, in bfloat16; in float32
``24 * intermediate + 34 * hidden``. They include norms in float32, and queries, keys and values with and without
positions. With experts (Qwen3-30B-A3B and four variations of its sizes) a token's row is there once for each of its k
experts: ``k * (8 * intermediate + 10 * hidden + 38) + 16 * hidden + 10 * head * (heads + key heads) + 6 * experts``;
``k * 6 * hidden`` of that is there while the gradient flows only. In float32 twice that is assumed. An adapter (LoRA)
adds ``2 * intermediate + 8 * hidden`` in bfloat16 (14B and 32B, one shape each).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qwenlong_core.plan.adapter import frozen_bytes, trained
from qwenlong_core.plan.machine import GIB, Machine
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.plan.traffic import sharded_over
from qwenlong_core.rehearsal.report import Peak
from qwenlong_core.settings.tree import Settings

TERMS = (
    "weights",
    "gradients",
    "optimizer",
    "kept activations",
    "one layer",
    "head",
    "engine",
    "checkpoint",
    "reserve",
)
FIXED = ("engine", "checkpoint", "reserve")
"""What no rehearsal and no earlier run has a say in. On a CPU a checkpoint is copied to the memory that trains."""
ROLLOUTS = "rollouts"
Terms = Mapping[str, float]
_ASLEEP = 2 * GIB
"""What a sleeping vLLM keeps: its context and graphs."""
RESERVE = 0.1
"""Share of a GPU for CUDA's context, NCCL, cuBLAS and fragmentation: plan for about 70 of 80 GB, a sleeping engine
included."""
PROCESS = 1 * GIB
"""A process with torch, transformers and TRL on a CPU."""
_TILE = 2**24 * 4 * 2
"""The output head's logits and their gradient."""


@dataclass(frozen=True, slots=True)
class Length:
    """The rows of one pass on one process before it shares them with others."""

    prompt: float
    completion: float
    rows: int
    """Prompts in the pass."""
    group: int
    """Completions of each."""

    @property
    def tokens(self) -> float:
        """Of the pass."""
        return self.rows * (self.prompt + self.group * self.completion)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes over a step."""

    instants: dict[str, Terms]
    """By moment, in the order of a step."""

    @property
    def where(self) -> str:
        """The moment that needs most."""
        return max(self.instants, key=self.at)

    @property
    def training(self) -> str:
        """The moment of training that needs most; rollouts take a fixed share of a GPU."""
        return max((name for name in self.instants if name != ROLLOUTS), key=self.at)

    def at(self, moment: str) -> float:
        """Bytes of a moment."""
        return sum(self.instants[moment].values())

    @property
    def terms(self) -> Terms:
        """Of that moment."""
        return self.instants[self.where]

    @property
    def peak(self) -> float:
        """Bytes of that moment."""
        return self.at(self.where)


BACKWARD = "backward"


def as_rehearsed(memory: Memory, peak: Peak) -> Memory:
    """The moment that training needs most, as a rehearsal found it; the engine and the reserve are no part of one."""
    found, formula = peak.terms, memory.instants[BACKWARD]
    terms = {name: float(found.get(name, 0)) for name in TERMS}
    terms["one layer"] += found.get("collectives", 0) + found.get("batch", 0)
    return Memory(memory.instants | {BACKWARD: terms | {name: formula[name] for name in FIXED}})


def enlarged(memory: Memory, factor: float) -> Memory:
    """What depends on the settings, times a factor that earlier runs have taught."""
    return Memory({
        moment: {name: value * (1.0 if name in FIXED else factor) for name, value in terms.items()}
        for moment, terms in memory.instants.items()
    })  # fmt: skip


def _terms(**values: float) -> Terms:
    return {name: values.get(name.replace(" ", "_"), 0.0) for name in TERMS}


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of what stands in memory, at one length."""

    frozen: float
    """Weights beside which only an adapter is trained (LoRA)."""
    states: float
    """Float32 weights of a process that are trained, as many bytes as their gradients; Adam needs twice that."""
    kept: float
    layer: float
    gathered: float
    """Layers that FSDP2 has gathered, or the bfloat16 copies of autocast."""
    head: float
    checkpoint: float
    """The copy that is being written, where it is in the same memory."""
    reserve: float

    @property
    def always(self) -> dict[str, float]:
        """What stands at every moment."""
        return {
            "weights": self.frozen + self.states,
            "optimizer": 2 * self.states,
            "checkpoint": self.checkpoint,
            "reserve": self.reserve,
        }


def _for_backward(shape: Shape) -> float:
    """Bytes a token that the backward of a layer with experts needs, in bfloat16."""
    attention = 16 * shape.hidden + 10 * shape.head * (shape.heads + shape.kv_heads) + 6 * shape.experts
    return attention + shape.active * (8 * shape.intermediate + 4 * shape.hidden + 38)


def kept_bytes(shape: Shape, settings: Settings, tokens: float) -> float:
    """Activations that wait for the backward pass, on a process, wherever they wait."""
    wide = settings.model.dtype == "float32"
    if settings.launch.gradient_checkpointing:
        a_token = shape.hidden * (4.0 if wide else 2.0)
    elif shape.experts:
        a_token = _for_backward(shape) * (2.0 if wide else 1.0)
    else:
        a_token = (16.0 if wide else 8.0) * shape.intermediate + (33.0 if wide else 20.0) * shape.hidden
    return shape.layers * tokens * a_token


def _layer_bytes(shape: Shape, settings: Settings, tokens: float) -> float:
    """What one layer holds while its gradient flows, of activations that do not wait."""
    wide, again = settings.model.dtype == "float32", settings.launch.gradient_checkpointing
    if shape.experts:
        a_token = 6.0 * shape.active * shape.hidden + (_for_backward(shape) if again else 0.0)
        return tokens * a_token * (2 if wide else 1)
    if again:
        # peft casts the input of an adapter to float32.
        casts = 2 * shape.intermediate + 8 * shape.hidden if settings.lora and not wide else 0
        return tokens * ((24 if wide else 12) * shape.intermediate + (34 if wide else 23) * shape.hidden + casts)
    return tokens * ((8 if wide else 4) * shape.intermediate + (8 if wide else 6) * shape.hidden)


def _largest_shard(shape: Shape, shards: int) -> float:
    """Parameters on the process that has most: FSDP2 deals whole experts."""
    experts = shape.layers * shape.experts * shape.mlp
    rest = shape.parameters - experts
    return rest / shards + (experts / shape.experts * math.ceil(shape.experts / shards) if experts else 0.0)


def _sizes(shape: Shape, settings: Settings, machine: Machine, tokens: float, labelled: float) -> _Sizes:
    wide, launch = settings.model.dtype == "float32", settings.launch
    shards = sharded_over(launch)
    kept = kept_bytes(shape, settings, tokens)
    if launch.activation_offload and machine.is_gpu:
        kept *= 2 / shape.layers  # the layer at work, and the one that is on its way
    learned, frozen = trained(shape, settings.lora), frozen_bytes(shape, settings)
    # Two layers in bfloat16, and two layers' gradients in float32 on their way to their shards.
    alone = 0.0 if wide else 2.0 * (learned if frozen else shape.layers * (shape.layer_products + shape.idle))
    gathered = 12.0 * shape.layer if shards > 1 else alone
    head = min(labelled * shape.vocabulary * 8, _TILE) + (2.0 * shape.embedding if shards > 1 else 0.0)
    return _Sizes(
        frozen=frozen,
        states=4.0 * (learned if frozen else _largest_shard(shape, shards)),
        kept=kept,
        layer=_layer_bytes(shape, settings, tokens),
        gathered=gathered,
        head=head,
        checkpoint=0.0 if machine.is_gpu else 12.0 * learned / shards,
        reserve=RESERVE * machine.memory if machine.is_gpu else PROCESS,
    )


def _engine_bytes(shape: Shape, settings: Settings, machine: Machine, length: Length) -> tuple[float, float]:
    """Bytes of the rollout engine while it samples, and while the policy is updated."""
    grpo = settings.grpo
    if grpo.engine == "vllm-server":
        return 0.0, 0.0
    if grpo.engine == "vllm-colocate" and grpo.vllm is not None:
        awake = grpo.vllm.memory_share * machine.memory
        return awake, _ASLEEP if grpo.vllm.sleep else awake
    return length.tokens * shape.cache_bytes(4 if settings.model.dtype == "float32" else 2), 0.0


def grpo_memory(shape: Shape, settings: Settings, machine: Machine, length: Length) -> Memory:
    """A GRPO step, from rollouts to the optimizer."""
    parallel, layout = settings.launch.sequence_parallel, settings.grpo
    size = _sizes(
        shape, settings, machine, length.tokens / parallel, length.rows * length.group * length.completion / parallel
    )
    awake, asleep = _engine_bytes(shape, settings, machine, length)
    holders = settings.launch.num_processes // parallel
    several = layout.mini_batch_size > layout.micro_batch_size * holders
    training = _training_instants(shape, size, engine=asleep, accumulated=several)
    always = size.always
    sampling = _terms(**always, engine=awake)
    scoring = _terms(**always, one_layer=size.gathered / 3 + size.layer / 2, head=size.head, engine=asleep)
    return Memory({ROLLOUTS: sampling, "old pass": scoring} | training)


def sft_memory(shape: Shape, settings: Settings, machine: Machine, length: float) -> Memory:
    """An SFT step at rows of ``length`` tokens."""
    parallel = settings.launch.sequence_parallel
    tokens = length * settings.sft.micro_batch_size / parallel
    size = _sizes(shape, settings, machine, tokens, tokens)
    several = settings.sft.batch_size > settings.sft.micro_batch_size * (settings.launch.num_processes // parallel)
    return Memory(_training_instants(shape, size, engine=0.0, accumulated=several))


def _training_instants(shape: Shape, size: _Sizes, *, engine: float, accumulated: bool) -> dict[str, Terms]:
    """Forward, both ends of the backward pass, and the optimizer.

    Args:
        shape: The model's.
        size: At the length in question.
        engine: Bytes of the rollout engine meanwhile.
        accumulated: Whether earlier micro-batches have left a gradient by then.
    """
    always = size.always | {"engine": engine}
    first = size.states if accumulated else size.states / shape.layers
    working = {"one_layer": size.layer + size.gathered, "head": size.head}
    return {
        "forward": _terms(**always, gradients=first if accumulated else 0.0, kept_activations=size.kept / 2, **working),
        BACKWARD: _terms(**always, gradients=first, kept_activations=size.kept, **working),
        "end of backward": _terms(
            **always, gradients=size.states, kept_activations=size.kept / shape.layers, **working
        ),
        "optimizer": _terms(**always, gradients=size.states),
    }


def host_bytes(shape: Shape, settings: Settings, machine: Machine, length: Length) -> float:
    """Host memory of a node: processes, offloaded activations, and the copies of its shares while a checkpoint is
    written, or the weights that the first process gathers at the end."""
    launch = settings.launch
    processes = launch.num_processes // launch.num_machines
    moved = 0.0
    if launch.activation_offload and machine.is_gpu:
        moved = kept_bytes(shape, settings, length.tokens / launch.sequence_parallel)
    gathered = frozen_bytes(shape, settings) or 4.0 * shape.parameters
    saving = max(12.0 * trained(shape, settings.lora) / launch.num_machines, gathered)
    return processes * (5 * GIB + moved) + saving
