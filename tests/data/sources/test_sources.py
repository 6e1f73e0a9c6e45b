import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.sources.read import local_files, read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.records import Example

GOOD: dict[str, Any] = {
    "id": "a",
    "source": "s",
    "domain": "math",
    "context": "Sales were 5.",
    "question": "How much?",
    "answers": ["5"],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[Example | Refused]:
    return list(read_source(str(path)))


def only(path: Path, **changes: Any) -> Example | Refused:
    row = {**GOOD, **changes}
    return read(write(path / "x.jsonl", {key: value for key, value in row.items() if value is not None}))[0]


@pytest.mark.parametrize(
    ("changes", "answer_type", "answers"),
    [
        ({"answers": ["-3.62"], "answer_scale": "percent", "answer_type": "arithmetic"}, "number", ("-3.62",)),
        ({"answers": ["5"], "answer_scale": "million"}, "number", ("5",)),
        ({"answers": [5.5]}, "number", ("5.5",)),
        ({"answers": ["$1,111,159"]}, "number", ("$1,111,159",)),
        ({"answers": ["five and a half"]}, "span", ("five and a half",)),
        ({"answers": ["Yes"]}, "yes_no", ("Yes",)),
        ({"domain": "multihop", "answers": ["5"]}, "span", ("5",)),
        (
            {"domain": "multihop", "answers": ["Insufficient information."]},
            "unanswerable",
            ("Insufficient information.",),
        ),
        ({"domain": "logical", "answers": ["B"], "choices": ["x", "y"]}, "choice", ("B",)),
        ({"domain": "multihop", "answers": ["Paris", "Lutetia"]}, "span", ("Paris", "Lutetia")),
        ({"answers": ["5"], "answer_type": "span"}, "span", ("5",)),
    ],
)
def test_answer_type_and_gold(
    tmp_path: Path, changes: dict[str, Any], answer_type: str, answers: tuple[str, ...]
) -> None:
    example = only(tmp_path, **changes)
    assert isinstance(example, Example), example
    assert (example.answer_type, example.answers) == (answer_type, answers)


def test_unknown_fields_are_kept_as_metadata(tmp_path: Path) -> None:
    example = only(tmp_path, answer_scale="percent", licence="CC", n_hops=3)
    assert isinstance(example, Example)
    assert example.metadata == {"answer_scale": "percent", "licence": "CC", "n_hops": 3}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ["a"]}, "'id' is list"),
        ({"context": " \n"}, "'context' is empty"),
        ({"context": 5}, "'context' is int"),
        ({"context": "a\x00b"}, "NUL byte"),
        ({"context": "a\ud800b"}, "not valid Unicode"),
        ({"domain": "poetry"}, "'poetry', not one of math"),
        ({"answers": []}, "not a non-empty list"),
        ({"answers": [""]}, "empty or NaN"),
        ({"answers": [float("nan")]}, "nan"),
        ({"answers": "NaN"}, "empty or NaN"),
        ({"answers": [["a"]]}, "holds list"),
        ({"domain": "logical", "answers": ["C"], "choices": ["x", "y"]}, r"not one letter of the 2 choices"),
        ({"domain": "logical", "answers": ["A"], "answer_type": "choice"}, "at least two"),
        ({"answers": ["yes", "no"]}, "both yes and no"),
        ({"answer_scale": "dozen"}, "'dozen' is unknown; use one of"),
        ({"answers": ["many"], "answer_type": "number"}, "'many' is not a number"),
        ({"answer_type": "nope"}, "'answer_type' is 'nope', not one of number"),
        ({"answer_type": "Number"}, "'answer_type' is 'Number', not one of"),
        ({"answer_type": ["span"]}, "'answer_type' is ['span'], not one of"),
        ({"answer_type": ""}, "'answer_type' is '', not one of"),
        ({"source": ""}, "'source' is empty"),
        ({"source": " \n"}, "'source' is empty"),
        ({"source": 7}, "'source' is int, not a string"),
    ],
)
def test_bad_rows_are_refused_with_their_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    refused = only(tmp_path, **changes)
    assert isinstance(refused, Refused), refused
    assert reason in refused.reason
    assert (refused.file, refused.line) == (str(tmp_path / "x.jsonl"), 1)


