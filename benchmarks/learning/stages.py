"""A pipeline stage run by itself, with its own command line, in a folder of a benchmark."""

from __future__ import annotations

import gc
import json
import logging
import runpy
import signal
import sys
import traceback
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import fmean

from qwenlong.tasks.specs import StageSpec, evaluate_stage
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.settings.tree import Settings


def run_stage(spec: StageSpec, work: Path, **inputs: Path) -> Path:
    """Run a stage's module unless it is already done; returns its output folder.

    In this process: a benchmark runs hundreds of stages, and each process would import torch and TRL for ten seconds.

    Raises:
        SystemExit: the stage failed; the message names its log.
    """
    done, output = work / "done", work / "output"
    if done.exists():
        return output
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(json.dumps(spec.job))
    given = [f"--input={name}={folder}" for name, folder in inputs.items()]
    with (work / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        failed = _run_module(spec.module, ["--job", str(work / "job.json"), *given, "--work", str(work)])
    if failed:
        raise SystemExit(f"{spec.name} failed; see {work / 'log.txt'}")
    done.touch()
    print(f"{work}: {spec.name} done", file=sys.stderr, flush=True)
    return output


def _run_module(module: str, arguments: list[str]) -> bool:
    """``python -m MODULE ARGUMENTS`` in this process; whether it failed."""
    before, sys.argv = sys.argv, [module, *arguments]
    handlers, logging.root.handlers = logging.root.handlers, []  # the stage logs to the stderr that it finds
    ended_by = signal.getsignal(signal.SIGTERM)  # a training sets a handler of its own, and leaves it
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return bool(ended.code)
    except Exception:
        traceback.print_exc()
        return True
    finally:
        sys.argv, logging.root.handlers = before, handlers
        signal.signal(signal.SIGTERM, ended_by)
        gc.collect()  # a trainer and its model hold each other
    return False


def accuracies(settings: Settings, work: Path, model: Path, data: Path) -> dict[str, float]:
    """Mean accuracy of the answers to each held-out question."""
    output = run_stage(evaluate_stage(settings, work.name), work, model=model, data=data)
    answers: dict[str, list[float]] = defaultdict(list)
    for sample in read_samples(output / "samples.jsonl"):
        answers[sample.example_id].append(sample.accuracy)
    return {question: fmean(values) for question, values in answers.items()}
