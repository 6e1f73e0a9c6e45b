"""Rehearsed memory beside measured memory, on the first few of the benchmark's shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_rehearsed_peak_is_near_the_measured_one_and_not_under_it(tmp_path: Path) -> None:
    """Within 10% over and 2% under, as the docs promise of all shapes."""
    command = [sys.executable, "benchmarks/rehearsal.py", "--output", str(tmp_path), "--only", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "rehearsal.jsonl").read_text().splitlines()]
    assert len({row["model"] for row in rows}) == 2 and len(rows) == 4
    assert {row["span"] for row in rows} == {1, 2}, "rows of one process, and of two"
    for row in rows:
        assert 0.98 <= row["predicted"] / row["measured"] <= 1.10, row
