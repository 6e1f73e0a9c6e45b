"""Traces that somebody sampled before, matched with the rows that they answer; what matches no row is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.files import SUFFIXES, kind_of, records
from qwenlong_core.data.sources.validation import BadRow, Refused, check_text, row_id, text_field
from qwenlong_core.records import Example


@dataclass
class TraceFiles:
    """The traces of each row, by its id, and the records that could not be used."""

    traces: dict[str, list[str]] = field(default_factory=dict)
    records: int = 0
    refused: list[Refused] = field(default_factory=list)
    """Records that cannot be read, or that match no row."""


class _Rows:
    """Finds the row that a record means."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._questions: dict[str, str] = {}
        self._ids: dict[str, list[str]] = {}
        for example in examples:
            question = _plain(example.question)
            self._questions[example.id] = question
            self._ids.setdefault(question, []).append(example.id)

    def find(self, record: dict[str, Any]) -> str:
        """The id of the row.

        Raises:
            BadRow: the record matches none, or its question is asked of several documents.
        """
        question = _plain(text_field(record, "question")) if record.get("question") is not None else None
        if record.get("id") is not None:
            name = row_id(record, "id")
            if name not in self._questions:
                raise BadRow(f"id {name!r} is that of no row in data.sft")
            if question is not None and question != self._questions[name]:
                raise BadRow(f"row {name!r} of data.sft asks another question")
            return name
        if question is None:
            raise BadRow("no 'id' and no 'question': one of them says which row of data.sft is answered")
        names = self._ids.get(question, [])
        if len(names) != 1:
            where = f"asked of {len(names)} documents of data.sft: give 'id' too" if names else "of no row in data.sft"
            raise BadRow(f"question {question[:60]!r} is {where}")
        return names[0]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _texts(record: dict[str, Any]) -> Sequence[str]:
    """The traces in a record.

    Raises:
        BadRow: ``trace`` is no text and no list of texts.
    """
    value = record.get("trace")
    if not isinstance(value, list):
        return (text_field(record, "trace"),)
    if not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise BadRow("'trace' is a list without texts, or with an entry that is none")
    for text in value:
        check_text(text, "trace")
    return value


def check_trace_files(paths: Iterable[str]) -> None:
    """Find the files before anything is paid for.

    Raises:
        ValueError: one is not there, or is of no known format.
    """
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"distill.traces names {path!r}, which is no file: give a file of traces, or a teacher")
        if kind_of(Path(path)) is None:
            raise ValueError(f"distill.traces names {path!r}: its format is none of {', '.join(SUFFIXES)}")


def read_traces(paths: Iterable[str], examples: Iterable[Example]) -> TraceFiles:
    """Read the files and match their records with the rows, by id, or by a question that only one row asks.

    Raises:
        ValueError: a file is not there, or no record of all files matches a row.
    """
    paths = list(paths)
    check_trace_files(paths)
    rows, found = _Rows(examples), TraceFiles()
    for path, number, record in _records(paths):
        found.records += 1
        try:
            if isinstance(record, str):
                raise BadRow(record)
            name, texts = rows.find(record), _texts(record)
        except BadRow as error:
            found.refused.append(Refused(path, number, str(error)))
        else:
            found.traces.setdefault(name, []).extend(texts)
    if not found.traces:
        first = f"; the first: {found.refused[0]}" if found.refused else ""
        raise ValueError(
            f"distill.traces: none of the {found.records} records in {', '.join(paths)} can be used{first}. Each needs "
            "'trace', and the 'id' or the 'question' of a row of data.sft"
        )
    return found


def _records(paths: Iterable[str]) -> Iterator[tuple[str, int, dict[str, Any] | str]]:
    for path in paths:
        for number, record in records(Path(path)):
            yield path, number, record
