"""What a step reports of its work, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from training_jobs import grpo_job
from transformers import AutoConfig

from qwenlong_core.plan.flops import Tokens, forward
from qwenlong_core.training.workload import Workload, shape_of_config

SINGLE = SimpleNamespace(steps_per_generation=4, gradient_accumulation_steps=2, use_vllm=False, beta=0.0)


def test_flops_of_a_step_by_hand(policy):
    shape = shape_of_config(AutoConfig.from_pretrained(policy))
    found = Workload(shape, grpo_job(), SINGLE).of_step([(10, [3, 2])], seconds=2.0)
    # A prefix of 9, then branches of 3 and 2 tokens that see it.
    once = forward(shape, Tokens(14, 45 + 3 * 9 + 6 + 2 * 9 + 3, 5)).total
    assert found["tflops_per_second"] == pytest.approx(3 * once / 2 / 1e12, abs=1e-4)
    assert (found["update_seconds"], found["gigabytes_sent"]) == (2.0, 0.0)
    assert "mfu" not in found  # a CPU has no data sheet


def test_two_processes_send_the_gradient_once_an_update(policy):
    shape = shape_of_config(AutoConfig.from_pretrained(policy))
    job = grpo_job(launch={"num_processes": 2})
    found = Workload(shape, job, SINGLE).of_step([(10, [3, 2])], seconds=2.0)
    # A ring: half of the float32 gradient twice, in each of two updates.
    assert found["gigabytes_sent"] == pytest.approx(2 * 2 * 0.5 * 4 * shape.parameters / 1e9, abs=1e-6)


def test_a_model_without_a_formula_reports_its_seconds_alone():
    config = AutoConfig.for_model("mixtral")
    assert shape_of_config(config) is None
    assert Workload(None, grpo_job(), SINGLE).of_step([(10, [3])], seconds=1.0) == {"update_seconds": 1.0}
