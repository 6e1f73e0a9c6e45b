"""The update step (forward and backward over one group) against its peers.

    python benchmarks/update.py --model FOLDER --output DIR                                  P=2048, C=128, G=8
    python benchmarks/update.py --model FOLDER --output DIR --prompt 512 1024 --group 4 16 --checkpointing on off

The methods (listed in ``update_variants.py``) run in turn, each in a separate process. Prints a table for each shape
and writes ``update.json``, ``update.md`` and ``update.png``.

Times are wall seconds; use ``--threads 1 --clock processor`` on a busy machine. *share* is the share of the FLOP bound
that a method reaches: time of the loop (with the same matrix products) over time of the method, divided by FLOPs of the
loop over FLOPs of the shared row. FLOPs count matrix products: linear layers, the output head and attention. *peak_mb*
is the peak memory of the process, *grown_mb* the part of it above the loaded model. Stock TRL without checkpointing
keeps the activations of G * (P + C) tokens: leave it out if memory is short.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from compare import CLOCKS, model_folder
from transformers import AutoConfig
from update_variants import VARIANTS, lengths

from qwenlong.tasks.process import HEAP

COLUMNS = ("variant", "seconds", "times_ours", "share", "grown_mb", "grown_of_loop", "peak_mb", "loss", "gradient_norm")


def flops(config: Any, tokens: int, pairs: int, labelled: int, checkpointing: bool) -> float:
    """FLOPs of a forward and backward: ``tokens`` in the layers, ``pairs`` in attention, ``labelled`` in the head.

    The backward of a matrix product is two products; flash attention has two products forward and five backward, and
    the output head computes its logits again in the backward.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    weights = width * head * 2 * (heads + config.num_key_value_heads) + 3 * width * config.intermediate_size
    again = int(checkpointing)
    linear = 2 * tokens * weights * (3 + again)
    attention = 2 * pairs * heads * head * (2 + 5 + 2 * again)
    return float(config.num_hidden_layers * (linear + attention) + 2 * labelled * width * config.vocab_size * 4)


def bound(config: Any, prompt: int, sizes: Sequence[int], checkpointing: bool) -> float:
    """FLOPs of the group's rows run separately, over FLOPs of the shared row."""

    def causal(n: int) -> int:
        return n * (n + 1) // 2

    apart = flops(
        config,
        sum(prompt + c for c in sizes),
        sum(causal(prompt + c) for c in sizes),
        sum(sizes),
        checkpointing,
    )
    prefix = prompt - 1
    pairs = causal(prefix) + sum(c * prefix + causal(c) for c in sizes)
    return apart / flops(config, prefix + sum(sizes), pairs, sum(sizes), checkpointing)


