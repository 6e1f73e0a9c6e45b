"""The update of one group with its row cut over processes, beside one process: memory a token, and time.

    python benchmarks/sequence_parallel.py memory --output DIR          kB a token of spans 1, 2 and 4
    python benchmarks/sequence_parallel.py time --output DIR            spans 1 and 2 at 8K, 16K and 32K tokens
    python benchmarks/sequence_parallel.py time --output DIR --prompts 8192         one length at a time

Each point is a step of the GRPO stage, launched as a pipeline launches it, with ``sequence_parallel_step.py``. Launches
whose points the output folder holds are not repeated, so a long table can be made in pieces.

``memory`` gives the slope over N, the tokens of the row, of the largest process's peak above what it held before the
step. Completions are fixed, so weights and all else that does not grow with the row drop out. *share* is that of one
process; *of 1/S* sets it beside an even cut, 1.1 being 10% above. Every block of 128 KiB or more is mapped by itself
and no huge pages are used, since otherwise the heap, or pages of 2 MiB, hide a process's share of a tensor.

``time`` gives the cores to one process as threads, or one thread to each of several processes, and runs in the
allocator settings of a stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from compare import Row, markdown
from step import job_of
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong.tasks.launch import launch_options
from qwenlong.tasks.process import HEAP
from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import load_tokenizer
from qwenlong_core.settings.running import LaunchSettings

EXACT = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}
FORMS = {"memory": (4, 256, 8, 4), "time": (2, 64, 4, 2)}
"""Layers, width, query heads and key heads: wide enough that a token's states count, and the tiny model."""
VOCABULARY = 1024
"""So few that the output head's logits and gradient, which do not grow with the row, are not the peak."""
WARM = 300
"""Tokens of the short row, whose step is not measured."""


def write_policy(folder: Path, layers: int, hidden: int, heads: int, key_heads: int) -> None:
    """A policy with random weights, few tokens and a context for any length."""
    tokenizer: Any = bundled_tokenizer()
    texts = [generate(tokenizer, domain="math", tokens=4000, seed=seed).example.context for seed in range(3)]
    tokenizer = tokenizer.train_new_from_iterator(texts, vocab_size=VOCABULARY)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=2**18,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(folder: Path, tokenizer: Any, prompts: Sequence[int]) -> None:
    """A short row, then one of each of these numbers of tokens; their names are their places."""
    rows = [
        generate(tokenizer, domain="math", tokens=tokens, seed=0, row_id=str(place)).example
        for place, tokens in enumerate((WARM, *prompts))
    ]
    folder.mkdir()
    write_examples(folder / "train.parquet", rows, [1] * len(rows))


def job(args: argparse.Namespace, span: int, checkpointing: bool) -> GRPOJob:
    """A step for the short row and for each of the others."""
    plain = job_of(max(args.prompts), args.completion, args.group, seed=0)
    launch = LaunchSettings(
        num_processes=span,
        sequence_parallel=span,
        cpu_threads=max(1, args.cores // span) if args.what == "time" else 1,
        gradient_checkpointing=checkpointing,
    )
    sampling = plain.grpo.dynamic_sampling.model_copy(update={"max_rounds": 2 * len(args.prompts) + 2})
    grpo = plain.grpo.model_copy(update={"dynamic_sampling": sampling})
    phase = plain.phase.model_copy(update={"steps": len(args.prompts) + 1})
    return plain.model_copy(update={"launch": launch, "grpo": grpo, "phase": phase})


def run(args: argparse.Namespace, policy: Path, span: int, checkpointing: bool) -> list[Row]:
    """One launch over all lengths: the largest process's memory, the slowest one's time."""
    of_stage = job(args, span, checkpointing)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_data(work / "data", load_tokenizer(policy), args.prompts)
        (work / "job.json").write_text(of_stage.model_dump_json())
        given = [f"--job={work / 'job.json'}", f"--model={policy}", f"--data={work / 'data'}", f"--work={work}"]
        program = [str(Path(__file__).with_name("sequence_parallel_step.py")), *given]
        program += ["--small-pages"] if args.what == "memory" else []
        options = [*launch_options(of_stage.launch), "--main_process_port=0"]
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *options, *program],
            capture_output=True,
            text=True,
            env=os.environ | (EXACT if args.what == "memory" else HEAP),
        )
        if done.returncode:
            raise RuntimeError(f"span {span}: {done.stderr[-3000:]}")
        ranks = [json.loads((work / f"{rank}.json").read_text()) for rank in range(span)]
    place = {"span": span, "checkpointing": checkpointing}
    return [place | {"P": prompt} | largest(seen) for prompt, *seen in zip(args.prompts, *ranks, strict=True)]


