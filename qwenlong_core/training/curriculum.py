"""Which rows a phase trains on: its own length bucket, and hard rows of earlier phases.

Retrospective sampling (QwenLong-L1, arXiv 2505.17667, section 2) draws an earlier row with the weight
``1 / max(mean accuracy, 1 / G)``. The paper's ``1 / mean reward`` is undefined at a mean of 0; the floor ``1 / G``
treats a row that was never solved like one that is solved once per group. The length penalty does not count towards
difficulty. A row that was not solved in a given number of visits is retired: it is neither drawn again in its phase nor
in a later one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qwenlong_core.records import Example
from qwenlong_core.training.output import DIFFICULTY


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Statistics of one example over the groups drawn for it."""

    visits: int
    """Number of groups drawn."""
    mean_accuracy: float
    """Mean over those groups of the share of correct completions."""

    def after(self, accuracies: Sequence[float]) -> Difficulty:
        """The difficulty after one more group with these accuracies."""
        visits = self.visits + 1
        mean = sum(accuracies) / len(accuracies)
        return Difficulty(visits, self.mean_accuracy + (mean - self.mean_accuracy) / visits)


Difficulties = dict[str, Difficulty]
"""Difficulty by example id."""

UNSEEN = Difficulty(0, 0.0)


def to_json(difficulties: Mapping[str, Difficulty]) -> dict[str, dict[str, float]]:
    """Plain JSON form: ``{id: {visits, mean_accuracy}}``."""
    return {key: asdict(value) for key, value in difficulties.items()}


def from_json(value: Mapping[str, Mapping[str, float]]) -> Difficulties:
    """The inverse of :func:`to_json`."""
    return {key: Difficulty(int(row["visits"]), float(row["mean_accuracy"])) for key, row in value.items()}


def read_difficulties(folder: Path) -> Difficulties:
    """The difficulties that earlier phases recorded in a policy folder; empty after SFT or for a base model."""
    path = folder / DIFFICULTY
    return from_json(json.loads(path.read_text())) if path.exists() else {}


def is_hopeless(difficulty: Difficulty | None, after_visits: int | None) -> bool:
    """Whether a row was visited ``after_visits`` times without a correct completion; ``None`` retires nothing."""
    if difficulty is None or after_visits is None:
        return False
    return difficulty.visits >= after_visits and difficulty.mean_accuracy == 0


def to_retire(
    examples: Sequence[Example],
    difficulties: Mapping[str, Difficulty],
    after_visits: int | None,
    retired: Set[int],
    keep: int,
) -> tuple[list[int], int]:
    """Which rows to retire now, leaving at least ``keep`` rows.

    Returns:
        The rows to retire besides ``retired``, and the number of hopeless rows that must stay.
    """
    hopeless = [
        row
        for row, example in enumerate(examples)
        if row not in retired and is_hopeless(difficulties.get(example.id), after_visits)
    ]
    room = max(0, len(examples) - len(retired) - keep)
    return hopeless[:room], len(hopeless[room:])


def retrospective_weight(mean_accuracy: float, group_size: int) -> float:
    """``1 / max(mean accuracy, 1 / G)``, between 1 (always solved) and G (never solved)."""
    return 1 / max(mean_accuracy, 1 / group_size)


def retrospective_limit(own_rows: int, share: float) -> int:
    """Most earlier rows that may join ``own_rows`` so that they make up at most ``share`` of all rows."""
    # 0.1 / 0.9 * 9 gives 0.9999999999999999 in floating point; the slack keeps int() from making it 0.
    return int(own_rows * share / (1 - share) + 1e-9) if share < 1 else 2**31


def choose_retrospective(
    earlier: Sequence[Example],
    difficulties: Mapping[str, Difficulty],
    limit: int,
    group_size: int,
    seed: int,
    retire_after_visits: int | None = None,
) -> list[Example]:
    """Draw at most ``limit`` earlier rows by weight, without replacement, from those visited and not retired."""
    visited = [example for example in earlier if example.id in difficulties]
    seen = [e for e in visited if not is_hopeless(difficulties[e.id], retire_after_visits)]
    if not seen or limit <= 0:
        return []
    weights = np.array([retrospective_weight(difficulties[e.id].mean_accuracy, group_size) for e in seen])
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(seen), min(limit, len(seen)), replace=False, p=weights / weights.sum())
    # In the order of the file, so that the phase's own shuffle alone decides the order of training.
    return [seen[i] for i in sorted(chosen)]
