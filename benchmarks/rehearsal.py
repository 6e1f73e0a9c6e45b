"""Rehearsed memory against measured memory of the same GRPO step, on this machine's CPU.

    python benchmarks/rehearsal.py --output DIR [--only 8]

Each shape (model, P, C, G, checkpointing, groups a forward, processes a row) runs twice, each time in processes of its
own: on fake tensors, and for real. Both count from just before the model is made to the end of a step of two updates
with two forwards each. Two processes that compute a row together (``span``) shard weights by FSDP2 over gloo; the last
of them, which holds the completions, is rehearsed, and the larger one is measured; what FSDP2 keeps for a layer beside
tensors is added (``sharded_objects.py``). The heap gives everything back
(``glibc.malloc.mmap_threshold=65536``, no huge pages), so that a process's peak is the step's. ``rehearsal.jsonl`` has
a line for each shape; a run goes on where the last one stopped. Prints a table of all shapes and the range of predicted
over measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536:glibc.malloc.hugetlb=0", "OMP_NUM_THREADS": "1"}
MODELS: dict[str, dict[str, Any]] = {
    "llama-8x256": {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096, "tie_word_embeddings": True,
    },
    "qwen2-4x384": {
        "model_type": "qwen2", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 16384, "tie_word_embeddings": False,
    },
}  # fmt: skip
LENGTHS = ((512, 64), (1024, 32), (1024, 128), (2048, 64))
GROUPS, CHECKPOINTING = (2, 4), (False, True)
FORWARDS = ((1, 1), (2, 1), (1, 2))
"""Groups a forward, and processes that compute its row together."""
SHARDED = "infra/accelerate/fsdp2-1node.yaml"
LAYER_OBJECTS = 280_000
"""What FSDP2 takes for a layer beside its tensors, in bytes (``sharded_objects.py``); a ledger sees tensors alone."""


def shapes() -> list[dict[str, Any]]:
    """All shapes, in an order in which the first few differ in everything."""
    rows = [
        {"model": m, "prompt": p, "completion": c, "group": g, "checkpointing": k, "at_once": n, "span": s}
        for (p, c), k, (n, s), g, m in product(LENGTHS, CHECKPOINTING, FORWARDS, GROUPS, MODELS)
    ]
    return [rows[29 * i % len(rows)] for i in range(len(rows))]  # 29 and 96 have no common divisor: each comes once


def job_of(shape: dict[str, Any]) -> Any:
    """The GRPO job of a shape, cut to one short step."""
    from qwenlong_core.jobs import GRPOJob
    from qwenlong_core.rehearsal.step import short_job

    phase = {"max_prompt_tokens": 131072, "max_completion_tokens": 4096, "steps": 1}
    grpo = {"group_size": shape["group"], "micro_batch_size": shape["at_once"], "batch_size": 64, "mini_batch_size": 32}
    span = shape["span"]
    launch = {"cpu_threads": 1, "gradient_checkpointing": shape["checkpointing"]}
    launch |= {"num_processes": span, "sequence_parallel": span, "accelerate_config": SHARDED} if span > 1 else {}
    job = {
        "index": 1,
        "phase": phase,
        "grpo": grpo,
        "rewards": {},
        "model": {"name": "tiny"},
        "launch": launch,
        "seed": 1,
    }
    return short_job(GRPOJob.model_validate(job))


def predicted(shape: dict[str, Any], work: Path) -> dict[str, Any]:
    """Bytes of the highest moment, by the ledger."""
    from qwenlong_core.rehearsal.on_cpu import on_cpu

    ledger = on_cpu(job_of(shape), MODELS[shape["model"]], shape["prompt"], shape["completion"], work)
    highest = max(ledger.moments.values(), key=lambda moment: moment.size)
    objects = LAYER_OBJECTS * MODELS[shape["model"]]["num_hidden_layers"] if shape["span"] > 1 else 0
    return {"predicted": highest.size + objects, "where": highest.label}


def bytes_of(name: str) -> int:
    """A line of this process's status, such as ``VmRSS``, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measured(shape: dict[str, Any], work: Path) -> dict[str, Any]:
    """Growth of the process to the peak of its step, in bytes."""
    from qwenlong_core.rehearsal.on_cpu import set_up_on_cpu
    from qwenlong_core.rehearsal.step import build

    job = job_of(shape)
    set_up_on_cpu(job)
    config = MODELS[shape["model"]]
    # What libraries load and keep at their first use is no part of a step. oneDNN compiles kernels for each size of
    # product and keeps 256 KiB for each of them, 28 at llama-8x256: so one layer runs at the shape's own sizes.
    _one_layer(config, shape, work)
    before = bytes_of("VmRSS")
    model = random_model(config, config["num_hidden_layers"], job)
    trainer = build(job, model, shape["prompt"], shape["completion"], work)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    trainer.train()
    return {"measured": bytes_of("VmHWM") - before}


