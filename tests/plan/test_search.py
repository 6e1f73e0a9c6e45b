"""The search: what it finds fits, is near, and does not shorten answers in vain."""

from __future__ import annotations

import pytest
from plans import H100, of, plan_of

from qwenlong_core.plan.make import make_plan
from qwenlong_core.plan.search import helps_most, moves, nearest, with_values


def test_sharing_a_row_is_found():
    found = nearest(plan_of("8gpu-14b", "launch.sequence_parallel=1"))
    assert found[0].overrides == ["launch.sequence_parallel=8"]
    assert found[0].plan.fits


BATCHES = ("grpo.vllm.tensor_parallel=1", "grpo.batch_size=120", "grpo.mini_batch_size=120", "sft.batch_size=120")
"""For any number of processes."""


@pytest.mark.parametrize(("processes", "spans"), [(8, {2, 4, 8}), (5, {5}), (12, {2, 4})])
def test_the_spans_that_training_allows_are_tried_and_no_others(processes, spans):
    """40 query and 8 key heads on one machine; none are tried that do not divide its processes."""
    plan = plan_of("8gpu-14b", f"launch.num_processes={processes}", "launch.sequence_parallel=1", *BATCHES)
    tried = {value for group in moves(plan) for change in group for value in [change.get("launch.sequence_parallel")]}
    assert tried - {None} == spans


def test_a_span_that_the_heads_do_not_allow_does_not_fit_and_another_is_named():
    plan = plan_of("8gpu-14b", "launch.num_processes=6", "launch.sequence_parallel=3", "plan.memory_gib=800", *BATCHES)
    assert any("40 query and 8 key heads cannot be dealt to 3 ranks: possible are 1, 2, 4, 5" in f for f in plan.faults)
    found = nearest(plan)
    assert found
    assert all(one.changes["launch.sequence_parallel"] in (1, 2) for one in found)


def test_what_is_found_is_what_the_profile_with_these_overrides_plans():
    plan = plan_of("8gpu-14b", "launch.sequence_parallel=1", "plan.memory_gib=100")
    found = nearest(plan)
    overrides = found[0].overrides
    again = make_plan(of("8gpu-14b", "launch.sequence_parallel=1", "plan.memory_gib=100", *overrides), plan.machine)
    assert again.fits
    assert again.seconds == found[0].plan.seconds


def test_several_changes_where_one_is_not_enough():
    found = nearest(plan_of("8gpu-14b", "grpo.phases.2.max_completion_tokens=50000", "grpo.vllm.memory_share=0.9"))
    assert found
    assert all(len(one.changes) > 1 and "grpo.vllm.memory_share" in one.changes for one in found)


def test_answers_are_shortened_only_where_nothing_else_helps():
    # One GPU has nobody to share a row with, and offload leaves one layer's activations on it.
    overrides = ("grpo.phases.2.max_completion_tokens=60000", "grpo.phases.2.cache_tokens=100")
    plan = plan_of("1gpu", *overrides, "launch.activation_offload=true", "plan.memory_gib=32")
    assert [fault.partition(" ")[0] for fault in plan.faults] == ["grpo-3"]
    found = nearest(plan)
    assert found
    assert all("grpo.phases.2.max_completion_tokens" in one.changes for one in found)


def test_nothing_is_found_where_the_model_is_too_large():
    plan = plan_of("32b", "launch.num_processes=1", "launch.num_machines=1", "launch.accelerate_config=none",
                   "launch.sequence_parallel=1", "grpo.vllm.tensor_parallel=1")  # fmt: skip
    assert not plan.fits
    assert nearest(plan) == []


def test_changes_that_do_not_go_together_are_no_settings():
    settings = of("8gpu-14b")
    assert with_values(settings, {"launch.sequence_parallel": 3}) is None
    changed = with_values(settings, {"grpo.phases.1.max_completion_tokens": 5000})
    assert changed is not None
    assert changed.grpo.phases[1].max_completion_tokens == 5000


def test_what_helps_saves_time_and_fits():
    """On a disk so slow that a checkpoint outlasts a step, saving less often helps; on the assumed one it does not."""
    slow = H100.model_copy(update={"disk": 1e8, "seal": 1e8})
    plan = make_plan(of("8gpu-14b"), slow, None)
    found = helps_most(plan)
    assert all(one.plan.fits and one.plan.seconds < plan.seconds for one in found)
    assert any("grpo.save_steps" in one.changes for one in found)
    assert not any("grpo.save_steps" in one.changes for one in helps_most(plan_of("8gpu-14b")))
