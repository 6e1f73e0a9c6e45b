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
from typing import Any, cast, get_args

from qwenlong_core.data.sources.files import parse_object, stem_of
from qwenlong_core.data.sources.validation import (
    BadRow,
    check_choice,
    check_text,
    domain_field,
    infer_answer_type,
    row_id,
    text_field,
    texts,
)
from qwenlong_core.records import AnswerType, Example

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
    stated = row.get("answer_type")
    # Other data sets use this field with other values (TAT-QA does): these stay in the metadata.
    if isinstance(stated, str) and stated in get_args(AnswerType):
        answer_type = cast(AnswerType, stated)
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
        source=str(row.get("source") or default_source),
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
