"""The linear rule of depth, on numbers worked out by hand; no torch is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from qwenlong_core.rehearsal.report import Moment, Run, peak_from_json, peak_of, run_from_json


def run(layers: int, forward: dict[str, int], backward: dict[str, int]) -> Run:
    moments = (Moment("forward", forward), Moment("backward", backward))
    return Run(layers=layers, moments=moments, flops={"matmul, forward": 7 + layers}, sent={}, forwards=4)


SHALLOW = run(3, {"weights": 30, "kept activations": 6, "batch": 4}, {"weights": 30, "kept activations": 3, "head": 20})
DEEP = run(5, {"weights": 50, "kept activations": 10, "batch": 4}, {"weights": 50, "kept activations": 5, "head": 20})


def test_what_every_layer_has_is_a_straight_line_over_depth() -> None:
    peak = peak_of([SHALLOW, DEEP], layers=48, forwards=128, reserve=1000)
    # Forward: 480 + 96 + 4 * 128 / 4 of the batch; backward: 480 + 48 + 20.
    assert peak.timeline == (("forward", 480 + 96 + 128 + 1000), ("backward", 480 + 48 + 20 + 1000))
    assert (peak.where, peak.peak) == ("forward", 1704)
    assert {name: size for name, size in peak.terms.items() if size} == {
        "weights": 480, "kept activations": 96, "batch": 128, "reserve": 1000,
    }  # fmt: skip
    assert sum(peak.terms.values()) == peak.peak
    assert peak.flops == {"matmul, forward": 55}


def test_which_part_is_highest_may_change_with_depth() -> None:
    assert peak_of([SHALLOW], layers=3, forwards=4, reserve=0).where == "backward"
    assert peak_of([SHALLOW, DEEP], layers=48, forwards=4, reserve=0).where == "forward"


def test_a_rehearsed_depth_is_reported_as_it_is() -> None:
    assert peak_of([DEEP], layers=5, forwards=4, reserve=0).peak == 75


def test_runs_of_different_steps_are_refused() -> None:
    with pytest.raises(ValueError):
        peak_of([SHALLOW, Run(**{**asdict(DEEP), "moments": DEEP.moments[:1]})], layers=48, forwards=4, reserve=0)


def test_reports_survive_json() -> None:
    assert run_from_json(json.loads(json.dumps(asdict(DEEP)))) == DEEP
    peak = peak_of([SHALLOW, DEEP], layers=48, forwards=128, reserve=1)
    assert peak_from_json(json.loads(json.dumps(peak.to_json()))) == peak


def test_a_report_needs_no_torch() -> None:
    program = "import sys; import qwenlong_core.rehearsal.rehearse; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
