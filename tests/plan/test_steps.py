"""Seconds of a step: against public estimates, and what a setting changes."""

from __future__ import annotations

import pytest
from plans import B14, B32, FLAT, H100, little, of, plan_of

from qwenlong_core.plan.assumptions import Rows, groups_drawn, rows_of
from qwenlong_core.plan.passes import IMBALANCE
from qwenlong_core.plan.search import nearest
from qwenlong_core.plan.steps import PARTS, grpo_step, levers
from qwenlong_core.plan.traffic import sent_bytes
from qwenlong_core.settings.running import LaunchSettings

ONE_GROUP_A_GPU = ("launch.sequence_parallel=1", "grpo.micro_batch_size=1")


def rows(prompt: float, completion: float = 4000.0) -> Rows:
    return Rows(
        prompt=prompt,
        completion=completion,
        longest_prompt=120_000,
        longest_completion=10_000,
        informative=0.625,
        passed=0.5,
        source="test",
    )


@pytest.mark.parametrize(
    ("profile", "shape", "prompt", "old", "update"),
    [
        ("8gpu-14b", B14, 10_000, 63, 254),
        ("8gpu-14b", B14, 36_000, 147, 589),
        ("8gpu-14b", B14, 90_000, 406, 1624),
        ("32b", B32, 10_000, 32, 130),
        ("32b", B32, 90_000, 168, 673),
    ],
)
def test_public_estimates_at_400_tflops(profile, shape, prompt, old, update):
    """They count a whole forward again in the backward, and attention's backward as two forwards."""
    fast = FLAT.model_copy(update={"link": 1e18, "network": 1e18})
    step = grpo_step(shape, of(profile), fast, rows(prompt))
    waiting = IMBALANCE if profile == "32b" else 1.0  # four spans wait for the longest group, which they leave out
    assert step.seconds["old pass"] / waiting == pytest.approx(old, rel=0.04)
    assert step.seconds["update"] / waiting == pytest.approx(update, rel=0.1)


def test_dynamic_sampling_draws_until_the_batch_is_full_or_its_rounds_are_over():
    settings = of("8gpu-14b", "grpo.dynamic_sampling.max_rounds=3")
    assert groups_drawn(settings, 0.5) == 256
    assert groups_drawn(settings, 0.1) == 384
    assert groups_drawn(settings, 0.0) == 384


def test_rows_come_from_a_probe_where_one_stands():
    found = {
        "prompt_tokens": 7000.0,
        "completion_tokens": 900.0,
        "informative_share": 0.4,
        "pass_rate": 0.2,
        "rows": 32,
    }
    row = rows_of(of("8gpu-14b"), 2, {"phases": {"2": found}})
    assert (row.prompt, row.completion, row.informative, row.longest_prompt) == (7000, 900, 0.4, 60_000)
    assert row.source == "probe of 32 rows"
    assert rows_of(of("8gpu-14b"), 2, {"phases": {"1": found}}).source == "assumed"


def test_a_step_is_the_sum_of_its_parts_and_a_stage_of_its_steps():
    plan = plan_of("8gpu-14b")
    phase = next(stage for stage in plan.stages if stage.name == "grpo-1")
    assert set(phase.step.seconds) == set(PARTS)
    assert phase.seconds == 50 * sum(phase.step.seconds.values())
    assert plan.gpu_hours == pytest.approx(8 * plan.seconds / 3600)
    assert plan.money == pytest.approx(2.5 * plan.gpu_hours)
    assert sum(plan.seconds_by_part().values()) == pytest.approx(plan.seconds)


@pytest.mark.parametrize(
    ("override", "part", "less"),
    [
        ("grpo.save_steps=10", "saving", True),
        ("grpo.vllm.memory_share=0.3", "decode", False),
        ("launch.sequence_parallel=1", "update", False),
        ("launch.gradient_checkpointing=false", "update", True),
        ("rewards.judge.concurrency=8", "judge", False),
    ],
)
def test_a_setting_changes_its_part_alone(override, part, less):
    before = grpo_step(B14, of("8gpu-14b"), H100, rows(36_000)).seconds
    after = grpo_step(B14, of("8gpu-14b", override), H100, rows(36_000)).seconds
    changed = {name for name in PARTS if after[name] != pytest.approx(before[name])}
    assert part in changed
    assert changed <= {part, "old pass"}
    assert (after[part] < before[part]) is less


