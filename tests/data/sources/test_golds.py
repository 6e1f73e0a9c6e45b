"""Golds as people write them: each becomes its type, or is refused with file, line and reason."""

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.sources.read import read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.records import Example

ROW: dict[str, Any] = {"id": "a", "domain": "multihop", "context": "c", "question": "q"}


def only(folder: Path, **changes: Any) -> Example | Refused:
    path = folder / "x.jsonl"
    path.write_text(json.dumps({**ROW, **changes}) + "\n")
    (row,) = read_source(str(path))
    return row


@pytest.mark.parametrize(
    ("written", "answers"),
    [
        ("['Paris', 'City of Paris']", ("Paris", "City of Paris")),
        ('["Paris", "Lutetia"]', ("Paris", "Lutetia")),
        (["['Paris']"], ("Paris",)),
        (["Paris", "['Lutetia', 'Parisii']"], ("Paris", "Lutetia", "Parisii")),
        ("('Paris', 'Lutetia')", ("Paris", "Lutetia")),
        ("('Paris',)", ("Paris",)),
        ("{'b', 'a'}", ("a", "b")),
        ("""["O'Neill", 'say "no"']""", ("O'Neill", 'say "no"')),
        ("[5]", ("5",)),
        # These are answers, not lists.
        ("[sic]", ("[sic]",)),
        ("(1,234)", ("(1,234)",)),
        ("(A)", ("(A)",)),
        ("Paris (the 'City of Light')", ("Paris (the 'City of Light')",)),
        ("a [1, 2] b", ("a [1, 2] b",)),
    ],
)
def test_a_list_in_text_is_its_entries(tmp_path: Path, written: Any, answers: tuple[str, ...]) -> None:
    row = only(tmp_path, answers=written)
    assert isinstance(row, Example), row
    assert row.answers == answers


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("['a' 'b']", "neither JSON nor Python"),
        ("['a'\n 'b']", "neither JSON nor Python"),
        ("['a', 'b'", None),
        ("[Paris, Lutetia]", "neither JSON nor Python"),
        ("['a', b]", "neither JSON nor Python"),
        ("array(['a', 'b'], dtype=object)", "neither JSON nor Python"),
        ("[1, 2]", "several numbers written as text"),
        ("[1, 'b']", "several numbers written as text"),
        ("[" * 5_000 + "1,2" + "]" * 5_000, "neither JSON nor Python"),
        ("[]", "not a non-empty list"),
        ("['']", "empty or NaN"),
        ("[['a'], ['b']]", "several numbers"),
        ({"a": 1}, "not a non-empty list"),
    ],
)
def test_a_list_that_cannot_be_told_is_refused(tmp_path: Path, written: Any, reason: str | None) -> None:
    row = only(tmp_path, answers=written)
    if reason is None:  # no list at all: an answer with a bracket
        assert isinstance(row, Example) and row.answers == (written,)
    else:
        assert isinstance(row, Refused) and reason in row.reason and row.line == 1, row


@pytest.mark.parametrize(
    ("written", "domain", "answers", "answer_type"),
    [
        ([1e16], "math", ("10000000000000000",), "number"),
        ([1e-7], "math", ("0.0000001",), "number"),
        ([5.0], "math", ("5.0",), "number"),
        (["1e-7"], "math", ("1e-7",), "number"),
        ("-2.5E+6", "math", ("-2.5E+6",), "number"),
        ([12345678901234567890123], "math", ("12345678901234567890123",), "number"),
        ([True], "multihop", ("Yes",), "yes_no"),
        (False, "math", ("No",), "yes_no"),
        (["1e5"], "multihop", ("1e5",), "span"),
    ],
)
def test_numbers_and_booleans_become_their_type(
    tmp_path: Path, written: Any, domain: str, answers: tuple[str, ...], answer_type: str
) -> None:
    row = only(tmp_path, answers=written, domain=domain)
    assert isinstance(row, Example), row
    assert (row.answers, row.answer_type) == (answers, answer_type)


