"""Rows and predictions in LongBench's files, which its own ``eval.py`` and other tools read.

    OUT/data/TASK.jsonl   input, context, answers, length, dataset, language, all_classes, _id
    OUT/pred/TASK.jsonl   pred, answers, all_classes, length

``TASK`` is the benchmark's name: LongBench's own for its tasks, such as ``2wikimqa``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.benchmarks import LONGBENCH_NAMES
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.records import Example
from qwenlong_core.report.reader import split_thinking

_TASKS = {ours: theirs for theirs, ours in LONGBENCH_NAMES.items()}
_PREFIX = "longbench-"


def write_longbench(evaluation: Evaluation, rows: Mapping[str, Example], out: Path) -> None:
    """Write the evaluated rows, and the first answer to each: LongBench scores one.

    The prediction is the text after the thinking. An answer that the engine never gave is an empty prediction, which
    scores 0 there as it does here.
    """
    firsts = {sample.example_id: sample for sample in evaluation.samples if sample.sample == 0}
    for folder in ("data", "pred"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {}
    for item in evaluation.plan.items:
        files.setdefault(task_of(rows[item]), []).append(item)
    for task, items in files.items():
        _write(out / "data" / f"{task}.jsonl", [longbench_row(rows[item]) for item in items])
        _write(out / "pred" / f"{task}.jsonl", [prediction(firsts[item], rows[item]) for item in items])


def task_of(example: Example) -> str:
    """LongBench's name of a row's benchmark, or ours where LongBench has no such task."""
    return _TASKS.get(example.source, example.source)


def longbench_row(example: Example) -> dict[str, Any]:
    """A row as LongBench has it. Options of a choice stand below the question."""
    return {
        "input": _question(example),
        "context": example.context,
        "answers": list(example.answers),
        "length": len(example.context.split()),
        "dataset": task_of(example),
        "language": example.metadata.get("language") or "en",
        "all_classes": None,
        "_id": example.id.removeprefix(f"{_PREFIX}{task_of(example)}-"),
    }


def prediction(sample: Sample, example: Example) -> dict[str, Any]:
    """An answer as LongBench's ``pred.py`` writes it."""
    row = longbench_row(example)
    text = split_thinking(sample.completion)[1]
    return {"pred": text, **{name: row[name] for name in ("answers", "all_classes", "length")}}


def _question(example: Example) -> str:
    options = [f"({letter}) {text}" for letter, text in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", example.choices)]
    return "\n".join([example.question, *options])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
