"""Which rows a phase trains on: its own length bucket, and hard rows of earlier ones.

Retrospective sampling (QwenLong-L1, section 2): an earlier row comes back with a weight of
``1 / max(mean accuracy, 1 / G)``. The paper's ``1 / mean reward`` has no value at a mean of 0; the
floor ``1 / G`` treats "never right" like "right less than once in a group". The length penalty is
no part of difficulty. A row that was never right in a set number of visits is retired: it is drawn no
more in its phase and does not come back in a later one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qwenlong_core.records import Example

FILE = "difficulty.json"


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What has been seen of one example."""

    visits: int
    """Groups drawn for it."""
    mean_accuracy: float
    """Mean over those groups of the share of right completions."""

    def after(self, accuracies: Sequence[float]) -> Difficulty:
        """With one more group."""
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
    """What earlier phases recorded in their policy folder; empty after SFT or for a base model."""
    path = folder / FILE
    return from_json(json.loads(path.read_text())) if path.exists() else {}


def is_hopeless(difficulty: Difficulty | None, after_visits: int | None) -> bool:
    """Whether a row was visited so often without one right completion; ``None`` visits: never."""
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
    """Rows to retire besides those that are, so that ``keep`` stay; and how many hopeless ones must stay."""
    hopeless = [
        row
        for row, example in enumerate(examples)
        if row not in retired and is_hopeless(difficulties.get(example.id), after_visits)
    ]
    room = max(0, len(examples) - len(retired) - keep)
    return hopeless[:room], len(hopeless[room:])


def retrospective_weight(mean_accuracy: float, group_size: int) -> float:
    """``1 / max(mean accuracy, 1 / G)``, between 1 (always right) and G (never right)."""
    return 1 / max(mean_accuracy, 1 / group_size)


def retrospective_limit(own_rows: int, share: float) -> int:
    """Earlier rows allowed beside ``own_rows`` so that they make up at most ``share`` of all."""
    # The slack keeps 0.1 / 0.9 * 9 = 0.9999999999999999 at the 1 that it is.
    return int(own_rows * share / (1 - share) + 1e-9) if share < 1 else 2**31


def choose_retrospective(
    earlier: Sequence[Example],
    difficulties: Mapping[str, Difficulty],
    limit: int,
    group_size: int,
    seed: int,
    retire_after_visits: int | None = None,
) -> list[Example]:
    """At most ``limit`` earlier rows that were visited and not retired, drawn by weight without replacement."""
    visited = [example for example in earlier if example.id in difficulties]
    seen = [e for e in visited if not is_hopeless(difficulties[e.id], retire_after_visits)]
    if not seen or limit <= 0:
        return []
    weights = np.array([retrospective_weight(difficulties[e.id].mean_accuracy, group_size) for e in seen])
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(seen), min(limit, len(seen)), replace=False, p=weights / weights.sum())
    return [seen[i] for i in sorted(chosen)]