def run(model: Path, variant: str, shape: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Run one method once, in a separate process; ``{"failed": reason}`` if it fails."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("update_variants.py")),
        f"--model={model}",
        f"--variant={variant}",
    ]
    command += [f"--{name}={shape[name]}" for name in ("prompt", "completion", "group", "questions") if name in shape]
    command += [f"--{name}" for name in ("checkpointing", "ragged") if shape[name]]
    command += [f"--threads={threads}"] if threads else []
    heap = HEAP if variant in ("ours", "groups", "loop") else {}  # as for the process of a stage
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | heap)
    if done.returncode < 0:
        return {
            "failed": f"killed by signal {-done.returncode}" + (" (out of memory?)" if done.returncode == -9 else "")
        }
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(args: argparse.Namespace, shape: dict[str, Any], variants: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one shape: medians over the repeats, which alternate between methods."""
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            runs[variant].append(run(args.model, variant, shape, args.threads))
    clock = "seconds" if args.clock == "wall" else "processor_seconds"
    rows: list[dict[str, Any]] = []
    for variant, results in runs.items():
        failed = [r["failed"] for r in results if "failed" in r]
        if failed:
            rows.append(shape | {"variant": variant, "failed": failed[0]})
            continue
        middle = {name: statistics.median(r[name] for r in results) for name in results[0]}
        rows.append(
            shape
            | {"variant": variant}
            | middle
            | {"seconds": middle[clock], "wall_seconds": middle["seconds"]}
            | {"grown_mb": middle["peak_mb"] - middle["before_mb"]}
        )
    return rows


def compare(rows: list[dict[str, Any]], config: Any) -> None:
    """Add the ratios of each method to ours and to the loop."""
    done = {row["variant"]: row for row in rows if "failed" not in row}
    for row in done.values():
        sizes = lengths(row["group"], row["completion"], row["ragged"])
        row["bound"] = bound(config, row["prompt"], sizes, row["checkpointing"])
        if "ours" in done:
            row["times_ours"] = row["seconds"] / done["ours"]["seconds"]
        if "loop" in done:
            row["share"] = done["loop"]["seconds"] / row["seconds"] / row["bound"]
            row["grown_of_loop"] = row["grown_mb"] / done["loop"]["grown_mb"]


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def title(shape: dict[str, Any]) -> str:
    extras = [name for name in ("checkpointing", "ragged") if shape[name]]
    return " ".join([f"P={shape['prompt']} C={shape['completion']} G={shape['group']}", *extras])


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| shape | bound | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in rows:
        cells = [row["variant"], row["failed"]] if "failed" in row else [text(row.get(name, "")) for name in COLUMNS]
        lines.append(" | ".join(["| " + title(row), text(row.get("bound", "")), *cells]) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and peak memory of each method, one group of bars per shape."""
    rows = [row for row in rows if "failed" not in row]
    shapes, variants = list(dict.fromkeys(map(title, rows))), list(dict.fromkeys(r["variant"] for r in rows))
    figure, axes = plt.subplots(1, 2, figsize=(6 + 2 * len(shapes), 4))
    for axis, field, label in zip(axes, ("seconds", "grown_mb"), ("seconds", "memory above the loaded model, MB")):
        for i, variant in enumerate(variants):
            own = {title(r): r[field] for r in rows if r["variant"] == variant}
            axis.bar(
                [s + i * 0.8 / len(variants) for s in range(len(shapes))],
                [own.get(s, 0) for s in shapes],
                width=0.8 / len(variants),
                label=variant,
                align="edge",
            )
        axis.set_xticks([s + 0.4 for s in range(len(shapes))], shapes, fontsize=7)
        axis.set_ylabel(label)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def measuring(description: str | None) -> argparse.ArgumentParser:
    """The options that all measurements share."""
    result = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    result.add_argument(
        "--model", type=model_folder, required=True, help="policy folder, from python -m qwenlong_core.models"
    )
    result.add_argument("--output", type=Path, required=True)
    result.add_argument("--repeats", type=int, default=1)
    result.add_argument("--threads", type=int, default=None, help="processor threads (default: all cores)")
    result.add_argument("--clock", choices=CLOCKS, default="wall")
    return result


def parser() -> argparse.ArgumentParser:
    result = measuring(__doc__)
    result.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    result.add_argument("--prompt", type=int, nargs="+", default=[2048])
    result.add_argument("--completion", type=int, nargs="+", default=[128])
    result.add_argument("--group", type=int, nargs="+", default=[8])
    result.add_argument("--checkpointing", nargs="+", choices=("on", "off"), default=["on"])
    result.add_argument("--ragged", action="store_true", help="completions of different lengths")
    return result


def main() -> None:
    args = parser().parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    config, rows = AutoConfig.from_pretrained(args.model), []
    for prompt, completion, group, on in product(args.prompt, args.completion, args.group, args.checkpointing):
        shape = {
            "prompt": prompt,
            "completion": completion,
            "group": group,
            "checkpointing": on == "on",
            "ragged": args.ragged,
        }
        measured = measure(args, shape, args.variants)
        compare(measured, config)
        rows += measured
        print(markdown(measured), flush=True)
        (args.output / "update.json").write_text(json.dumps(rows, indent=1))
        (args.output / "update.md").write_text(markdown(rows))
        plot(rows, args.output / "update.png")


if __name__ == "__main__":
    main()
