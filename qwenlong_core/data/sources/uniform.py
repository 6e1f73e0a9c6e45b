"""JSONL (also gzipped) in the uniform record: one question a line.

Required: ``id``, ``domain``, ``context``, ``question``, ``answers``. Optional: ``source``,
``choices`` (then ``answers`` is one letter), ``answer_type``, ``answer_scale`` (``percent``,
``thousand``, ``million``, ``billion``: the gold is a bare number in that scale), ``solution``,
``document_id``. Every other field is kept in the metadata, where the reward's rule finds the scale.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast, get_args

from qwenlong_core.data.sources.validation import (
    BadRow,
    Refused,
    check_choice,
    check_text,
    checked,
    domain_field,
    infer_answer_type,
    text_field,
    texts,
)
from qwenlong_core.records import AnswerType, Example

_KNOWN = {"id", "source", "domain", "context", "question", "answers", "choices", "solution", "document_id", "num_tokens"}
_MAX_LINE_BYTES = 64 * 2**20
"""Longest line read; a longer one is skipped without holding it in memory."""


def read_uniform(path: Path, name: str) -> Iterator[Example | Refused]:
    """The rows of one file, in order; blank lines are skipped."""
    for number, line in lines(path):
        if isinstance(line, str):
            yield Refused(name, number, line)
            continue
        if not line.strip():
            continue
        try:
            yield parse(line, default_source=path.name.removesuffix(".gz").removesuffix(".jsonl"))
        except BadRow as error:
            yield Refused(name, number, str(error))


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """Numbered lines of a plain or gzipped file; a string in a line's place is why it is unreadable."""
    number = 0
    with _open(path) as stream:
        while True:
            number += 1
            try:
                line = stream.readline(_MAX_LINE_BYTES + 1)
                too_long = len(line) > _MAX_LINE_BYTES
                while too_long and line and not line.endswith(b"\n"):
                    line = stream.readline(_MAX_LINE_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield number, f"the compressed file is damaged from here on: {error}"
                return
            if too_long:
                yield number, f"the line is longer than {_MAX_LINE_BYTES:,} bytes"
            elif line:
                yield number, line
            else:
                return


def parse(line: bytes, default_source: str) -> Example:
    """One line as an example.

    Raises:
        BadRow: with the reason.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"not valid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow("not valid JSON: nested too deeply") from error
    if not isinstance(row, dict):
        raise BadRow(f"a {type(row).__name__}, not an object")
    return from_record(row, default_source)


def from_record(row: dict[str, Any], default_source: str) -> Example:
    """A parsed record as an example.

    Raises:
        BadRow: with the reason.
    """
    row_id, domain = text_field(row, "id"), domain_field(row)
    choices = texts(row["choices"], "choices") if row.get("choices") else ()
    if "answers" not in row:
        raise BadRow("no 'answers'")
    answers = texts(row["answers"], "answers")
    answer_type = infer_answer_type(domain, answers, choices)
    stated = row.get("answer_type")
    # Other vocabularies of this field, such as TAT-QA's, are kept in the metadata.
    if isinstance(stated, str) and stated in get_args(AnswerType):
        answer_type = cast(AnswerType, stated)
        row = {key: value for key, value in row.items() if key != "answer_type"}
    if answer_type == "choice" and choices:
        answers = check_choice(answers, choices)
    solution = row.get("solution")
    if solution is not None:
        solution = text_field(row, "solution")
    metadata = {key: value for key, value in row.items() if key not in _KNOWN}
    if isinstance(metadata.get("metadata"), dict):
        metadata = {**metadata.pop("metadata"), **metadata}
    check_text(json.dumps(metadata, ensure_ascii=False), "metadata")
    return checked(
        Example(
            id=row_id, source=str(row.get("source") or default_source), domain=domain, answer_type=answer_type,
            context=text_field(row, "context"), question=text_field(row, "question"), answers=answers,
            choices=choices if answer_type == "choice" else (), document_id=str(row.get("document_id") or ""),
            solution=solution, metadata=metadata,
        )
    )  # fmt: skip
