"""The curves of a running stage: what they show, how far it is, what it has cost."""

from __future__ import annotations

import re

import pytest

from qwenlong.tasks.curves import curve_page, curve_rows, gpus_of
from qwenlong_core.settings.profiles import load_settings

LINES = [
    {"step": step, "total_steps": 6, "seconds": 90.0, "reward": step / 4, "groups_kept": step, "groups_drawn": 4}
    for step in (1, 2, 3)
]


def test_rows_are_the_quantities_that_the_lines_have():
    assert curve_rows(LINES) == [
        {"quantity": "reward", "first": "0.25", "newest": "0.75", "curve": "▁▅█"},
        {"quantity": "groups kept (share)", "first": "0.25", "newest": "0.75", "curve": "▁▅█"},
        {"quantity": "seconds a step", "first": "90", "newest": "90", "curve": "▁▁▁"},
    ]
    assert curve_rows([{"step": 1, "total_steps": 2, "note": "x"}]) == []


def test_the_page_says_how_far_it_is_and_what_the_gpus_cost():
    settings = load_settings("8gpu-14b", ["plan.price_per_gpu_hour=2"])
    page = curve_page(LINES, settings, "grpo-1")
    # 3 steps of 90 s are left; 8 GPUs for 270 s are 0.6 hours.
    assert "Step 3 of 6, about 4m30s left. 0.60 GPU hours in steps so far, 1.20 at 2 an hour." in page
    assert re.search(r"\| reward \| 0.25 \| 0.75 \| ▁▅█ \|", page)


def test_a_finished_stage_has_no_time_left_and_the_cpu_no_price():
    page = curve_page([LINES[-1] | {"step": 6}], load_settings("smoke"), "sft")
    assert "Step 6 of 6.\n" in page and "GPU" not in page


@pytest.mark.parametrize(
    ("profile", "override", "gpus"),
    [("smoke", "plan.machine='auto'", 0), ("smoke", "plan.machine='h100'", 1), ("8gpu-14b", "plan.machine='cpu'", 0)],
)
def test_gpus_are_those_of_the_plan(profile, override, gpus):
    assert gpus_of(load_settings(profile, [override])) == gpus
