"""Bytes that the processes of a training send each other."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.spans import key_heads_in


def sharded_over(launch: LaunchSettings) -> int:
    """Processes that share weights, gradients and optimizer: all with FSDP2, else none."""
    return launch.num_processes if launch.accelerate_config else 1


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
    shape: Shape,
    launch: LaunchSettings,
    *,
    scored: float,
    trained: float,
    updates: float,
    tokens: float,
    parameters: float | None = None,
) -> Sent:
    """Bytes sent by a process.

    Args:
        shape: The model's.
        launch: How processes share the work.
        scored: Forwards without a gradient, of this process.
        trained: Forwards with one.
        updates: Optimizer steps.
        tokens: Of one forward, before a row is shared.
        parameters: That have a gradient; ``None``: all.
    """
    rest = 1 - 1 / launch.num_processes
    if sharded_over(launch) > 1:
        # bfloat16 weights for every forward and backward, float32 gradients after every backward.
        shards = rest * shape.parameters * (2 * (scored + 2 * trained) + 4 * trained)
    else:
        shards = 2 * rest * 4 * (shape.parameters if parameters is None else parameters) * updates
    return Sent(shards, _rows_sent(shape, launch, scored, trained, tokens))


def _rows_sent(shape: Shape, launch: LaunchSettings, scored: float, trained: float, tokens: float) -> float:
    parallel = launch.sequence_parallel
    numbers = 2 * (shape.heads + key_heads_in(parallel, shape.kv_heads)) * shape.head
    once = shape.layers * tokens / parallel * numbers * 2 * (1 - 1 / parallel)
    return once * (scored + trained * (2 + int(launch.gradient_checkpointing)))
