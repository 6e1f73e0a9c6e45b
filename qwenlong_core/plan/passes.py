"""Seconds of the passes of training."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.plan.flops import Flops, Tokens, backward, forward
from qwenlong_core.plan.machine import Machine
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.tree import Settings

OPERATIONS = 60
"""Operations of a layer's forward over a packed row; its backward has about twice as many."""
IMBALANCE = 1.12
"""A forward waits for the process with the longest group. Measured on 8 processes by ``benchmarks/balance.py``."""


def _touched(shape: Shape, bytes_a_number: float) -> float:
    """Bytes a token and layer that norms, positions, activations and sums read and write in a forward.

    Fitted to the step on fake devices (14B and 32B). It is an upper bound: some of it stays in caches. A token's row is
    copied to each of its experts, and what they return is weighed, put back in order and summed: that is counted.
    """
    routed = 7 * shape.active * shape.hidden if shape.experts else 0
    return bytes_a_number * (6 * shape.active * shape.intermediate + routed + 70 * shape.hidden)


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


def training_work(
    shape: Shape, tokens: Tokens, bytes_a_number: float, *, checkpointing: bool, frozen: bool = False
) -> Work:
    """A forward and its backward, which touches about twice the bytes of a forward; checkpointing adds one."""
    again = int(checkpointing)
    there = forward_work(shape, tokens, bytes_a_number)
    back = Work(
        backward(shape, tokens, checkpointing=checkpointing, frozen=frozen),
        there.touched * (2 + again),
        there.operations * (2 + again),
    )
    return there + back


def link_rate(settings: Settings, machine: Machine) -> float:
    """Bytes a second at which shards travel: through the network where there are several nodes."""
    return machine.network if settings.launch.num_machines > 1 else machine.link
