"""Trace files: which record belongs to which row, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.trace_files import read_traces
from qwenlong_core.records import Example


def row(name: str, question: str) -> Example:
    return Example(
        id=name, source="t", domain="math", answer_type="number", context=name, question=question, answers=("1",)
    )


ROWS = [row("a", "How many wells?"), row("b", "What is the total?"), row("c", "What is the total?")]


def written(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_records_are_matched_by_id_or_by_a_question_of_one_row(tmp_path: Path) -> None:
    path = written(
        tmp_path / "traces.jsonl",
        {"id": "b", "trace": "one"},
        {"id": "b", "trace": ["two", "three"]},
        {"question": "How  many\nwells?", "trace": "four", "model": "R1"},
        {"id": "c", "question": "What is the total?", "trace": "five"},
    )
    found = read_traces([path], ROWS)
    assert found.traces == {"b": ["one", "two", "three"], "a": ["four"], "c": ["five"]}
    assert (found.records, found.refused) == (4, [])


def test_every_record_that_matches_no_row_is_named_with_its_place(tmp_path: Path) -> None:
    wrong = [
        ({"id": "z", "trace": "t"}, "id 'z' is that of no row in data.sft"),
        ({"question": "Who?", "trace": "t"}, "question 'Who?' is of no row in data.sft"),
        ({"question": "What is the total?", "trace": "t"}, "is asked of 2 documents of data.sft: give 'id' too"),
        ({"id": "a", "question": "What is the total?", "trace": "t"}, "row 'a' of data.sft asks another question"),
        ({"trace": "t"}, "no 'id' and no 'question'"),
        ({"id": "a"}, "no 'trace'"),
        ({"id": "a", "trace": []}, "'trace' is a list without texts"),
        ({"id": "a", "trace": ["t", 5]}, "or with an entry that is none"),
        ({"id": "a", "trace": " "}, "'trace' is empty"),
        ({"id": ["a"], "trace": "t"}, "'id' is list, not a string"),
        ([1], "a list, not an object"),
    ]
    path = written(tmp_path / "traces.jsonl", {"id": "a", "trace": "good"}, *(record for record, _ in wrong))
    found = read_traces([path], ROWS)
    assert found.traces == {"a": ["good"]} and found.records == 1 + len(wrong)
    assert [refused.line for refused in found.refused] == list(range(2, 2 + len(wrong)))
    for refused, (_, reason) in zip(found.refused, wrong, strict=True):
        assert reason in refused.reason and refused.file == path


def test_several_files_of_several_formats(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "trace": [["one", "two"]]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("id,trace\nb,three\n")
    found = read_traces([str(tmp_path / "t.parquet"), str(tmp_path / "t.csv")], ROWS)
    assert found.traces == {"a": ["one", "two"], "b": ["three"]}


def test_files_that_are_no_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.jsonl', which is no file: give a file of traces, or a teacher"):
        read_traces([str(tmp_path / "nowhere.jsonl")], ROWS)
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(ValueError, match=r"its format is none of \.json"):
        read_traces([str(tmp_path / "t.txt")], ROWS)
    with pytest.raises(ValueError, match=r"none of the 1 records .* can be used; the first: .*:1: id 'z' is that of"):
        read_traces([written(tmp_path / "t.jsonl", {"id": "z", "trace": "t"})], ROWS)
