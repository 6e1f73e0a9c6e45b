"""What the cells of a launch gave, and how far two launches are apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fsdp_on_cpu import run_processes
from sequence_cells import Cell, Training, cells_of
from torch import Tensor

Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """One cell of one launch."""

    gradients: list[Gradient]
    """Of each update; empty where nothing was learned from."""
    passes: dict[str, dict[str, list[Tensor]]]
    """By example and name, from each process that holds the group: log-probs and advantages."""
    row: dict[str, Any]
    """The line of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Result:
    """A training of one launch."""

    cells: dict[str, Found]
    """By what is in a slot."""
    tokens: int
    """Most tokens whose hidden states or logits lay in one tensor of any process."""
    longest: int
    """Tokens of the longest packed row."""


def launch(span: int, replicas: int, trainings: Sequence[Training], inputs: Path, work: Path) -> dict[Training, Result]:
    """Run trainings one after the other on ``span * replicas`` processes."""
    work.mkdir(parents=True)
    given, processes = [json.dumps(asdict(training)) for training in trainings], span * replicas
    run_processes("sequence_grid.py", span, inputs, work, *given, processes=processes, sharded=False)
    return {one: read([torch.load(work / f"{one}-{r}.pt") for r in range(processes)], one) for one in trainings}


def read(ranks: Sequence[dict[str, Any]], training: Training) -> Result:
    """What the processes wrote, the main one first."""
    cells, updates, main = {}, training.updates, ranks[0]
    for number, cell in enumerate(cells_of(training)):
        passes: dict[str, dict[str, list[Tensor]]] = {}
        for rank in ranks:
            for example, values in rank["passes"][number].items():
                for name, value in values.items():
                    passes.setdefault(example, {}).setdefault(name, []).append(value)
        gradients = main["gradients"][number * updates : (number + 1) * updates]
        cells[cell.slots] = Found(gradients, passes, main["rows"][number])
    return Result(cells, max(rank["tokens"] for rank in ranks), max(rank["longest"] for rank in ranks))


def apart(ours: Found, theirs: Found) -> float:
    """The norm of the gradients' difference by the norm of ``theirs``, in the worst update.

    Raises:
        AssertionError: weights without gradient in one of them only, or a gradient of zero.
    """
    worst = 0.0
    for one, other in zip(ours.gradients, theirs.gradients, strict=True):
        assert one.keys() == other.keys()
        if other:
            assert norm(other) > 0
            worst = max(worst, norm({name: one[name] - other[name] for name in other}) / norm(other))
    return worst


def worst_weight(ours: Found, theirs: Found) -> float:
    """:func:`apart` of the weight for which it is largest."""
    return max(
        norm({name: one[name] - other[name]}) / norm({name: other[name]})
        for one, other in zip(ours.gradients, theirs.gradients, strict=True)
        for name in other
    )


def norm(gradient: Gradient) -> float:
    """Over all weights, in double precision."""
    return math.sqrt(sum(float(tensor.double().norm()) ** 2 for tensor in gradient.values()))


def line(where: str, training: Training, cell: Cell, figures: Sequence[float]) -> str:
    """A line of the table."""
    numbers = " ".join(f"{figure:>9.1e}" if figure < 0.5 else f"{figure:>9.4f}" for figure in figures)
    return f"{where:<7} {training!s:<22} {cell!s:<28} {numbers}"
