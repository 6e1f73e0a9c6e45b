import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.data.prepare import FILES
from qwenlong_core.data.rows import read_examples, read_phase
from qwenlong_core.data.sources.read import read_source
from qwenlong_core.data.splits import document_key
from qwenlong_core.store.artifacts import Manifest, verify
from qwenlong_core.store.files import MANIFEST


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def rows_of(count: int, words: int = 60, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{i}",
            "domain": "math",
            "context": " ".join(f"{i}w{j}" for j in range(words)),
            "question": f"How many in {i}?",
            "answers": ["5"],
            "answer_scale": "million",
        }
        for i in range(first, first + count)
    ]


def save(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_training_rows_by_phase_without_the_evaluation_set(tmp_path: Path) -> None:
    train, held_out = (
        save(tmp_path / "t.jsonl", rows_of(6) + rows_of(4, 300, 6)),
        save(tmp_path / "e.jsonl", rows_of(2)),
    )
    arguments = [
        "--source",
        f"jsonl={train}",
        "--against",
        f"jsonl={held_out}",
        "--phase",
        500,
        "--phase",
        4_000,
        "--phase",
        8_000,
    ]
    result = call(*arguments, "--out", tmp_path / "a", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["splits"]["train"]["read"], said["splits"]["train"]["rows"]) == (10, 8)
    assert said["splits"]["train"]["dropped"] == {"document_in_evaluation": 2}
    assert [phase["rows"] for phase in said["phases"].values()] == [4, 4, 0]
    assert len(read_phase(tmp_path / "a" / "train.parquet", 1)) == 4
    assert {path.name for path in (tmp_path / "a").iterdir()} == {MANIFEST, *FILES} - {"sft.parquet", "eval.parquet"}
    verify(tmp_path / "a", Manifest.model_validate_json((tmp_path / "a" / MANIFEST).read_text()))
    again = json.loads(call(*arguments, "--out", tmp_path / "b", "--json").stdout)
    assert again["digest"] == said["digest"]
    assert "phase 3, up to 8,000 tokens: 0 rows" in call(*arguments, "--out", tmp_path / "b").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e.jsonl", "t.jsonl"]


def test_evaluation_rows_are_shortened(tmp_path: Path) -> None:
    path = save(tmp_path / "e.jsonl", rows_of(3, 400))
    result = call(
        "--source", f"jsonl={path}", "--role", "eval", "--max-tokens", 300, "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["splits"]["eval"]["truncated"] == 3
    rows = read_examples(tmp_path / "out" / "eval.parquet")
    assert all((row.num_tokens or 0) <= 300 for row in rows)


def test_a_file_on_both_sides_is_split_by_document(tmp_path: Path) -> None:
    path = save(tmp_path / "both.jsonl", rows_of(40))
    sides = {}
    for role in ("train", "eval"):
        out = tmp_path / role
        result = call("--source", f"jsonl={path}", "--against", f"jsonl={path}", "--role", role, "--out", out)
        assert result.exit_code == 0, result.output
        sides[role] = {document_key(row) for row in read_examples(out / f"{role}.parquet")}
    assert sides["train"].isdisjoint(sides["eval"])
    assert len(sides["train"] | sides["eval"]) == 40


def test_prepared_rows_are_a_source_again(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", rows_of(3))
    assert call("--source", f"jsonl={path}", "--out", tmp_path / "out").exit_code == 0
    rows: list[Any] = list(read_source(str(tmp_path / "out" / "train.parquet")))
    assert [(row.id, row.answers, row.metadata["answer_scale"]) for row in rows] == [
        (f"r{i}", ("5",), "million") for i in range(3)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "rows.jsonl"], "is not NAME=PATH_OR_ID with NAME one of jsonl, docqa-rl"),
        (["--source", "2wikimultihopqa="], "names no path"),
        (["--source", "jsonl=/nowhere/x.jsonl"], "no file matches '/nowhere/x.jsonl'"),
        (["--source", "jsonl=GOOD", "--role", "test"], "--role 'test' is neither train nor eval"),
        (["--source", "jsonl=GOOD", "--max-tokens", "400"], "--max-tokens goes with --role eval"),
        (["--source", "jsonl=GOOD", "--role", "eval", "--phase", "400"], "--phase goes with --role train"),
        (["--source", "jsonl=GOOD", "--role", "eval", "--against", "jsonl=BAD"], "--against does nothing here"),
        (["--source", "jsonl=GOOD", "--phase", "4000", "--phase", "400"], "give the limits in ascending order"),
        (["--source", "jsonl=GOOD", "--phase", "128"], "a GRPO phase has no training row"),
        (["--source", "jsonl=BAD"], "1 of 3 rows are unreadable"),
        (["--source", "jsonl=GOOD", "--against", "jsonl=BAD"], "data.max_refused_share="),
        (["--source", "musique=GOOD"], "good.jsonl reads as musique, but its first one does as jsonl: give jsonl"),
        (["--source", "jsonl=GOOD", "--source", "jsonl=ODD"], "odd.jsonl reads as jsonl, nor as any other format"),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    files = {
        "GOOD": save(tmp_path / "good.jsonl", rows_of(3)),
        "BAD": save(tmp_path / "bad.jsonl", rows_of(2), '{"id": "cut'),
        "ODD": save(tmp_path / "odd.jsonl", [{"foo": 1}]),
    }
    for name, path in files.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert not (tmp_path / "out" / "train.parquet").exists()
    assert not list(tmp_path.glob(".prepare-*"))


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.md").write_text("mine")
    result = call("--source", f"jsonl={save(tmp_path / 't.jsonl', rows_of(3))}", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds other files (thesis.md)" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.md"]


def test_a_refused_share_is_tolerated_where_it_is_allowed(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.jsonl", rows_of(3), '{"id": "cut')
    result = call(
        "--source",
        f"jsonl={path}",
        "--max-refused-share",
        0.25,
        "--near-duplicates",
        0,
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["splits"]["train"]["refused_by_reason"] == {"not valid JSON": 1}
    assert pq.read_metadata(tmp_path / "out" / "train.parquet").num_rows == 3
