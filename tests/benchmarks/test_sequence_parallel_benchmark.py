"""The benchmark of sequence parallelism: its tables by hand, and on a small model the memory of a token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from sequence_parallel import memory_table, time_table

ROOT = Path(__file__).parents[2]


def test_a_slope_forgets_what_does_not_grow_with_the_row() -> None:
    """100 MB and 2 MB a token on one process, 300 MB and 1.2 MB on each of two."""
    points = [
        {"span": span, "checkpointing": True, "P": n, "N": n, "grown_mb": fixed + each * n}
        for span, fixed, each in ((1, 100, 2.0), (2, 300, 1.2))
        for n in (10, 20, 40)
    ]
    one, two = memory_table(points)
    assert one == {"checkpointing": "on", "processes": 1, "kB a token": 2097.15, "share": 1.0, "of 1/S": 1.0}
    assert two == {"checkpointing": "on", "processes": 2, "kB a token": 1258.29, "share": 0.6, "of 1/S": 1.2}


def test_times_are_medians_and_ratios_to_one_process() -> None:
    points = [
        {"span": span, "checkpointing": False, "P": 8, "N": 20, "seconds": s, "processor_seconds": p, "grown_mb": m}
        for span, runs in ((1, ((4, 8, 90), (9, 9, 100), (5, 8, 80))), (2, ((3, 9, 50), (2, 8, 45), (2, 8, 40))))
        for s, p, m in runs
    ]
    (line,) = time_table(points)
    assert line == {
        "P": 8, "N": 20, "checkpointing": "off", "S=1 s": 5, "S=1 MB": 90, "S=2 s": 2, "S=2 MB": 45,
        "time, S=2 / S=1": 0.4, "processor time, S=2 / S=1": 1.0, "memory, S=2 / S=1": 0.5, "runs": 3,
    }  # fmt: skip


def benchmark(*options: str, output: Path) -> list[dict[str, Any]]:
    """Its points."""
    command = [sys.executable, str(ROOT / "benchmarks/sequence_parallel.py"), *options, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (table,) = output.glob("*.md")
    assert table.read_text().strip() in done.stdout
    (points,) = output.glob("*.json")
    found: list[dict[str, Any]] = json.loads(points.read_text())
    return found


@pytest.mark.slow
def test_two_processes_hold_half_of_what_grows_with_the_row(tmp_path: Path) -> None:
    """Measured peaks of real processes. A row's tensor that each of them held whole would show."""
    options = ("--spans", "1", "2", "--prompts", "1024", "2048", "4096", "--checkpointing", "on")
    one, two = memory_table(benchmark("memory", *options, output=tmp_path))
    assert one["kB a token"] > 10
    assert two["share"] <= 1.1 / 2


@pytest.mark.slow
def test_times_of_a_length_are_measured_once_and_kept(tmp_path: Path) -> None:
    small = ("--form", "1", "32", "4", "2", "--completion", "8")
    first = benchmark("time", "--prompts", "500", *small, output=tmp_path)
    assert [(point["span"], point["P"]) for point in first] == [(1, 500), (2, 500)]
    assert first[0]["N"] == first[1]["N"]
    assert benchmark("time", "--prompts", "500", *small, output=tmp_path) == first
