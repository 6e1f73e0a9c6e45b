"""Trainer states as safetensors and JSON: a training that goes on from them goes on to the bit."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qwenlong_core.training.state_files import (
    load_optimizer,
    load_random_state,
    load_scheduler,
    save_optimizer,
    save_random_state,
    save_scheduler,
)


def tied_model() -> torch.nn.Module:
    """Two layers whose weight is one tensor, as input and output embeddings are, and a frozen one."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
    )
    model[2].weight = model[0].weight
    model[3].requires_grad_(False)
    return model


def training(model: torch.nn.Module) -> tuple[Any, Any]:
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and "bias" not in n]
    rest = [p for n, p in model.named_parameters() if p.requires_grad and "bias" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01
    )
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)


def steps(model: torch.nn.Module, optimizer: Any, scheduler: Any, count: int) -> None:
    for _ in range(count):
        model(torch.randn(3, 6)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def test_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    model = tied_model()
    optimizer, scheduler = training(model)
    steps(model, optimizer, scheduler, 5)
    save_optimizer(model, optimizer, tmp_path)
    save_scheduler(scheduler, tmp_path)
    save_random_state(tmp_path / "rng.json")
    resumed = copy.deepcopy(model)
    theirs = training(resumed)
    load_optimizer(resumed, theirs[0], tmp_path)
    load_scheduler(theirs[1], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters())), "loading moves no weight"
    steps(model, optimizer, scheduler, 5)
    load_random_state(tmp_path / "rng.json")
    steps(resumed, *theirs, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))
    ours, others = (json.dumps(one.state_dict()["param_groups"]) for one in (optimizer, theirs[0]))
    assert ours == others


def test_random_states_come_back(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]

    draws()  # Box-Muller keeps a second number for the next call: part of the state
    save_random_state(tmp_path / "rng.json")
    first = draws()
    draws()
    load_random_state(tmp_path / "rng.json")
    assert draws() == first


SHARDED = """
import sys, torch
from pathlib import Path
from torch.distributed import destroy_process_group, init_process_group, get_rank
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from qwenlong_core.training.state_files import load_optimizer, load_weights, save_optimizer

folder, steps, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
init_process_group("gloo")
torch.manual_seed(1 if not resume else 2)
model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Linear(7, 5))
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
if resume:
    load_weights(model, folder)
    load_optimizer(model, optimizer, folder)
for step in range(steps):
    batch = torch.full((2, 6), 1.0 + step + (5 if resume else 0) + get_rank())
    model(batch).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
save_optimizer(model, optimizer, folder)
weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if get_rank() == 0:
    save_file(weights, folder / "model.safetensors")
destroy_process_group()
"""


def sharded(folder: Path, steps: int, how: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "sharded.py"
    program.write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, str(folder), str(steps), how], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_sharded_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    """FSDP2 over two processes, on CPU: what is written is whole and can be spread again."""
    sharded(tmp_path / "a", 10, "fresh")
    sharded(tmp_path / "b", 5, "fresh")
    sharded(tmp_path / "b", 5, "resume")
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(tmp_path / run / name) for run in ("b", "a"))
        assert ours.keys() == theirs.keys() and ours
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