def test_a_bad_line_neither_stops_the_stream_nor_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [
        json.dumps(GOOD).encode(),
        b'{"id": "cut',
        b"",
        b"[1]",
        b'{"id": "\xff"}',
        b"[" * 100_000,
        json.dumps(GOOD).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    rows = read(path)
    assert [type(row).__name__ for row in rows] == ["Example", "Refused", "Refused", "Refused", "Refused", "Example"]
    assert [row.line for row in rows if isinstance(row, Refused)] == [2, 4, 5, 6]
    assert "not valid UTF-8" in str(rows[3])


def test_a_line_beyond_the_limit_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenlong_core.data.sources.streams.MAX_LINE_BYTES", 1_000)
    rows = read(write(tmp_path / "x.jsonl", GOOD, {**GOOD, "context": "x" * 5_000}, GOOD))
    assert [type(row).__name__ for row in rows] == ["Example", "Refused", "Example"]
    assert "longer than 1,000 bytes" in str(rows[1])


def test_gzip_is_read_and_a_cut_one_is_refused_from_the_cut(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": str(i), "context": os.urandom(300).hex()} for i in range(200)]
    whole = tmp_path / "x.jsonl.gz"
    whole.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert [row.id for row in read(whole) if isinstance(row, Example)] == [row["id"] for row in rows]
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = read(cut)
    assert isinstance(result[-1], Refused)
    assert "damaged" in result[-1].reason
    assert 50 < len(result) < 150


def test_local_files(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", GOOD)
    assert local_files("generated") == []
    assert local_files("docqa-rl:Tongyi-Zhiwen/DocQA-RL-1.6K") == []
    assert local_files(str(tmp_path / "*.jsonl")) == [a, b]
    assert local_files(f"docqa-rl:{a}") == [a]
    with pytest.raises(ValueError, match=r"no file matches.*none\*\.jsonl"):
        local_files(str(tmp_path / "none*.jsonl"))
    with pytest.raises(ValueError, match=r"no file matches 'data/train.parquet'"):
        local_files("docqa-rl:data/train.parquet")
    with pytest.raises(ValueError, match=r"nosuch:thing"):
        local_files("nosuch:thing")


def verl_row(index: int, data_source: str, user: str, gold: Any) -> dict[str, Any]:
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": user}],
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": index},
    }


def verl_prompt(document: str, question: str, form: str) -> str:
    return (
        "Please read the following text and answer the question"
        f" below.\n\n<text>\n{document}\n</text>\n\n{question}\n\n"
        f'Format your response as follows: "{form}".'
    )


def docqa_rows() -> list[dict[str, Any]]:
    number, choice = "Therefore, the answer is (insert answer here)", "The correct answer is (insert answer here)"
    options = "Which notice?\nA. ten days\nB. twenty days,\nin writing\nC. none\nD. one year"
    return [
        verl_row(
            1, "docmath_0_20000", verl_prompt("Sales 5 million.", "How much?", number), "Therefore, the answer is 5.5."
        ),
        verl_row(
            2, "long_toc_choices_20000_40000", verl_prompt("A contract.", options, choice), "The correct answer is (B)"
        ),
        verl_row(3, "musique_0_20000", verl_prompt("Paris is a city.", "Which city?", number), "the answer is Paris."),
        verl_row(4, "multihoprag_0_20000", verl_prompt("Text.", "Did it?", number), "The answer is Yes"),
    ]


def test_docqa_rl_recovers_document_question_options_and_gold(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(docqa_rows()), path)
    rows = [row for row in read_source(f"docqa-rl:{path}") if isinstance(row, Example)]
    assert [(r.id, r.domain, r.answer_type, r.answers) for r in rows] == [
        ("docqa-rl-1", "math", "number", ("5.5",)),
        ("docqa-rl-2", "logical", "choice", ("B",)),
        ("docqa-rl-3", "multihop", "span", ("Paris",)),
        ("docqa-rl-4", "multihop", "yes_no", ("Yes",)),
    ]
    assert [r.context for r in rows] == ["Sales 5 million.", "A contract.", "Paris is a city.", "Text."]
    assert (rows[0].question, rows[1].question) == ("How much?", "Which notice?")
    assert rows[1].choices == ("ten days", "twenty days,\nin writing", "none", "one year")


def test_docqa_rl_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    good = docqa_rows()[0]
    bad = [
        {**good, "data_source": "gsm8k"},
        {**good, "prompt": [{"role": "user", "content": "no document"}]},
        {**good, "reward_model": {"style": "rule", "ground_truth": ""}},
        {**docqa_rows()[1], "reward_model": {"style": "rule", "ground_truth": "The correct answer is (E)"}},
    ]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([good, *bad]), path)
    rows = list(read_source(f"docqa-rl:{path}"))
    assert [row.line for row in rows if isinstance(row, Refused)] == [2, 3, 4, 5]
    reasons = " ".join(str(row) for row in rows)
    assert all(part in reasons for part in ("'gsm8k'", "<text>", "empty", "not one letter of the 4 choices"))


def test_docqa_rl_refuses_a_file_that_is_no_such_parquet(tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.parquet", tmp_path / "other.parquet"
    broken.write_bytes(b"PAR1 cut")
    pq.write_table(pa.table({"text": ["a"]}), other)
    (first,) = read_source(f"docqa-rl:{broken}")
    (second,) = read_source(f"docqa-rl:{other}")
    assert isinstance(first, Refused)
    assert "not a readable parquet" in first.reason
    assert isinstance(second, Refused)
    assert "no column data_source, prompt, reward_model; found text" in second.reason


def test_a_hub_id_without_network_names_the_id_and_the_path_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"Tongyi-Zhiwen/DocQA-RL-1\.6K.*docqa-rl:/path/to/train\.parquet"):
        list(read_source("docqa-rl:Tongyi-Zhiwen/DocQA-RL-1.6K"))


@pytest.mark.skipif("QWENLONG_REAL_DATA" not in os.environ, reason="set QWENLONG_REAL_DATA to a folder of JSONL files")
def test_real_files_are_read_whole() -> None:
    files = local_files(os.environ["QWENLONG_REAL_DATA"] + "/*.jsonl")
    refused = [row for path in files for row in read_source(str(path)) if isinstance(row, Refused)]
    assert refused == []
