"""Shared prompts under DDP and FSDP2 on two processes give the gradients of separate rows on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parity_stage import score_parity
from safetensors.torch import load_file
from sharded_loss import group
from training_jobs import grpo_job

from qwenlong_core.training.grpo import build_trainer

HERE = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["replicated", "sharded"])
def test_two_processes_have_the_gradients_of_separate_rows_in_one(
    mode: str, policy: Path, data: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [str(HERE / "sharded_loss.py"), mode, str(policy), str(data), str(tmp_path)]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours = load_file(tmp_path / "gradients.safetensors")

    eager = grpo_job(model={"name": "tiny", "attention": "eager"})
    plain = build_trainer(
        eager, inputs={"model": policy, "data": data}, work=tmp_path, scorer=score_parity, processes=1, rank=0
    )
    plain.current_gradient_accumulation_steps = plain.args.steps_per_generation
    plain.model.train()
    for process in (0, 1):
        plain.compute_loss(plain.model, group(process)).backward()
    for name, parameter in plain.model.named_parameters():
        apart = float((ours[name] - parameter.grad).norm())
        assert apart <= 1e-5 * float(parameter.grad.norm()), (name, apart)