def test_a_training_waits_for_the_copy_and_for_writing_only_where_the_next_checkpoint_is_due():
    """177 GB: a copy of an eighth at 25 GB/s is 0.9 s; 118 s of writing and 15 s of hashing fit into a step."""
    settings, size = of("8gpu-14b"), 12 * B14.parameters
    copy = size / 8 / 25e9
    assert grpo_step(B14, settings, H100, rows(10_000)).seconds["saving"] == pytest.approx(copy)
    slow = H100.model_copy(update={"disk": 1e8, "seal": 1e8})
    step = grpo_step(B14, settings, slow, rows(10_000))
    rest = step.total - step.seconds["saving"]
    assert step.seconds["saving"] == pytest.approx(copy + size / 1e8 + size / 8e8 - rest)
    tenth = grpo_step(B14, of("8gpu-14b", "grpo.save_steps=10"), slow, rows(10_000))
    assert tenth.seconds["saving"] == pytest.approx(copy / 10)


@pytest.mark.parametrize("profile", ["8gpu-14b", "32b", "1gpu"])
def test_saving_takes_less_than_a_twentieth_of_training(profile):
    parts = plan_of(profile).seconds_by_part()
    assert parts["saving"] < 0.05 * sum(parts[name] for name in PARTS)


def test_levers_add_up():
    found = levers(B14, of("8gpu-14b"), H100, rows(90_000))
    assert found["all of these"] < min(found[name] for name in ("fp8 cache", "prompt read once a group", "speculation"))
    assert found["one step ahead"] < found["as it is"]


@pytest.mark.parametrize(
    ("option", "lever"),
    [
        ("kv_cache_dtype=fp8", "fp8 cache"),
        ("speculative_config={method='ngram', num_speculative_tokens=4, prompt_lookup_max=4}", "speculation"),
    ],
)
def test_an_option_of_vllm_is_the_lever_that_was_priced(option, lever):
    priced = levers(B14, of("8gpu-14b"), H100, rows(90_000))
    found = levers(B14, of("8gpu-14b", f"grpo.vllm.options.{option}"), H100, rows(90_000))
    assert found["as it is"] < priced["as it is"]
    assert [found["as it is"], found[lever]] == pytest.approx([priced[lever]] * 2)
    assert found["all of these"] == pytest.approx(priced["all of these"])


def test_evaluation_takes_its_own_options():
    plain, fp8 = plan_of("8gpu-14b"), plan_of("8gpu-14b", "evaluation.vllm_options.kv_cache_dtype=fp8")
    seconds = [{stage.name: stage.seconds for stage in plan.stages} for plan in (plain, fp8)]
    assert seconds[1].pop("evaluate") < seconds[0].pop("evaluate")
    assert seconds[1] == seconds[0]


def test_a_group_at_a_time_is_refused_where_vllm_reads_each_prompt_all_the_same():
    """8gpu-14b has groups of 8, and one of 8 key heads on each GPU."""
    plan = plan_of("8gpu-14b", "grpo.vllm.group_at_a_time=true")
    assert "from grpo.group_size=133 on they would not" in plan.faults[0]
    assert nearest(plan)[0].changes == {"grpo.vllm.group_at_a_time": False}
    drafting = "grpo.vllm.options.speculative_config={method='ngram', num_speculative_tokens=4, prompt_lookup_max=4}"
    assert plan_of("8gpu-14b", "grpo.vllm.group_at_a_time=true", drafting).fits


@pytest.mark.parametrize(
    ("profile", "overrides", "models"),
    [("smoke", [], 5), ("smoke", ["grpo.phases.0.evaluate=false"], 4), ("1gpu", [], 4)],
)
def test_every_evaluated_model_is_counted(profile, overrides, models):
    """Base, SFT unless it is skipped (as in 1gpu), and the phases that are evaluated."""
    (evaluate,) = [stage for stage in plan_of(profile, *overrides).stages if stage.name == "evaluate"]
    assert evaluate.steps == models


def test_key_heads_that_are_repeated_for_a_span_are_sent():
    """By hand: 4 query heads and the 2 key heads for 2 processes, repeated to 4 for 4 processes, of width 2."""
    sizes = little(heads=4, kv_heads=2)

    def sent(span: int) -> float:
        launch = LaunchSettings(num_processes=4, sequence_parallel=span)
        return sent_bytes(sizes, launch, scored=1, trained=0, updates=0, tokens=64).rows

    assert sent(1) == 0
    assert sent(2) == 2 * (64 / 2) * 2 * (4 + 2) * 2 * 2 * (1 / 2)
    assert sent(4) == 2 * (64 / 4) * 2 * (4 + 4) * 2 * 2 * (3 / 4)
