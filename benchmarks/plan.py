"""Seconds of a GRPO step: planned from this machine's measured rates, beside a real step of the trainer.

    python benchmarks/plan.py MODEL_DIR                       three shapes, median of five steps each

The rates are measured first (what `qwenlong plan --measure` does). Each shape then runs in the trainer as in
``benchmarks/step.py``: G completions of exactly C tokens on one prompt, one update with checkpointing. The first
step, which compares shared prompts with separate rows once a run, does not count. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from compare import markdown
from step import job_of, our_steps

from qwenlong_core.data.rows import write_examples
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.models import load_tokenizer
from qwenlong_core.plan.assumptions import Rows
from qwenlong_core.plan.measure import measure
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.steps import grpo_step
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.runtime import set_up_process

SHAPES = ((512, 64, 8), (1024, 32, 4), (2048, 128, 8))
"""P, C, G."""


def planned(policy: Path, machine: Any, prompt: int, completion: int, group: int) -> dict[str, float]:
    """Seconds by part, without saving, which the clock of a step does not see."""
    settings = load_settings(
        "local",
        [
            f"grpo.group_size={group}",
            "grpo.batch_size=1",
            "grpo.mini_batch_size=1",
            "launch.gradient_checkpointing=true",
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


def measured(policy: Path, prompt: int, completion: int, group: int, steps: int) -> float:
    """Median seconds of a real step after the first."""
    example = generate(load_tokenizer(policy), domain="math", tokens=prompt, seed=0).example
    job = job_of(prompt, completion, group, seed=0)
    job = job.model_copy(update={"phase": job.phase.model_copy(update={"steps": steps + 1})})
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "train.parquet", [example], [1])
        return median(our_steps(policy, Path(folder), job, Path(folder) / "ours", "wall")[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    set_up_process(LaunchSettings())
    machine = measure(shape_of(ModelSettings(name=str(args.model))), Path(tempfile.gettempdir()))
    print(machine.model_dump_json(indent=1))
    rows = []
    for prompt, completion, group in SHAPES:
        parts = planned(args.model, machine, prompt, completion, group)
        real = measured(args.model, prompt, completion, group, args.steps)
        seconds = {f"{part} s": round(value, 2) for part, value in parts.items() if value}
        total = sum(parts.values())
        rows.append(
            {"P": prompt, "C": completion, "G": group}
            | seconds
            | {"planned s": round(total, 2), "measured s": round(real, 2), "planned / measured": round(total / real, 2)}
        )
        print(rows[-1], flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main()
