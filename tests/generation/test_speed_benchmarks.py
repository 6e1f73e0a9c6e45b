"""The speed benchmarks still run, on a tiny model, and what they compare is the same work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwenlong_core.config import ModelSettings
from qwenlong_core.models import import_base, load_policy, load_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import questions
import rollout
import step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    import_base(ModelSettings(name="tiny"), folder)
    return folder


def test_rollout_and_questions_compare_equal_work(folder: Path) -> None:
    """Each checks its peers' lengths or tokens itself."""
    model, tokenizer = load_policy(folder, ModelSettings(name="tiny")).eval(), load_tokenizer(folder)
    prompt = rollout.random_prompt(model.config.vocab_size, 40)
    line = rollout.measure(model, tokenizer, prompt, 6, 3, 1, "cpu")
    assert line.items() >= {"P": 40, "C": 6, "G": 3}.items()
    assert line["generate / ours"] > 0
    assert line["expanded / ours"] > 0
    assert questions.measure(model, tokenizer, 80, 3, 1, "cpu")["one by one / together"] > 0


@pytest.mark.slow
def test_a_step_of_both_trainers(folder: Path) -> None:
    line = step.measure(folder, prompt=200, completion=8, group=4, repeats=1, clock="cpu")
    assert line["stock TRL / ours"] > 0
