"""Profile 8gpu-14b's data and evaluation stages on a CPU: a small model, small copies of the hub's data, a real judge.

The stages run as their processes, on the profile with what a CPU needs changed. The judge is SmolLM2-135M on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_copies import write_copies

from qwenlong.flows.cli.evaluation_run import Finished
from qwenlong.flows.cli.evaluation_tables import print_finished
from qwenlong.tasks.specs import StageSpec, base_stage, evaluate_stage, prepare_stage
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.plan import SAMPLES, SCORES
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.report.paper import paper_rows
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.stage_main import OUTPUT

pytestmark = pytest.mark.slow

ITEMS = 4
TESTS = Path(__file__).parent.parent
SMALL = [
    "model.name=smollm2-135m", "model.dtype=float32", "model.yarn_factor=1", "model.yarn_original_positions=none",
    "data.train=generated", "data.generate_sft=[{min_tokens=200,max_tokens=400,rows=4}]",
    "data.generate_train=[{min_tokens=200,max_tokens=400,rows=4},{min_tokens=20500,max_tokens=21000,rows=1},"
    "{min_tokens=60500,max_tokens=61000,rows=1}]",
    "evaluation.engine=transformers", "evaluation.max_prompt_tokens=512", "evaluation.max_completion_tokens=40",
    "evaluation.samples=1", "evaluation.temperature=0", "evaluation.batch_size=4", "evaluation.bootstrap_resamples=200",
    "evaluation.judge.model=smollm2-135m", "evaluation.judge.api_key_variable=none", "evaluation.judge.max_retries=0",
    "evaluation.judge.timeout_seconds=600",
    "launch.num_processes=1", "launch.sequence_parallel=1", "launch.accelerate_config=none",
]  # fmt: skip


def profile(copies: Path, port: int, *more: str) -> Settings:
    judge = f"evaluation.judge.base_url=http://127.0.0.1:{port}/v1"
    return load_settings("8gpu-14b", [*SMALL, f"data.benchmarks_dir={copies}", judge, *more])


def start_stage(spec: StageSpec, work: Path, **inputs: Path) -> subprocess.Popen[bytes]:
    """The stage's process, as the pipeline starts it and as a person can."""
    work.mkdir()
    (work / "job.json").write_text(json.dumps(spec.job))
    given = [part for name, folder in inputs.items() for part in ("--input", f"{name}={folder}")]
    command = [sys.executable, "-m", spec.module, "--job", str(work / "job.json"), *given, "--work", str(work)]
    return subprocess.Popen(command, stdout=(work / "log").open("wb"), stderr=subprocess.STDOUT)


def run_stage(spec: StageSpec, work: Path, **inputs: Path) -> Path:
    process = start_stage(spec, work, **inputs)
    assert process.wait(1_800) == 0, (work / "log").read_text()[-3000:]
    return work / OUTPUT


@contextlib.contextmanager
def judge_of(model: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port of a judge that answers, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, str(TESTS / "verdict_server.py"), str(model), str(port)], env=environment
    ) as process:
        try:
            for _ in range(1_200):
                assert process.poll() is None
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.5)
            yield port, process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the seven, the base model and the rows that the profile prepares from the copies."""
    folder = tmp_path_factory.mktemp("seven")
    settings = profile(write_copies(folder / "copies", ITEMS), 1)
    model = run_stage(base_stage(settings), folder / "base")
    run_stage(prepare_stage(settings), folder / "prepare", base=model)
    return folder


@pytest.fixture(scope="module")
def judge(place: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with judge_of(place / "base" / OUTPUT) as served:
        yield served


def test_preparation_reads_all_seven_and_drops_none(place: Path) -> None:
    split = json.loads((place / "prepare" / OUTPUT / "summary.json").read_text())["splits"]["eval"]
    assert split["sources"] == dict.fromkeys(sorted(BENCHMARKS), ITEMS)
    assert (split["refused"], split["dropped"], split["truncated"]) == (0, {}, 0)


def test_the_evaluation_ends_with_seven_rows_and_their_average(place: Path, judge, capsys) -> None:
    inputs = {"model": place / "base" / OUTPUT, "data": place / "prepare" / OUTPUT}
    folder = run_stage(evaluate_stage(profile(place / "copies", judge[0]), "base"), place / "first", **inputs)
    evaluation = read_evaluation(folder)
    scores, average = evaluation.scores, evaluation.scores.average
    assert set(scores.sources) == set(BENCHMARKS) and {part.items for part in scores.sources.values()} == {ITEMS}
    assert average is not None and average.accuracy is not None and average.words == ""
    assert average.accuracy.mean == pytest.approx(sum(p.accuracy.mean for p in scores.sources.values()) / 7)
    assert any(sample.score.judge is not None for sample in evaluation.samples), "the judge was asked"
    assert all(part.outcomes["unscored"] == part.outcomes["error"] == 0 for part in scores.sources.values())
    assert all(part.metrics for part in scores.sources.values())
    print_finished(Finished(folder=folder, name="smollm2-135m", evaluation=evaluation))
    shown = capsys.readouterr().out
    print(shown)
    assert all(name in shown for name in (*BENCHMARKS, AVERAGE))
    assert paper_rows({"base": evaluation})[-1][AVERAGE] == f"{100 * average.accuracy.mean:.1f}"


def test_with_the_judge_stopped_answers_are_unscored_and_never_0(place: Path, judge, capsys) -> None:
    port, process = judge
    settings = profile(place / "copies", port, "evaluation.max_unscored_share=1")
    inputs = {"model": place / "base" / OUTPUT, "data": place / "prepare" / OUTPUT}
    work = place / "second"
    evaluation_process = start_stage(evaluate_stage(settings, "base"), work, **inputs)
    log = work / OUTPUT / SAMPLES
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 4):
        assert evaluation_process.poll() is None, (work / "log").read_text()[-3000:]
        time.sleep(0.1)
    process.kill()
    assert evaluation_process.wait(1_800) == 0, (work / "log").read_text()[-3000:]
    evaluation = read_evaluation(work / OUTPUT)
    without = [sample for sample in evaluation.samples if not sample.has_verdict]
    assert without and all(sample.score.status == "unscored" and sample.score.value is None for sample in without)
    average = evaluation.scores.average
    assert average is not None and sum(average.unscored.values()) == len(without) and average.words
    print_finished(Finished(folder=work / OUTPUT, name="smollm2-135m", evaluation=evaluation))
    shown = capsys.readouterr().out
    print(shown)
    for name in average.undecided:
        assert any(name in line and "unscored" in line for line in shown.splitlines())

    # Down from the start, it stops the evaluation before the first answer: there are no scores at all.
    third = start_stage(evaluate_stage(settings, "base"), place / "third", **inputs)
    assert third.wait(600) != 0
    assert "gave no verdict" in (place / "third" / "log").read_text()
    assert not (place / "third" / OUTPUT / SCORES).exists()
