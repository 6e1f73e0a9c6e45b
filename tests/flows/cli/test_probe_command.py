"""``qwenlong probe`` on rows that ``qwenlong prepare`` wrote, and the optional stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_interpreters import with_our_libraries
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong.tasks.specs import probe_stage, stage_names
from qwenlong_core.settings.profiles import load_settings


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    rows = [
        {
            "id": f"r{i}",
            "domain": "math",
            "context": f"{i} " * (30 if i < 3 else 200),
            "question": f"How many in {i}?",
            "answers": ["5"],
        }
        for i in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--source", f"jsonl={folder / 'rows.jsonl'}", "--phase", 256, "--phase", 1024, "--near-duplicates", 0]
    result = call("prepare", *arguments, "--out", folder / "data")
    assert result.exit_code == 0, result.output
    return folder / "data"


PHASE = "{max_prompt_tokens=%d, max_completion_tokens=8, cache_tokens=2, steps=1}"
SMALL = ["--profile", "smoke", "--set", f"grpo.phases=[{PHASE % 256}, {PHASE % 1024}]", "--set", "launch.cpu_threads=1"]


def test_a_probe_from_the_command_line(prepared: Path, tmp_path: Path) -> None:
    arguments = ["probe", *SMALL, "--data", prepared, "--rows", 2, "--samples", 2, "--out", tmp_path / "p"]
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [phase["rows"] for phase in said["phases"].values()] == [2, 2]
    assert said["phases"]["1"]["prompt_tokens"] < 256 < said["phases"]["2"]["prompt_tokens"]
    assert len(json.loads((tmp_path / "p" / "difficulty.json").read_text())) == 4
    again = call(*arguments)
    assert again.exit_code == 0, again.output
    assert "a step of phase 2:" in again.stdout
    other = call(*arguments[:-3], 3, "--out", tmp_path / "p")
    assert other.exit_code == 2
    assert "take another folder" in other.output


def test_a_probe_in_the_interpreter_of_the_stages(prepared: Path, tmp_path: Path) -> None:
    python = with_our_libraries(tmp_path / "stages")
    arguments = ["probe", *SMALL, "--set", f"launch.python={python}", "--data", prepared, "--out", tmp_path / "p"]
    result = call(*arguments, "--rows", 1, "--samples", 2, "--json")
    assert result.exit_code == 0, result.output
    assert [phase["rows"] for phase in json.loads(result.stdout)["phases"].values()] == [1, 1]
    assert "probe phase 2: 1/1 rows" in result.stderr
    other = call(*arguments, "--rows", 1, "--samples", 3)
    assert other.exit_code == 2 and "take another folder" in other.output


def test_without_prepared_data_it_says_what_to_give(tmp_path: Path) -> None:
    result = call("probe", *SMALL, "--set", f"storage.uri='{tmp_path / 'store'}'", "--out", tmp_path / "p")
    assert result.exit_code == 2
    assert "give --data" in result.output
    assert not list((tmp_path / "p").iterdir())  # no model was imported first


def test_a_place_and_a_model_that_cannot_be_used_are_refused(prepared: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    for said, arguments in (
        (f"--out='{taken}' cannot be written", ["--out", taken]),
        ("is not a model that transformers can load", ["--out", tmp_path / "p", "--model", prepared]),
    ):
        result = call("probe", *SMALL, "--data", prepared, *arguments)
        assert result.exit_code == 2 and said in result.output, result.output


def test_the_probe_is_a_stage_only_when_asked_for() -> None:
    assert "probe" not in stage_names(load_settings("smoke"))
    settings = load_settings("smoke", ["grpo.curriculum.probe_samples=4"])
    names = stage_names(settings)
    assert names.index("prepare") < names.index("probe") < names.index("grpo-1")
    spec = probe_stage(settings)
    assert (spec.job["samples"], spec.job["rows"]) == (4, None)
