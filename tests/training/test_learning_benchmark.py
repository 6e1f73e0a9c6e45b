"""The statistics of ``benchmarks/learning``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/learning"))

from outcome import Outcome, Pair, interval, table


def test_the_interval_by_hand() -> None:
    """Mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776: 3 +- 2.776 x sqrt(2.5 / 5)."""
    assert interval([1, 2, 3, 4, 5]) == pytest.approx((3, 1.0368, 4.9632), abs=1e-3)


def test_the_table_has_gains_within_seeds() -> None:
    outcomes = [
        Outcome(1, Pair(0.4, 0.5), Pair(0.5, 0.5), [0.4]),
        Outcome(2, Pair(0.2, 0.4), Pair(0.5, 0.4), [0.2]),
    ]
    lines = table(outcomes).splitlines()
    assert lines[2] == "| 1 | 0.400 | 0.500 | +0.100 | 0.500 | 0.500 | +0.000 |"
    # Standard deviation 0.0707, t(0.975, 1) = 12.706: 0.15 +- 12.706 x 0.05.
    assert lines[4].startswith("| mean | 0.300 | 0.450 | +0.150 [-0.485, +0.785] |")
