"""The case studies by checkpoint: rows for JSON, and what the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.evaluation.cases import CaseAnswer, read_case_answers


def case_rows(evaluations: Mapping[str, Path]) -> list[dict[str, Any]]:
    """One row per case and checkpoint: question, gold, the answer that was scored, and whether it is right.

    Args:
        evaluations: Folder of the evaluation by name of the checkpoint.
    """
    return [
        {"case": answer.case, "question": answer.question, "gold": answer.gold, **_result(stage, answer)}
        for stage, folder in evaluations.items()
        for answer in read_case_answers(folder)
    ]


def case_sections(evaluations: Mapping[str, Path], max_completion: int) -> list[dict[str, Any]]:
    """One section per case with the answers of all checkpoints.

    Args:
        evaluations: As in :func:`case_rows`.
        max_completion: Characters of a completion to show, from its end.
    """
    sections: dict[str, dict[str, Any]] = {}
    for stage, folder in evaluations.items():
        for answer in read_case_answers(folder):
            case = {"name": answer.case, "question": answer.question, "gold": answer.gold, "answers": []}
            completion = answer.sample.completion[-max_completion:] if answer.sample else ""
            row = {**_result(stage, answer), "completion": completion}
            sections.setdefault(answer.case, case)["answers"].append(row)
    return list(sections.values())


def _result(stage: str, answer: CaseAnswer) -> dict[str, Any]:
    sample = answer.sample
    if sample is None:
        return {"stage": stage, "outcome": "not asked", "answer": None, "reason": answer.why_not, "report": ""}
    return {
        "stage": stage,
        "outcome": sample.outcome,
        "answer": sample.score.extracted,
        "reason": sample.score.reason,
        "report": f"{answer.document}, {sample.prompt_tokens:,} prompt tokens",
    }
