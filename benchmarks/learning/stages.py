"""A pipeline stage run by itself, with its own command, in a folder of a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from qwenlong.tasks.process import stage_command
from qwenlong.tasks.specs import StageSpec, evaluate_stage
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.settings.tree import Settings

LAUNCH = ("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")


def run_stage(spec: StageSpec, work: Path, **inputs: Path) -> Path:
    """Run a stage's command unless it is already done; returns its output folder.

    Raises:
        SystemExit: the stage failed; the message names its log.
    """
    done, output = work / "done", work / "output"
    if done.exists():
        return output
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(json.dumps(spec.job))
    options = LAUNCH if spec.launcher == "accelerate" else None
    command = stage_command(spec.module, options, work / "job.json", inputs, work)
    with (work / "log.txt").open("a") as log:
        if subprocess.run(command, stdout=log, stderr=log).returncode:
            raise SystemExit(f"{spec.name} failed; see {work / 'log.txt'}")
    done.touch()
    print(f"{work}: {spec.name} done", file=sys.stderr, flush=True)
    return output


def accuracies(settings: Settings, work: Path, model: Path, data: Path) -> dict[str, float]:
    """Mean accuracy of the answers to each held-out question."""
    output = run_stage(evaluate_stage(settings, work.name), work, model=model, data=data)
    answers: dict[str, list[float]] = defaultdict(list)
    for sample in read_samples(output / "samples.jsonl"):
        answers[sample.example_id].append(sample.accuracy)
    return {question: fmean(values) for question, values in answers.items()}
