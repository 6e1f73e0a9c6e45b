"""Planned beside measured: ratios at the lengths that came, kept a kind of machine, and used by the next plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plans import of

from qwenlong_core.plan.assumptions import rows_of
from qwenlong_core.plan.compare import compare, learn, measured_rows, metrics
from qwenlong_core.plan.machine import machine_of
from qwenlong_core.plan.make import make_plan
from qwenlong_core.plan.steps import grpo_step


@pytest.fixture
def plan(tmp_path):
    settings = of("local", "grpo.group_size=4", f"plan.folder='{tmp_path}'")
    return make_plan(settings, machine_of("cpu", tmp_path))


def line(prompt: int, completion: int, drawn: int, kept: int, seconds: float, gib: float) -> dict[str, float]:
    tokens = drawn * (prompt + 4 * completion)
    return {"groups_drawn": drawn, "groups_kept": kept, "length_mean": completion, "seconds": seconds,
            "tokens_per_second": tokens / seconds, "memory_mb": gib * 1024, "accuracy": 0.5}  # fmt: skip


def phase(plan):
    return next(stage for stage in plan.stages if stage.name == "grpo-1")


def test_lengths_are_read_back_from_the_metrics(plan):
    rows = measured_rows([line(200, 60, 4, 2, 9.0, 3.0)] * 2, phase(plan), 4)
    assert (rows.prompt, rows.completion, rows.informative) == pytest.approx((200, 60, 0.5))


def test_the_first_step_counts_for_memory_alone(plan):
    found = compare(plan, {"grpo-1": [line(200, 60, 4, 2, 99.0, 4.0), line(200, 60, 4, 2, 9.0, 3.0)], "base": []})
    assert set(found) == {"grpo-1"}
    one = found["grpo-1"]
    came = replace(rows_of(plan.settings, 1), prompt=200, completion=60, informative=0.5)
    assert one.measured_seconds == 9.0
    assert one.expected_seconds == pytest.approx(grpo_step(plan.shape, plan.settings, plan.machine, came).total)
    assert one.planned_seconds == phase(plan).step.total
    assert (one.measured_bytes, one.own_bytes) == (4 * 2**30, 2**30)
    moment = phase(plan).longest.instants[phase(plan).longest.training]
    assert one.planned_bytes == pytest.approx(sum(moment.values()))  # a CPU has no engine of its own
    assert metrics(found)["plan/grpo-1/measured_seconds"] == 9.0


def test_the_next_plan_has_learned(plan, tmp_path):
    step = compare(plan, {"grpo-1": [line(200, 60, 4, 2, 1.0, 2.0)]})["grpo-1"]
    twice = [line(200, 60, 4, 2, 2 * step.expected_seconds, 1 + 1.5 * (step.planned_bytes / 2**30 - 1))]
    path = learn(plan, compare(plan, {"grpo-1": twice}))
    assert path is not None and path.parent == Path(tmp_path)
    again = make_plan(plan.settings, machine_of("cpu", tmp_path))
    assert phase(again).step.total == pytest.approx(2 * phase(plan).step.total)
    before, after = (one.longest.instants["backward"] for one in (phase(plan), phase(again)))
    assert after["kept activations"] == pytest.approx(1.5 * before["kept activations"])
    assert after["reserve"] == before["reserve"]
    assert phase(again.uncorrected()).step.total == phase(plan).step.total
