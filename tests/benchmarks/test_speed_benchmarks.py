"""The speed benchmarks run on a tiny model, and the methods that they compare do the same work."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong_core.models import import_base, load_policy, load_tokenizer
from qwenlong_core.settings.model import ModelSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import questions
import rollout
from compare import model_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    import_base(ModelSettings(name="tiny"), folder)
    return folder


def test_a_folder_without_a_model_is_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    assert model_folder(str(folder)) == folder
    for wrong in (tmp_path, tmp_path / "missing", folder / "config.json"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"has no config\.json: give a model's folder"):
            model_folder(str(wrong))


def test_rollout_and_questions_compare_equal_work(folder: Path) -> None:
    """Each benchmark itself checks the lengths or tokens of its peers."""
    model, tokenizer = load_policy(folder, ModelSettings(name="tiny")).eval(), load_tokenizer(folder)
    prompt = rollout.random_prompt(model.config.vocab_size, 40)
    line = rollout.measure(model, tokenizer, prompt, 6, group=3, repeats=1, clock="processor")
    assert line.items() >= {"P": 40, "C": 6, "G": 3}.items()
    assert line["generate / ours"] > 0
    assert line["expanded / ours"] > 0
    assert questions.measure(model, tokenizer, 80, 3, 1, "processor")["one by one / together"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("update", "--model MODEL --prompt 24 --completion 8 --group 4 --variants ours loop trl", "times_ours"),
        ("growth", "--model MODEL --prompts 24 48 --prompt 24 --groups 2 4 --completion 8 --variants ours", "exponent"),
        ("rollout", "MODEL --prompt 40 --completions 4 6 --group 3 --repeats 1", "generate / ours"),
        ("questions", "MODEL --document 80 --questions 1 3", "one by one / together"),
        ("step", "MODEL --prompt 200 --completion 8 --group 4", "stock TRL / ours"),
    ],
    ids=["update", "growth", "rollout", "questions", "step"],
)
def test_one_command_prints_ratios_and_saves_table_and_plot(
    name: str, options: str, says: str, folder: Path, tmp_path: Path
) -> None:
    words = [str(folder) if word == "MODEL" else word for word in options.split()]
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), *words, "--output", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "out" / f"{name}.md").read_text()
    assert says in table
    assert table.strip() in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.{kind}" for kind in ("json", "md", "png")}
