"""Seconds of the passes of training, and the bytes that processes send each other."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.plan.flops import Flops, Tokens, backward, forward
from qwenlong_core.plan.machine import Machine
from qwenlong_core.plan.memory import sharded_over
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.settings.tree import Settings

OPERATIONS = 60
"""Operations of a layer's forward over a packed row; its backward has about twice as many."""
IMBALANCE = 1.12
"""A forward waits for the process with the longest group. Measured on 8 processes by ``benchmarks/balance.py``."""


def _touched(shape: Shape, bytes_a_number: float) -> float:
    """Bytes a token and layer that norms, positions, activations and sums read and write in a forward.

    Fitted to the step on fake devices (14B and 32B). It is an upper bound: some of it stays in caches.
    """
    return bytes_a_number * (6 * shape.intermediate + 70 * shape.hidden)


@dataclass(frozen=True, slots=True)
class Work:
    """One pass on one device."""

    flops: Flops
    touched: float
    """Bytes of what is no matrix product."""
    operations: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.touched + other.touched, self.operations + other.operations)

    def __mul__(self, factor: float) -> Work:
        return Work(self.flops * factor, self.touched * factor, self.operations * factor)

    def seconds(self, machine: Machine) -> float:
        """On one device. A GPU starts operations while it computes."""
        busy = (
            self.flops.products / machine.products
            + self.flops.attention / machine.attention
            + self.flops.attention_backward / machine.attention_backward
            + self.touched / machine.elementwise
        )
        starting = self.operations * machine.operation
        return max(busy, starting) if machine.is_gpu else busy + starting


def forward_work(shape: Shape, tokens: Tokens, bytes_a_number: float) -> Work:
    """A pass without a gradient."""
    touched = tokens.total * shape.layers * _touched(shape, bytes_a_number)
    return Work(forward(shape, tokens), touched, OPERATIONS * shape.layers)


def training_work(shape: Shape, tokens: Tokens, bytes_a_number: float, *, checkpointing: bool) -> Work:
    """A forward and its backward, which touches about twice the bytes of a forward; checkpointing adds one."""
    again = int(checkpointing)
    there = forward_work(shape, tokens, bytes_a_number)
    back = Work(
        backward(shape, tokens, checkpointing=checkpointing),
        there.touched * (2 + again),
        there.operations * (2 + again),
    )
    return there + back


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes that a process sends in a step of training."""

    shards: float
    """Weights and gradients (FSDP2, or the sum of gradients of plain data parallel)."""
    rows: float
    """Queries, keys, values and outputs of rows that processes share (Ulysses)."""

    @property
    def total(self) -> float:
        """Both."""
        return self.shards + self.rows


def sent_bytes(
    shape: Shape, settings: Settings, *, scored: float, trained: float, updates: float, tokens: float
) -> Sent:
    """Bytes sent by a process.

    Args:
        shape: The model's.
        settings: The profile.
        scored: Forwards without a gradient, of this process.
        trained: Forwards with one.
        updates: Optimizer steps.
        tokens: Of one forward, before a row is shared.
    """
    launch = settings.launch
    rest = 1 - 1 / launch.num_processes
    if sharded_over(settings) > 1:
        # bfloat16 weights for every forward and backward, float32 gradients after every backward.
        shards = rest * shape.parameters * (2 * (scored + 2 * trained) + 4 * trained)
    else:
        shards = 2 * rest * 4 * shape.parameters * updates
    return Sent(shards, _rows_sent(shape, launch, scored, trained, tokens))


def _rows_sent(shape: Shape, launch: LaunchSettings, scored: float, trained: float, tokens: float) -> float:
    parallel = launch.sequence_parallel
    numbers = 2 * (shape.heads + shape.kv_heads) * shape.head
    once = shape.layers * tokens / parallel * numbers * 2 * (1 - 1 / parallel)
    return once * (scored + trained * (2 + int(launch.gradient_checkpointing)))


def link_rate(settings: Settings, machine: Machine) -> float:
    """Bytes a second at which shards travel: through the network where there are several nodes."""
    return machine.network if settings.launch.num_machines > 1 else machine.link
