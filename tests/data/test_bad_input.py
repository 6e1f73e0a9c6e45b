"""Every kind of bad input through the whole preparation: counted, named, and nothing else lost."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong_core.data.prepare import prepare
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings


def record(index: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"r{index}",
        "domain": "multihop",
        "context": " ".join(f"{index}w{i}" for i in range(40)),
        "question": f"Who is {index}?",
        "answers": [f"person {index}"],
        **changes,
    }
    return {key: value for key, value in row.items() if value is not ...}


def line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode()


def prepared(path: Path, tokenizer: Any, spec: str = "") -> tuple[Any, list[dict[str, Any]]]:
    """Counts of the training split and the refused rows."""
    data = DataSettings(sft=(), train=(spec or str(path),), eval=(), max_refused_share=1.0)
    job = PrepareJob(data=data, sft_max_tokens=400, phase_limits=(300, 700), eval_max_tokens=400, seed=1)
    summary = prepare(job, tokenizer, path.parent / "out", ("train",), every_phase=False)
    lines = (path.parent / "out" / "refused.jsonl").read_text().splitlines()
    return summary["splits"]["train"], [json.loads(text) for text in lines]


GOOD = [line(record(i)) for i in range(3)]
BAD_LINES: dict[str, tuple[bytes, str, str]] = {
    "truncated JSON": (b'{"id": "cut', "not valid JSON", "column"),
    "wrong type": (line(record(9, context=["a", "b"])), "'context' is list, not a string", ""),
    "missing key": (line(record(9, question=...)), "no 'question'", ""),
    "missing gold": (line(record(9, answers=...)), "no 'answers'", ""),
    "empty document": (line(record(9, context=" \n ")), "'context' is empty", ""),
    "empty gold": (line(record(9, answers=[""])), "'answers' holds an empty or NaN answer", ""),
    "no gold": (line(record(9, answers=[])), "'answers' is not a non-empty list of texts", ""),
    "NaN gold": (line(record(9, domain="math", answers=[float("nan")])), "'answers' holds nan", ""),
    "gold not among the choices": (
        line(record(9, domain="logical", choices=["x", "y"], answers=["C"])),
        "gold ... is not one letter of the ... choices (A, B)",
        "['C']",
    ),
    "invalid UTF-8": (line(record(9)).replace(b"person", b"pers\xff"), "not valid UTF-... at byte ...", "byte"),
    "NUL byte": (line(record(9, context="a\x00b")), "'context' holds a NUL byte", ""),
    "a line of 50 MB": (
        line(record(9, context="x" * 50_000_000)),
        "'context' has ... characters, more than ...",
        "50,000,000",
    ),
    "not an object": (b"[1, 2]", "a list, not an object", ""),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_counted_and_named(tmp_path: Path, tokenizer: Any, name: str) -> None:
    bad, reason, detail = BAD_LINES[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD[0], bad, *GOOD[1:]]) + b"\n")
    counts, refused = prepared(path, tokenizer)
    assert (counts["read"], counts["rows"], counts["refused"]) == (4, 3, 1)
    assert counts["refused_by_reason"] == {reason: 1}
    assert [(row["file"], row["line"]) for row in refused] == [(str(path), 2)]
    assert detail in refused[0]["reason"]


def test_repeated_ids_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line(record(i, id="same")) for i in range(3)))
    counts, _ = prepared(path, tokenizer)
    assert (counts["rows"], counts["renamed"]) == (3, 2)


def test_a_document_beyond_the_largest_phase_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*GOOD, line(record(9, context="A long tale. " * 2_000))]))
    counts, _ = prepared(path, tokenizer)
    assert (counts["rows"], counts["dropped"]) == (3, {"over_length (more than 700 tokens)": 1})


def test_a_gzip_cut_in_the_middle_is_counted_once(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b"\n".join(line(record(i, context=os.urandom(300).hex())) for i in range(40)))
    path.write_bytes(whole[: len(whole) // 2])
    counts, refused = prepared(path, tokenizer)
    assert counts["refused_by_reason"] == {"the compressed file is damaged from here on": 1}
    assert 5 < counts["rows"] < 30
    assert counts["rows"] == refused[0]["line"] - 1


def test_a_parquet_with_wrong_columns_is_counted_row_by_row(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "b"]}), folder / "a.parquet")
    pq.write_table(pa.Table.from_pylist([record(i) for i in range(2)]), folder / "b.parquet")
    counts, refused = prepared(folder, tokenizer)
    assert (counts["rows"], counts["refused_by_reason"]) == (2, {"no 'domain'": 2})
    assert [(Path(row["file"]).name, row["line"]) for row in refused] == [("a.parquet", 1), ("a.parquet", 2)]


def verl_row(index: int, data_source: str, document: str, question: str, gold: str) -> dict[str, Any]:
    user = f"Please read the following text and answer the question below.\n\n<text>\n{document}\n</text>\n\n{question}"
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": user}],
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": index},
    }


def test_a_built_docqa_rl_gives_its_split_and_the_right_phases(tmp_path: Path, tokenizer: Any) -> None:
    kinds = [("docmath", "How much?", "Therefore, the answer is {n}.5.", 600)]
    kinds += [("long_toc_choices", "Which?\nA. x\nB. y\nC. z\nD. w", "The correct answer is (B)", 600)]
    kinds += [
        ("musique", "Who?", "Therefore, the answer is person {n}.", 200),
        ("multihoprag", "Who?", "Therefore, the answer is body {n}.", 200),
    ]
    rows = []
    for source, question, gold, count in kinds:
        for i in range(count):
            n = len(rows)
            document = " ".join(f"{n}w{j}" for j in range(10 if i % 2 else 60))
            bucket = "0_300" if i % 2 else "300_700"
            rows.append(verl_row(n, f"{source}_{bucket}", document, question, gold.format(n=n)))
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    counts, _ = prepared(path, tokenizer, f"docqa-rl:{path}")
    assert (counts["domains"], counts["dropped"], counts["refused"]) == (
        {"logical": 600, "math": 600, "multihop": 400},
        {},
        0,
    )
    table = pq.read_table(tmp_path / "out" / "train.parquet", columns=["phase", "num_tokens", "metadata"]).to_pylist()
    assert len(table) == 1_600
    for row in table:
        named = json.loads(row["metadata"])["data_source"].rsplit("_", 2)[1:]
        assert (row["phase"], named) in ((1, ["0", "300"]), (2, ["300", "700"]))
        assert (row["num_tokens"] <= 300) == (row["phase"] == 1)


def test_two_lists_a_notebook_copy_and_a_row_given_twice_are_all_counted(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    bare = record(5, id=...)
    (folder / "a.json").write_text(json.dumps([record(0), record(1)]) + json.dumps([record(2)]) + json.dumps(bare))
    (folder / "b.JSONL").write_bytes(line(bare) + b"\n" + line(record(3, answers="['Ann', 'Anna']")) + b"\n")
    (folder / ".ipynb_checkpoints" / "a-checkpoint.json").write_text("[]")
    (folder / "notes.txt").write_text("mine")
    counts, refused = prepared(folder, tokenizer)
    assert (counts["read"], counts["rows"], counts["dropped"], refused) == (6, 5, {"duplicate": 1}, [])
    assert counts["files_left_out"] == [
        {"file": str(folder / ".ipynb_checkpoints"), "reason": "hidden"},
        {"file": str(folder / "notes.txt"), "reason": "with the ending '.txt'"},
    ]
    card = (tmp_path / "out" / "card.md").read_text()
    assert "## Files not read" in card and str(folder / "notes.txt") in card
