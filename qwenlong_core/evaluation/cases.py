"""The log of the case studies: ``cases.jsonl``, one line per case, with the scored answer or why it was not asked.

Each evaluated checkpoint answers them beside its items (:mod:`~qwenlong_core.evaluation.ask_cases`). They never enter a
score or the gate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from qwenlong_core.evaluation.samples import Sample

CASE_ANSWERS = "cases.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseAnswer:
    """What one checkpoint made of one case."""

    case: str
    question: str
    gold: str
    document: Literal["full", "short", ""]
    """Version of the report that the prompt held; empty where the case was not asked."""
    sample: Sample | None = None
    why_not: str = ""
    """Why the case was not asked."""


_ANSWER = TypeAdapter(CaseAnswer)


def read_case_answers(folder: Path) -> list[CaseAnswer]:
    """The answers in an evaluation's folder; none for an evaluation that did not ask the cases.

    Raises:
        ValueError: a line cannot be read.
    """
    path = folder / CASE_ANSWERS
    if not path.is_file():
        return []
    try:
        with path.open(newline="\n") as stream:
            return [_ANSWER.validate_json(line) for line in stream]
    except ValidationError as error:
        raise ValueError(f"{path} is damaged ({error.errors()[0]['msg']}): delete it and evaluate again") from error


def write_case_answers(answers: Iterable[CaseAnswer], folder: Path) -> None:
    """Write the whole log at once."""
    staging = folder / f"{CASE_ANSWERS}.tmp"
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    staging.write_text("".join(lines), newline="\n")
    staging.replace(folder / CASE_ANSWERS)


def case_samples(folder: Path) -> list[Sample]:
    """The samples of the cases that were asked."""
    return [answer.sample for answer in read_case_answers(folder) if answer.sample is not None]


def are_answered(folder: Path) -> bool:
    """Whether the cases were asked, and the engine failed on none of them."""
    asked = (folder / CASE_ANSWERS).is_file()
    return asked and all(sample.finish_reason != "error" for sample in case_samples(folder))
