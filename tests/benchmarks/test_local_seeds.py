"""The table of ``benchmarks/local``: what is kept of a run, and a seed that failed stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/local"))

from seeds import record, table


def part(name: str, before: float, after: float, items: int = 88) -> dict[str, Any]:
    row = {"part": name, "items": items, "readable before": 0.9, "readable after": 1.0}
    return row | {"score before": before, "score after": after, "gain": after - before}


PARTS = [
    part("grpo-3 over base: all items", 0.2, 0.7),
    part("grpo-3 over base: the answer was readable before", 0.25, 0.75, 79),
    part("grpo-3 over base: math, never trained on: year_of", 0.5, 1.0, 9),
    part("grpo-3 over sft: all items", 0.65, 0.7),
]
RESULT = {
    "promoted": True,
    "promotion": "version 1 promoted to champion",
    "gain": PARTS,
    "gain_intervals": {row["part"]: {"gain": (row["gain"] - 0.1, row["gain"] + 0.1)} for row in PARTS},
    "stages": [{"stage": "sft", "how": "ran", "seconds": 60.0}, {"stage": "promote", "how": "ran", "seconds": 2.0}],
}


def test_a_seed_has_its_parts_and_a_failed_one_stays() -> None:
    failed = {"seed": 2, "promoted": False, "failed": "exit status 1: error: a | b"}
    lines = table([record(1, RESULT, 700.4), failed]).splitlines()
    assert lines[2] == (
        "| 1 | yes | 88 | 0.90 to 1.00 | 0.20 to 0.70 | +0.50 [+0.40, +0.60] | 0.25 to 0.75 (79) |"
        " +0.05 [-0.05, +0.15] | year_of 0.50 to 1.00 | 700 |"
    )
    assert lines[3].startswith("| 2 | no | exit status 1: error: a / b |")
    assert {line.count("|") for line in lines[:4]} == {11}
    assert lines[-1] == "1 of 2 promoted."


def test_the_means_over_the_seeds_have_intervals_by_hand() -> None:
    """Gains of 0.5 and 0.7: mean 0.6, standard error 0.1, and t is 12.706 with one degree of freedom."""
    other = RESULT | {"gain": [PARTS[0] | {"gain": 0.7}, *PARTS[1:3], PARTS[3] | {"gain": 0.05}]}
    failed = {"seed": 3, "promoted": False, "failed": "x"}
    last = table([record(1, RESULT, 1), record(2, other, 1), failed]).splitlines()[-1]
    assert "over base +0.600 [-0.671, +1.871], over SFT +0.050 [+0.050, +0.050]." in last


def test_a_resumed_run_says_that_its_seconds_are_a_part() -> None:
    stages = [{"stage": "base", "how": "cached", "seconds": 0.0}]
    assert "| 300 (resumed) |" in table([record(1, RESULT | {"stages": stages}, 300)])
