"""One process or two, one group a forward or two: the same update from the same rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_resume import PARITY_STAGE, Stage
from training_jobs import grpo_job, lines

ROLLOUT_FIELDS = ("accuracy", "reward", "groups_drawn", "groups_kept", "groups_all_right", "length_mean")


@pytest.mark.slow
def test_the_spread_of_a_batch_does_not_change_the_update(policy: Path, data: Path, tmp_path: Path) -> None:
    ends = []
    for processes, micro in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        job = grpo_job(
            launch={"num_processes": processes, "cpu_threads": 1}, micro_batch_size=micro,
            batch_size=4, mini_batch_size=4, dynamic_sampling={"max_rounds": 1},
        )  # fmt: skip
        work = tmp_path / f"{processes}-{micro}"
        Stage(PARITY_STAGE, job, {"model": policy, "data": data}, work, processes).finish()
        ends.append((lines(work / "output/metrics.jsonl"), load_file(work / "output/model.safetensors")))
    (rows, weights), *others = ends
    assert any(row["groups_kept"] < 4 for row in rows), "an empty slot must be among what is compared"
    for other_rows, other_weights in others:
        for name in ROLLOUT_FIELDS:
            assert [row[name] for row in other_rows] == [row[name] for row in rows], name
        assert [r["grad_norm"] for r in other_rows] == pytest.approx([r["grad_norm"] for r in rows], rel=1e-5)
        assert [r["loss"] for r in other_rows] == pytest.approx([r["loss"] for r in rows], abs=1e-6)
        apart = max(float((tensor - other_weights[name]).abs().max()) for name, tensor in weights.items())
        assert apart < 1e-2 * job.learning_rate
