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


def test_the_table_has_gains_within_seeds_and_within_questions() -> None:
    """Two questions each. Seeds gain 0.1 and 0.2, standard deviation 0.0707, t(0.975, 1) = 12.706:
    0.15 +- 12.706 x 0.05. Questions gain (0 + 0.2) / 2 and (0.2 + 0.2) / 2: the same two numbers."""
    same = Pair([(0.5, 0.5), (0.5, 0.5)])
    outcomes = [
        Outcome(1, Pair([(0.4, 0.4), (0.4, 0.6)]), same, [0.4]),
        Outcome(2, Pair([(0.2, 0.4), (0.2, 0.4)]), same, [0.2]),
    ]
    lines = table(outcomes).splitlines()
    assert lines[2] == "| 1 | 0.400 | 0.500 | +0.100 | 0.500 | 0.500 | +0.000 |"
    gain, none = "+0.150 [-0.485, +0.785]", "+0.000 [+0.000, +0.000]"
    assert lines[4] == f"| mean, over seeds | 0.300 | 0.450 | {gain} | 0.500 | 0.500 | {none} |"
    assert lines[5] == f"| over questions | | | {gain} | | | {none} |"