def test_decimals_of_parquet_and_lists_of_csv_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**ROW, "domain": "math", "answers": Decimal("12.50")}])
    pq.write_table(table, tmp_path / "x.parquet")
    with (tmp_path / "y.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([[*ROW, "answers"], [*ROW.values(), str(["Paris", "Lutetia"])]])
    first, second = read_source(str(tmp_path))
    assert isinstance(first, Example) and (first.answers, first.answer_type) == (("12.50",), "number")
    assert isinstance(second, Example) and second.answers == ("Paris", "Lutetia")


def test_options_in_text_are_options(tmp_path: Path) -> None:
    row = only(tmp_path, domain="logical", answers="（Ｂ）", choices="['ten days', 'a month']")
    assert isinstance(row, Example), row
    assert (row.choices, row.answers) == (("ten days", "a month"), ("B",))


def test_a_row_without_an_id_has_one_of_its_content(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "id"} | {"answers": ["x"]}
    rows = [bare, {**bare, "question": "r"}, {**bare, "id": None}, {**bare, "id": ""}, {**bare, "id": 7}, bare]
    path = tmp_path / "x.jsonl"

    def ids_of(rows: list[dict[str, Any]]) -> list[str]:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [row.id for row in read_source(str(path)) if isinstance(row, Example)]

    first = ids_of(rows)
    assert len(first) == 6 and first[0] == first[5] and len(set(first)) == 5 and first[4] == "7"
    assert ids_of(list(reversed(rows))) == list(reversed(first)), "the place in the file does not matter"
    assert ids_of([dict(reversed(bare.items()))]) == first[:1], "nor does the order of the fields"


@pytest.mark.parametrize("source", ["hotpotqa", "2wikimultihopqa", "multihoprag", "docmath", "longbench"])
def test_upstream_rows_without_an_id_get_one_too(tmp_path: Path, source: str) -> None:
    row = {
        "context": "A story." if source == "longbench" else [["T", ["s."]]],
        "paragraphs": ["p"],
        **{"question": "Who?", "query": "Who?", "input": "Who?", "dataset": "hotpotqa"},
        **{"answer": "Ann", "answers": ["Ann"], "ground_truth": 5.5, "evidence_list": [{"title": "T", "fact": "f"}]},
    }
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "answer": "Bob", "answers": ["Bob"], "n": 1}) + "\n")
    found = list(read_source(f"{source}:{path}"))
    assert all(isinstance(row, Example) for row in found), found
    assert len({row.id for row in found if isinstance(row, Example)}) == 2


CHINESE = "请阅读文本并回答问题。\n\n<text>\n合同自2021年起生效。\n</text>\n\n"


@pytest.mark.parametrize(
    ("question", "gold", "answer"),
    [
        ("期限多长？\nＡ．十天\nＢ．二十天\nＣ．一年\nＤ．无", "因此，正确答案是（Ｂ）。", "B"),
        ("期限多长？\n选项：\n（Ａ）十天\n（Ｂ）二十天\n（Ｃ）一年\n（Ｄ）无", "答案：B", "B"),
        ("期限多长？\nA、十天\nB、二十天\nC、一年\nD、无", "正确答案为B", "B"),
        ("期限多长？ A．十天　B．二十天　C．一年　D．无", "The correct answer is (B)", "B"),
        ("期限多长？\nA：十天\nB：二十天\nC：一年\nD：无\n\n请按照以下格式回答：“答案是（）”", "答案应该是 Ｂ", "B"),
    ],
)
def test_docqa_rl_reads_full_width_options_and_chinese_golds(
    tmp_path: Path, question: str, gold: str, answer: str
) -> None:
    row = {
        "data_source": "long_toc_choices_0_20000",
        "prompt": [{"role": "user", "content": CHINESE + question}],
        "reward_model": {"ground_truth": gold},
    }
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    (read,) = read_source(f"docqa-rl:{path}")
    assert isinstance(read, Example), read
    assert (read.question, read.answers) == ("期限多长？", (answer,))
    assert read.choices == ("十天", "二十天", "一年", "无")


@pytest.mark.parametrize(
    ("gold", "answers"),
    [("因此，答案是张三。", ("张三",)), ("答案为：1,200元", ("1,200元",)), ("张三", ("张三",))],
)
def test_docqa_rl_takes_the_answer_out_of_a_chinese_phrase(tmp_path: Path, gold: str, answers: tuple[str, ...]) -> None:
    row = {
        "data_source": "musique_0_20000",
        "prompt": [{"role": "user", "content": CHINESE + "谁签了合同？"}],
        "reward_model": {"ground_truth": gold},
    }
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    (read,) = read_source(f"docqa-rl:{path}")
    assert isinstance(read, Example) and read.answers == answers, read