def largest(seen: Sequence[dict[str, float]]) -> Row:
    """What the processes saw of one step as one."""
    return {
        "N": seen[0]["tokens"],
        "seconds": max(one["seconds"] for one in seen),
        "processor_seconds": sum(one["processor_seconds"] for one in seen),
        "peak_mb": max(one["peak_mb"] for one in seen),
        "grown_mb": max(one["grown_mb"] for one in seen),
    }


def measure(args: argparse.Namespace, file: Path) -> list[Row]:
    """The points of the table, ``repeats`` launches over each span in turn; launches in the file are kept."""
    points: list[Row] = json.loads(file.read_text()) if file.exists() else []
    with tempfile.TemporaryDirectory() as policy:
        write_policy(Path(policy), *args.form)
        for repeat, on, span in product(range(args.repeats), args.checkpointing, args.spans):
            place = {"span": span, "checkpointing": on == "on", "P": args.prompts[-1]}
            if sum(place.items() <= point.items() for point in points) > repeat:
                continue
            found = run(args, Path(policy), span, on == "on")
            points += found
            print(markdown(found), flush=True)
            file.write_text(json.dumps(points, indent=1) + "\n")
    return points


def slope(points: Iterable[Row]) -> float:
    """kB (1,000 bytes) that the peak grows by with a token of the row, by least squares."""
    tokens, peaks = zip(*((point["N"], point["grown_mb"]) for point in points))
    return float(np.polyfit(tokens, peaks, 1)[0]) * 2**20 / 1000


def memory_table(points: Sequence[Row]) -> list[Row]:
    """A line for each span, with and without checkpointing."""
    table = []
    for on in sorted({point["checkpointing"] for point in points}, reverse=True):
        own = [point for point in points if point["checkpointing"] == on]
        slopes = {s: slope(p for p in own if p["span"] == s) for s in sorted({point["span"] for point in own})}
        table += [
            {
                "checkpointing": "on" if on else "off",
                "processes": span,
                "kB a token": round(found, 2),
                "share": round(found / slopes[1], 3),
                "of 1/S": round(found / slopes[1] * span, 3),
            }
            for span, found in slopes.items()
        ]
    return table


def time_table(points: Sequence[Row]) -> list[Row]:
    """A line for each length, with the ratios of every span to one process."""
    table = []
    for prompt, on in sorted({(point["P"], point["checkpointing"]) for point in points}):
        own = [point for point in points if (point["P"], point["checkpointing"]) == (prompt, on)]
        line: Row = {"P": prompt, "N": own[0]["N"], "checkpointing": "on" if on else "off"}
        middle: dict[int, dict[str, Any]] = {}
        for span in sorted({point["span"] for point in own}):
            runs = [point for point in own if point["span"] == span]
            names = ("seconds", "processor_seconds", "grown_mb")
            middle[span] = {name: median(one[name] for one in runs) for name in names}
            line |= {f"S={span} s": round(middle[span]["seconds"], 2), f"S={span} MB": round(middle[span]["grown_mb"])}
        for span in middle.keys() - {1}:
            for name, label in (("seconds", "time"), ("processor_seconds", "processor time"), ("grown_mb", "memory")):
                line[f"{label}, S={span} / S=1"] = round(middle[span][name] / middle[1][name], 2)
        table.append(line | {"runs": len(own) // len(middle)})
    return table


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("what", choices=tuple(FORMS))
    result.add_argument("--output", type=Path, required=True)
    result.add_argument("--spans", type=int, nargs="+", help="1 is always among them (memory: 1 2 4, time: 1 2)")
    result.add_argument("--prompts", type=int, nargs="+", help="memory: 2048 4096 8192, time: 8192 16384 32768")
    result.add_argument("--completion", type=int, default=64)
    result.add_argument("--group", type=int, default=4)
    result.add_argument("--checkpointing", nargs="+", choices=("on", "off"), help="memory: both, time: on")
    result.add_argument("--form", type=int, nargs=4, metavar=("LAYERS", "WIDTH", "HEADS", "KEY_HEADS"))
    result.add_argument("--cores", type=int, default=os.cpu_count(), help="for time")
    result.add_argument("--repeats", type=int, default=1)
    return result


def main() -> None:
    args = parser().parse_args()
    memory = args.what == "memory"
    args.form = args.form or FORMS[args.what]
    args.prompts = args.prompts or ([2048, 4096, 8192] if memory else [8192, 16384, 32768])
    args.checkpointing = args.checkpointing or (["on", "off"] if memory else ["on"])
    args.spans = sorted({1, *(args.spans or ([2, 4] if memory else [2]))})
    args.output.mkdir(parents=True, exist_ok=True)
    name = f"sequence_parallel_{args.what}"
    points = measure(args, args.output / f"{name}.json")
    table = markdown((memory_table if memory else time_table)(points))
    (args.output / f"{name}.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
