"""``qwenlong samples``: an evaluation's folder in, the formats of other tools out."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from report_pages import example
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong_core.data.rows import write_examples


@pytest.fixture
def folder(tmp_path, monkeypatch, make_evaluation, write_evaluation):
    monkeypatch.chdir(tmp_path)
    found = write_evaluation(make_evaluation([1, 0]), tmp_path / "done")
    write_examples(found / "eval.parquet", [example(f"q{i:04d}", domain="math") for i in range(2)])
    return found


def call(*words):
    return CliRunner().invoke(app, ["samples", *map(str, words)])


def test_each_format_is_written(folder, tmp_path):
    for to, out in (("inspect", "log.json"), ("parquet", "rows.parquet"), ("longbench", "bench")):
        done = call(folder, tmp_path / out, "--to", to)
        assert done.exit_code == 0 and done.stdout.startswith("2 answers to 2 questions: "), done.stderr
    assert json.loads((tmp_path / "log.json").read_text())["eval"]["model"] == "qwenlong/aaaaaaaaaaaa"
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 2
    assert {path.name for path in (tmp_path / "bench").rglob("*.jsonl")} == {"made.jsonl"}


@pytest.mark.parametrize(
    ("out", "to", "why"),
    [
        ("log.txt", "inspect", "does not end with .json"),
        ("rows.csv", "parquet", "does not end with .parquet"),
        ("done/plan.json", "longbench", "name a folder"),
    ],
)
def test_a_wrong_place_is_refused(folder, out, to, why):
    done = call(folder, out, "--to", to)
    assert done.exit_code == 2 and why in done.stderr


def test_an_evaluation_without_its_rows_is_refused(folder, tmp_path):
    (folder / "eval.parquet").unlink()
    done = call(folder, tmp_path / "log.json", "--to", "inspect")
    assert done.exit_code == 2 and "holds no eval.parquet" in done.stderr
    assert not (tmp_path / "log.json").exists()
