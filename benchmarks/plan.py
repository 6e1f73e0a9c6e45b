"""Seconds of a GRPO step: planned from this machine's measured rates, beside a real step of the trainer.

    python benchmarks/plan.py MODEL_DIR --output DIR          five shapes, median of five steps each
    python benchmarks/plan.py MODEL_DIR --output DIR --only 2

The rates are measured first (what `qwenlong plan --measure` does), all in a stage's memory settings. Each shape then
runs in the trainer as in ``benchmarks/step.py``: G completions of exactly C tokens on one prompt, one update. The first
step, which compares shared prompts with separate rows once a run, does not count. Run it on a quiet machine. ``DIR``
keeps the rates and a line for each shape, so that a run goes on where the last one stopped. Takes two to three minutes
for the rates and two shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from compare import markdown, model_folder
from step import job_of, our_steps

from qwenlong.tasks.process import HEAP
from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.models import load_tokenizer
from qwenlong_core.plan.assumptions import Rows
from qwenlong_core.plan.machine import Machine
from qwenlong_core.plan.measure import measure
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.steps import grpo_step
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.runtime import set_up_process

SHAPES = ((256, 32, 4, True), (512, 64, 4, False), (1024, 32, 4, True), (512, 64, 8, True), (1024, 128, 8, False))
"""P, C, G, checkpointing."""


def planned(
    policy: Path, machine: Machine, prompt: int, completion: int, group: int, checkpointing: bool
) -> dict[str, float]:
    """Seconds by part, without saving, which the clock of a step does not see."""
    settings = load_settings(
        "local",
        [
            f"grpo.group_size={group}",
            "grpo.batch_size=1",
            "grpo.mini_batch_size=1",
            f"launch.gradient_checkpointing={str(checkpointing).lower()}",
        ],
    )
    rows = Rows(
        prompt=prompt,
        completion=completion,
        longest_prompt=prompt,
        longest_completion=completion,
        informative=1.0,
        passed=1.0,
        source="benchmark",
    )
    step = grpo_step(shape_of(ModelSettings(name=str(policy))), settings, machine, rows)
    return {part: seconds for part, seconds in step.seconds.items() if part != "saving"}


def measured(policy: Path, prompt: int, completion: int, group: int, checkpointing: bool, steps: int) -> float:
    """Median seconds of a real step after the first."""
    example = generate(load_tokenizer(policy), domain="math", tokens=prompt, seed=0).example
    job = job_of(prompt, completion, group, seed=0)
    launch = job.launch.model_copy(update={"gradient_checkpointing": checkpointing})
    job = job.model_copy(update={"phase": job.phase.model_copy(update={"steps": steps + 1}), "launch": launch})
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "train.parquet", [example], [1])
        return median(our_steps(policy, Path(folder), job, Path(folder) / "ours", "wall")[1:])


def machine_here(policy: Path, file: Path) -> Machine:
    """This machine's rates, measured unless the file has them."""
    if not file.is_file():
        machine = measure(shape_of(ModelSettings(name=str(policy))), file.parent)
        file.write_text(machine.model_dump_json(indent=1))
    return Machine.model_validate_json(file.read_text())


def compared(policy: Path, machine: Machine, shape: tuple[int, int, int, bool], real: float) -> dict[str, Any]:
    """A row of the table."""
    parts = planned(policy, machine, *shape)
    total = sum(parts.values())
    return (
        dict(zip(("P", "C", "G", "checkpointing"), shape, strict=True))
        | {f"{part} s": round(value, 2) for part, value in parts.items() if value}
        | {"planned s": round(total, 2), "measured s": round(real, 2), "planned / measured": round(total / real, 2)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", type=int, help="the first shapes alone")
    args = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ:  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | HEAP)
    args.output.mkdir(parents=True, exist_ok=True)
    set_up_process(LaunchSettings())
    machine = machine_here(args.model, args.output / "machine.json")
    print(machine.model_dump_json(indent=1), flush=True)
    file = args.output / "seconds.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for shape in SHAPES[: args.only]:
        if str(shape) not in found:
            found[str(shape)] = measured(args.model, *shape, args.steps)
            file.write_text(json.dumps(found))
        print(compared(args.model, machine, shape, found[str(shape)]), flush=True)
    print(markdown([compared(args.model, machine, shape, found[str(shape)]) for shape in SHAPES[: args.only]]))


if __name__ == "__main__":
    main()
