"""How long a training waits for a checkpoint: shards in the background, beside gathering on one process.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --processes 4 --layers 24 --rounds 5

A Llama of random weights is sharded by FSDP2 over processes with gloo and has taken one step of AdamW. In turn each
round writes a checkpoint both ways: ours (``training/shards.py``, ``training/saver.py``), where the training waits for
a copy of its tensors, and the usual one, where the main process gathers all, writes, hashes and seals while the others
wait for it. Both end with the same tensors on the disk, flushed and hashed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong_core.store.files import list_files
from qwenlong_core.training import shards
from qwenlong_core.training.checkpoints import seal
from qwenlong_core.training.saver import Saver, own_files


def sharded_training(layers: int) -> tuple[Any, Any]:
    """A model and its optimizer after one step."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=layers, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.arange(32)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def gathered(model: Any, optimizer: Any, folder: Path) -> float:
    """The main process writes everything; seconds that the training waits."""
    start = time.perf_counter()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    whole: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    if distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
        tensors = {
            f"{w}/{name}": torch.as_tensor(t) for w, values in whole["state"].items() for name, t in values.items()
        }
        save_file(tensors, folder / "optimizer.safetensors")
        seal(folder, list_files(folder))
    distributed.barrier()
    return time.perf_counter() - start


def in_background(model: Any, optimizer: Any, folder: Path, saver: Saver) -> tuple[float, float]:
    """Every process writes its part; seconds that the training waits, and until the checkpoint is sealed."""
    start = time.perf_counter()
    tensors, _ = shards.optimizer_of(model, optimizer)
    saver.start(folder, shards.weights_of(model) | tensors, timedelta(minutes=10))
    waited = time.perf_counter() - start
    saver.wait()
    distributed.barrier()
    return waited, time.perf_counter() - start


def worker(folder: Path, layers: int, rounds: int) -> None:
    """One process of the benchmark."""
    distributed.init_process_group("gloo")
    rank, model_and_optimizer, saver = distributed.get_rank(), sharded_training(layers), Saver()
    rows = []
    for number in range(rounds):
        for name in ("gathered", "ours") if number % 2 else ("ours", "gathered"):
            place = folder / f"{name}-{number}" / "checkpoint-1"
            place.mkdir(parents=True, exist_ok=True)
            distributed.barrier()
            if name == "ours":
                waited, sealed = in_background(*model_and_optimizer, place, saver)
                hashed = sum(path.stat().st_size for path in own_files(place, rank))
            else:
                waited = sealed = gathered(*model_and_optimizer, place)
                hashed = sum(path.stat().st_size for path in place.iterdir()) if rank == 0 else 0
            sizes: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(sizes, hashed)
            rows.append({"how": name, "waited": waited, "sealed": sealed, "hashed_mb": [round(s / 1e6) for s in sizes]})
            distributed.barrier()
            if rank == 0:
                shutil.rmtree(place.parent)
    if rank == 0:
        report(rows)
    distributed.destroy_process_group()


def report(rows: list[dict[str, Any]]) -> None:
    """Medians by way, and their ratio."""
    medians = {}
    for name in ("ours", "gathered"):
        of = [row for row in rows if row["how"] == name]
        waited, sealed = (sorted(row[key] for row in of)[len(of) // 2] for key in ("waited", "sealed"))
        medians[name] = waited
        print(
            f"{name:9} waits {waited:6.2f} s, sealed after {sealed:6.2f} s; hashed: {of[0]['hashed_mb']} MB a process"
        )
    print(f"gathered / ours: {medians['gathered'] / medians['ours']:.1f} times the waiting")


def main() -> None:
    """Start the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if "LOCAL_RANK" in os.environ:
        worker(Path(os.environ["CHECKPOINTS_IN"]), args.layers, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={args.processes}", "--standalone"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CHECKPOINTS_IN": folder}
        subprocess.run([*launch, __file__, *sys.argv[1:]], check=True, env=environment)


if __name__ == "__main__":
    main()