def random_model(config: dict[str, Any], layers: int, job: Any) -> Any:
    """A real model of this shape."""
    from qwenlong_core.rehearsal.step import shaped_model
    from qwenlong_core.training.runtime import training_weights

    model = shaped_model(config, layers, training_weights(job.model, job.lora), "cpu")
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    return model


def _one_layer(config: dict[str, Any], shape: dict[str, Any], work: Path) -> None:
    from qwenlong_core.rehearsal.step import build

    job = job_of(shape)
    build(job, random_model(config, 1, job), shape["prompt"], shape["completion"], work).train()
    gc.collect()


def in_a_child(run: Callable[[dict[str, Any], Path], dict[str, Any]], shape: dict[str, Any]) -> dict[str, Any]:
    """The result of ``run`` in a fork of this process, in which all libraries are loaded."""
    return finished(forked(run, shape, {}))


def measured_on_all(shape: dict[str, Any]) -> dict[str, Any]:
    """:func:`measured` in each of the processes that compute a row together; what the larger one took."""
    if shape["span"] == 1:
        return in_a_child(measured, shape)
    return max(on_each(measured, shape, shape["span"]), key=lambda found: found["measured"])


def on_each(run: Callable[..., dict[str, Any]], shape: dict[str, Any], processes: int) -> list[dict[str, Any]]:
    """The results of ``run`` in forks that can meet in a process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    children = [forked(run, shape, place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]
    return [finished(child) for child in children]


def forked(run: Callable[..., dict[str, Any]], shape: dict[str, Any], variables: dict[str, str]) -> tuple[int, int]:
    """The process and the pipe of a child that runs with more environment variables; see :func:`finished`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        os.environ.update(variables)
        with tempfile.TemporaryDirectory() as work, os.fdopen(writing, "w") as pipe:
            json.dump(run(shape, Path(work)), pipe)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finished(child: tuple[int, int]) -> dict[str, Any]:
    """What a child of :func:`forked` found."""
    process, reading = child
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("a run failed; its traceback is above")
    result: dict[str, Any] = json.loads(text)
    return result


def compare(wanted: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """The rows of the shapes, those of an earlier run included."""
    import qwenlong_core.rehearsal.on_cpu  # noqa: F401  # loaded once, for all children

    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {json.dumps({key: row[key] for key in wanted[0]}) for row in rows}
    for shape in wanted:
        if json.dumps(shape) in done:
            continue
        rows.append(shape | in_a_child(predicted, shape) | measured_on_all(shape))
        with file.open("a") as lines:
            lines.write(json.dumps(rows[-1]) + "\n")
    return [row for row in rows if {key: row[key] for key in wanted[0]} in wanted]


def ratio(row: dict[str, Any]) -> float:
    """Predicted over measured."""
    return float(row["predicted"] / row["measured"])


def table(rows: list[dict[str, Any]]) -> str:
    """A table of all rows, and the lowest and highest ratio in words."""
    names = ("model", "prompt", "completion", "group", "checkpointing", "at_once", "span", "where")
    lines = [f"| {' | '.join(names)} | predicted MB | measured MB | ratio |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        cells = [str(row[name]) for name in names]
        numbers = [f"{row['predicted'] / 1e6:.1f}", f"{row['measured'] / 1e6:.1f}", f"{ratio(row):.3f}"]
        lines.append(f"| {' | '.join(cells + numbers)} |")
    low, high = min(map(ratio, rows)), max(map(ratio, rows))
    return "\n".join([*lines, "", f"{len(rows)} shapes: ratio {low:.3f} to {high:.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", type=int, help="the first shapes alone")
    args = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in HEAP.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | HEAP)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = compare(shapes()[: args.only], args.output / "rehearsal.jsonl")
    (args.output / "rehearsal.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
