"""The uniform record: one question per record, usually a line of JSONL.

Required fields: ``domain``, ``context``, ``question``, ``answers``. Optional fields: ``id`` (if left out, a digest of
the row), ``source``, ``choices`` (then ``answers`` is one letter), ``answer_type``, ``answer_scale`` (``percent``,
``thousand``, ``million`` or ``billion``, if the gold is a bare number in that scale), ``solution``, ``document_id``.
All other fields are kept in the metadata, and so is the scale, which the reward's rule reads there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.files import parse_object, stem_of
from qwenlong_core.data.sources.validation import (
    BadRow,
    check_choice,
    check_text,
    domain_field,
    row_id,
    text_field,
    texts,
)
from qwenlong_core.records import AnswerType, Example, answer_types
from qwenlong_core.rewards.infer import infer_answer_type

_OTHERS_TYPES = ("arithmetic", "count", "multi-span")
"""What TAT-QA writes under ``answer_type`` beside ``span``: it stays in the metadata, and the type is inferred."""
_KNOWN = {
    "id",
    "source",
    "domain",
    "context",
    "question",
    "answers",
    "choices",
    "solution",
    "document_id",
    "num_tokens",
}


def parse(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """The example of one record.

    Raises:
        BadRow: with the reason.
    """
    yield from_record(row, default_source=stem_of(path))


def from_record(row: dict[str, Any], default_source: str) -> Example:
    """The example of a parsed record.

    Raises:
        BadRow: with the reason.
    """
    domain = domain_field(row)
    choices = texts(row["choices"], "choices") if row.get("choices") else ()
    if "answers" not in row:
        raise BadRow("no 'answers'")
    answers = texts(row["answers"], "answers")
    answer_type = infer_answer_type(domain, answers, choices)
    if (stated := _stated_type(row)) is not None:
        answer_type = stated
        row = {key: value for key, value in row.items() if key != "answer_type"}
    if answer_type == "choice" and choices:
        answers = check_choice(answers, choices)
    solution = row.get("solution")
    if solution is not None:
        solution = text_field(row, "solution")
    metadata = {key: value for key, value in row.items() if key not in _KNOWN}
    if isinstance(metadata.get("metadata"), str):  # preparation stores it as JSON text
        metadata["metadata"] = parse_object(metadata["metadata"].encode())
    if isinstance(metadata.get("metadata"), dict):
        metadata = {**metadata.pop("metadata"), **metadata}
    check_text(json.dumps(metadata, ensure_ascii=False), "metadata")
    return Example(
        id=row_id(row, "id"),
        source=default_source if row.get("source") is None else text_field(row, "source"),
        domain=domain,
        answer_type=answer_type,
        context=text_field(row, "context"),
        question=text_field(row, "question"),
        answers=answers,
        choices=choices if answer_type == "choice" else (),
        document_id=str(row.get("document_id") or ""),
        solution=solution,
        metadata=metadata,
    )


def _stated_type(row: dict[str, Any]) -> AnswerType | None:
    """The answer type that the record names, if it does.

    Raises:
        BadRow: there is no such type.
    """
    stated = row.get("answer_type")
    if stated is None or stated in _OTHERS_TYPES:
        return None
    if stated not in answer_types():
        known = ", ".join(answer_types())
        raise BadRow(f"'answer_type' is {stated!r}, not one of {known}: leave it out to have it inferred")
    return str(stated)
