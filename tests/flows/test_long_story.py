"""The long benchmarks through pipeline stages, gate and night, with a judge on loopback that reads what it is asked.

The model is SmolLM2-135M, a tuned copy challenges it, and the files are small copies of the published layouts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Served, says, served
from long_copies import write_long_copies
from prefect import flow
from prefect.artifacts import Artifact
from prefect.testing.utilities import prefect_test_harness

from qwenlong.flows.nightly_eval import nightly_eval
from qwenlong.flows.pipeline_run import PipelineRun, new_run_id
from qwenlong.flows.promote import promote
from qwenlong.tasks.specs import base_stage, evaluate_stage, prepare_stage, register_stage, sft_stage
from qwenlong.tasks.stage import RunContext
from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import CHAMPION
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.rewards.health import PAIRS as FIXED_PAIRS
from qwenlong_core.settings.profiles import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PROFILE = """
[model]
name = "smollm2-135m"
[data]
generate_sft = [{{ min_tokens = 200, max_tokens = 300, rows = 4 }}]
generate_train = [{{ min_tokens = 200, max_tokens = 300, rows = 4 }}]
eval = ["longbench-v2:", "mrcr:", "ruler", "aa-lcr:", "corpusqa:"]
benchmarks_dir = "{home}/copies"
ruler = {{ lengths = [512], rows = 1 }}
[sft]
max_tokens = 512
learning_rate = 1e-5
epochs = 1
batch_size = 4
[grpo]
batch_size = 4
mini_batch_size = 2
phases = [{{ max_prompt_tokens = 384, max_completion_tokens = 64, cache_tokens = 16, steps = 1 }}]
[evaluation]
max_prompt_tokens = 512
max_completion_tokens = 24
temperature = 0.0
batch_size = 4
bootstrap_resamples = 500
judge = {{ base_url = "{judge}", model = "m", max_retries = 0, timeout_seconds = 60 }}
[execution]
retries = 0
[storage]
uri = "{home}/artifacts"
work_dir = "{home}/work"
runs_dir = "{home}/runs"
[tracking]
uri = "sqlite:///{home}/mlflow.db"
"""
SOURCES = {"longbench-v2", "mrcr-2needle", "ruler-512", "aa-lcr", "corpusqa"}
RULER = 5
"""Its tasks without copies of essays and questions are six, and one of them does not fit 512 tokens."""
_CORRECT = re.compile(r"The OFFICIAL ANSWER: (.*)\nCANDIDATE ANSWER TO ASSESS: (.*)\n\nReply only", re.DOTALL)
_EQUAL = re.compile(r"\nAnswer 1: (.*)\nAnswer 2: (.*)\n", re.DOTALL)


def verdict(request: dict[str, Any]) -> str:
    """In the words of whichever form is asked: the published ones compare with the gold, ours are the health check."""
    asked = request["messages"][-1]["content"]
    if found := _CORRECT.search(asked):
        return "CORRECT" if found[1].lower() in found[2].lower() else "INCORRECT"
    if found := _EQUAL.search(asked):
        return "Compared. [[YES]]" if found[1].strip() == found[2].strip() else "Compared. [[NO]]"
    known = {(question, answer): same for question, _, answer, same in FIXED_PAIRS}
    pair = json.loads(asked) if asked.startswith("{") else {}  # the first question of all only wants an answer
    return "[[YES]]" if known.get((pair.get("question"), pair.get("candidate_answer"))) else "[[NO]]"


@pytest.fixture(scope="module")
def judge() -> Iterator[Served]:
    with served(lambda _, request: says(verdict(request))) as server:
        yield server


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, judge: Served) -> Iterator[str]:
    home = tmp_path_factory.mktemp("long")
    write_long_copies(home / "copies")
    (home / "long.toml").write_text(PROFILE.format(home=home, judge=judge.url))
    with prefect_test_harness(server_startup_timeout=600):
        yield str(home / "long.toml")


@flow
def tuned(profile: str) -> Path:
    """Import, prepare, fine-tune, evaluate, register; the evaluation's folder."""
    settings = load_settings(profile)
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id()))
    base = run.stage(base_stage(settings), {})
    data = run.stage(prepare_stage(settings), {"base": base})
    model = run.stage(sft_stage(settings), {"model": base, "data": data})
    evaluation = run.stage(evaluate_stage(settings, "sft"), {"model": model, "data": data})
    run.stage(register_stage(settings), {"model": model, "evaluation": evaluation})
    return run.folder(evaluation)


@pytest.fixture(scope="module")
def evaluation(profile: str) -> Evaluation:
    return read_evaluation(tuned(profile))


def test_every_benchmark_has_its_score_and_the_metric_of_its_authors(evaluation: Evaluation) -> None:
    scores = evaluation.scores
    assert set(scores.sources) == SOURCES
    items = {name: part.items for name, part in scores.sources.items()}
    assert items == dict.fromkeys(SOURCES, 1) | {"ruler-512": RULER}
    assert all(part.outcomes["unscored"] == part.outcomes["error"] == 0 for part in scores.sources.values())
    assert "longbench_v2_accuracy" in scores.sources["longbench-v2"].metrics
    assert scores.average is None or scores.average.accuracy is None, "an average is the paper's seven"


def test_the_judge_was_asked_in_the_published_words(evaluation: Evaluation, judge: Served) -> None:
    asked = [request["messages"][-1]["content"] for request in judge.requests]
    judged = {sample.source for sample in evaluation.samples if sample.score.judge is not None}
    assert judged == {"aa-lcr", "corpusqa"}
    assert any("The OFFICIAL ANSWER: The second" in text for text in asked)
    assert any("Problem: Which have more than 5?" in text for text in asked)


def test_the_gate_weighs_each_of_them(profile: str, evaluation: Evaluation) -> None:
    assert "not promoted" in promote(profile, [])["promotion"]
    shown = Artifact.get("promotion").data
    assert f"over {4 + RULER} items" in shown
    assert all(f"**no loss in {name}**" in shown for name in SOURCES)


def test_a_night_asks_them_too(profile: str, evaluation: Evaluation, judge: Served) -> None:
    tracking = load_settings(profile).tracking
    client_for(tracking).set_registered_model_alias(tracking.registered_model, CHAMPION, "1")
    before = len(judge.requests)
    state = nightly_eval(profile, [], date(2026, 3, 1), return_state=True)
    assert state.is_completed(), state.message
    assert state.result()["result"].startswith("night 2026-03-01: no significant fall")
    assert len(judge.requests) > before
