"""A phase with QwenLong-L1.5's method and the bonus for evidence, killed again and again, ends like one left alone."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from test_resume import PARITY_STAGE, Stage, assert_same, assert_trained, end_state
from training_jobs import grpo_job

from qwenlong_core.jobs import GRPOJob

STEPS, KILLS = 10, 3


def job_of(entropies: tuple[float, float]) -> GRPOJob:
    """Everything on but ``on_policy``, since groups are to be left for the next step."""
    high, low = entropies
    return grpo_job(
        phase={"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": STEPS},
        save_steps=2,
        balance_tasks=True,
        scale_rewards="task",
        aepo={"high": high, "low": low},
        dynamic_sampling={"max_rounds": 2, "oversampling": 1.5},
        optimizer_across_phases="carried",
        curriculum={"retire_after_visits": 2},
        rewards={"evidence": {"of": "paragraphs"}},
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_at_random_steps_with_everything_on(policy: Path, data: Path, tmp_path: Path) -> None:
    inputs, generator = {"model": policy, "data": data}, random.Random(1)

    def stage(name: str, entropies: tuple[float, float]) -> Stage:
        return Stage(PARITY_STAGE, job_of(entropies), inputs, tmp_path / name)

    # Thresholds within the range of a run without a mask, so that it goes on and off.
    first = stage("first", (20.0, 0.0))
    first.finish()
    measured = sorted(row["entropy_batch"] for row in end_state(first.work)["metrics"])
    thresholds = measured[-3], measured[2]
    straight = stage("straight", thresholds)
    straight.finish()
    end = end_state(straight.work)
    assert_trained(end, policy, STEPS, rounds=2)
    masked = [row["negatives_masked_share"] > 0 for row in end["metrics"]]
    assert len(set(masked)) == 2, "masked in some steps, not in others"
    assert any(row["kept_from_last_step"] for row in end["metrics"])
    assert all(row["bonus_mean"] > 0 for row in end["metrics"])
    assert all(row["groups_kept_math"] <= 2 for row in end["metrics"] if "groups_kept_math" in row)

    disturbed = stage("disturbed", thresholds)
    for _ in range(KILLS):
        after = min(STEPS - 1, disturbed.steps_done() + generator.choice((1, 2, 3)))
        status, log = disturbed.interrupt(signal.SIGKILL, after)
        assert status == -signal.SIGKILL, log
    assert disturbed.steps_done() < STEPS
    disturbed.finish()
    assert_same(end_state(disturbed.work), end)
