"""Weights and optimizer as shards: a training that goes on from them goes on to the bit, on any number of processes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from training_jobs import whole_state

from qwenlong_core.training import shards
from qwenlong_core.training.shards import read_optimizer, read_weights, weights_of, write, write_optimizer
from qwenlong_core.training.state_files import load_random_state, load_scheduler, save_random_state, save_scheduler


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
    write_optimizer(model, optimizer, tmp_path)
    save_scheduler(scheduler, tmp_path)
    save_random_state(tmp_path / "rng.json")
    resumed = copy.deepcopy(model)
    theirs = training(resumed)
    read_optimizer(resumed, theirs[0], tmp_path)
    load_scheduler(theirs[1], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters())), "loading moves no weight"
    steps(model, optimizer, scheduler, 5)
    load_random_state(tmp_path / "rng.json")
    steps(resumed, *theirs, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))
    ours, others = (json.dumps(one.state_dict()["param_groups"], sort_keys=True) for one in (optimizer, theirs[0]))
    assert ours == others


def test_a_tied_weight_is_written_once_and_comes_back_under_both_names(tmp_path: Path) -> None:
    model = tied_model()
    write(weights_of(model), tmp_path)
    written = whole_state(tmp_path)
    assert "weights/2.weight" not in written and "weights/0.weight" in written
    assert not any(name.startswith("weights/3.") for name in written), "a frozen weight is where it came from"
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, other.parameters()):
            parameter.zero_()
    read_weights(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_files_stay_small_also_where_a_tensor_is_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_FILE_BYTES", 100)
    tensors = {name: torch.full((count,), float(count)) for name, count in (("a", 3), ("b", 80), ("c", 2), ("d", 9))}
    write(tensors, tmp_path)
    found = {}
    for path in sorted(tmp_path.iterdir()):
        with safe_open(path, "pt") as file:
            found[path.name] = sorted(file.keys())
    assert list(found.values()) == [["a"], ["b"], ["c", "d"]]
    assert {name: tensor.tolist() for name, tensor in whole_state(tmp_path).items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_another_shape_and_a_missing_tensor_are_refused(tmp_path: Path) -> None:
    write({"a": torch.zeros(3)}, tmp_path)
    with pytest.raises(ValueError, match=r"saved torch.Size\(\[3\]\) and current: torch.Size\(\[4\]\) for a"):
        shards.read({"a": torch.zeros(4)}, tmp_path)
    with pytest.raises(RuntimeError, match=r"Missing key .* b"):
        shards.read({"b": torch.zeros(3)}, tmp_path)


SHARDED = """
import sys, torch
from pathlib import Path
from torch.distributed import destroy_process_group, init_process_group, get_rank, get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from qwenlong_core.training import shards
from qwenlong_core.store.files import write_json

source, target, steps, how = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
init_process_group("gloo")
torch.manual_seed(1 if not source.exists() else 2)
# The last layer has fewer rows than there are processes: some hold nothing of it.
model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3))
if how == "sharded":
    fully_shard(model, mesh=init_device_mesh("cpu", (get_world_size(),)))
else:
    model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
done = 0
if source.exists():
    shards.read_weights(model, source)
    shards.read_optimizer(model, optimizer, source)
    done = int(next(iter(optimizer.state.values()))["step"])
for step in range(done, done + steps):
    model(torch.full((2, 6), 1.0 + step)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
tensors, groups = shards.optimizer_of(model, optimizer)
target.mkdir(exist_ok=True)
shards.write(shards.copied(shards.weights_of(model) | tensors), target)
if get_rank() == 0:
    write_json(target / shards.GROUPS, groups)
destroy_process_group()
"""


def trained(source: Path, target: Path, steps: int, processes: int, how: str) -> dict[str, torch.Tensor]:
    """The state after some steps from ``source``'s, or from the start if there is none."""
    target.parent.mkdir(exist_ok=True)
    program = target.parent / "sharded.py"
    program.write_text(SHARDED)
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*launch, str(program), str(source), str(target), str(steps), how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return whole_state(target)


@pytest.mark.slow
def test_training_goes_on_to_the_bit_on_other_numbers_of_processes(tmp_path: Path) -> None:
    """Two processes with FSDP2, then one, then four, then two that replicate: like two alone. All see the same batch,
    so the mean of their gradients is exact."""
    alone = trained(tmp_path / "none", tmp_path / "alone", 8, 2, "sharded")
    source = tmp_path / "none"
    for i, (processes, how) in enumerate([(2, "sharded"), (1, "sharded"), (4, "sharded"), (2, "replicated")]):
        target = tmp_path / f"part{i}"
        end = trained(source, target, 2, processes, how)
        written = {path.name.split("-")[1] for path in target.glob("shard-*")}
        assert len(written) == processes, "each process has written a part"
        source = target
    assert end.keys() == alone.keys() and len(end) == 6 + 3 * 6
    assert [name for name in end if not torch.equal(end[name], alone[name])] == []
