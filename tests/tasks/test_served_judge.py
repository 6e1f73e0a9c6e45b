"""A judge that the pipeline serves: started, started again when it dies, and ended however its owner ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from judge_places import interpreter
from stage_interpreters import environment, fake_vllm

from qwenlong.tasks.judge import at, judge_command, obstacle, served
from qwenlong.tasks.process import ProcessFailed, stage_command
from qwenlong_core.jobs import EvaluateJob, GRPOJob
from qwenlong_core.rewards.judge import Judge, JudgeQuestion, Verdict
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.stage_main import stage_main
from qwenlong_core.store.fingerprint import ROOT

LAUNCH = LaunchSettings()
EQUAL = JudgeQuestion(question="Who wrote Hamlet?", golds=("William Shakespeare",), answer="Shakespeare")
OTHER = JudgeQuestion(question="Who wrote Hamlet?", golds=("William Shakespeare",), answer="Marlowe")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interpreter(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def settings(python: Path, seen: Path, *arguments: str, retries: int = 0, **serve: Any) -> JudgeSettings:
    given = {"python": str(python), "arguments": ("--seen", str(seen), *arguments)} | serve
    return JudgeSettings(model="small", serve=given, max_retries=retries, timeout_seconds=20)


def starts(seen: Path) -> list[psutil.Process]:
    """The server's processes, in the order they were started; those that are gone are left out."""
    pids = [int(line.split()[0]) for line in seen.read_text().splitlines()]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def until(true: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(judge: Judge, *questions: JudgeQuestion) -> list[Verdict]:
    async def all_of_them() -> list[Verdict]:
        try:
            return await judge.verdicts(questions)
        finally:
            await judge.close()

    return asyncio.run(all_of_them())


def test_it_answers_while_it_is_needed_and_is_gone_afterwards(python: Path, seen: Path, tmp_path: Path) -> None:
    asked, lines = settings(python, seen), []
    with served(asked, LAUNCH, tmp_path / "runs/judge.log", lines.append) as service:
        [process] = starts(seen)
        assert [verdict.equal for verdict in ask(Judge(at(service, asked)), EQUAL, OTHER)] == [True, False]
    assert not process.is_running()
    assert (tmp_path / "runs/judge.log").is_file()
    assert "judge small: starting it at http://127.0.0.1:" in lines[0] and lines[1:] == ["judge small: ready"]


def test_nothing_is_started_for_an_endpoint_or_without_a_judge(tmp_path: Path) -> None:
    for judge in (None, JudgeSettings(model="m", base_url="http://127.0.0.1:9/v1")):
        with served(judge, LAUNCH, tmp_path / "log", print) as service:
            assert service is None


def test_questions_wait_for_a_judge_that_was_killed_and_is_started_again(
    python: Path, seen: Path, tmp_path: Path
) -> None:
    asked, lines = settings(python, seen, "--takes", "1.5"), []
    with served(asked, LAUNCH, tmp_path / "log", lines.append) as service:
        judge = Judge(at(service, asked))
        for _ in range(2):
            assert ask(judge, EQUAL)[0].equal is True
            starts(seen)[-1].kill()
        assert [verdict.equal for verdict in ask(judge, EQUAL, OTHER)] == [True, False]
    assert judge.counts.failures == 0 < judge.counts.retries
    assert lines[2:] == [
        "judge small: died with status -9: starting it again, 3 time(s) left",
        "judge small: ready",
        "judge small: died with status -9: starting it again, 2 time(s) left",
        "judge small: ready",
    ]


@pytest.mark.slow
def test_one_that_dies_too_often_stays_away_and_its_answers_are_unscored(
    python: Path, seen: Path, tmp_path: Path
) -> None:
    asked, lines = settings(python, seen, restarts=0, start_minutes=0.2), []
    with served(asked, LAUNCH, tmp_path / "log", lines.append) as service:
        judge = Judge(at(service, asked))
        starts(seen)[-1].kill()
        verdicts = ask(judge, EQUAL, OTHER)
        began = time.monotonic()
        verdicts += ask(judge, EQUAL)
        assert time.monotonic() - began < 2, "the wait is not made again for every question"
    assert [verdict.equal for verdict in verdicts] == [None] * 3
    assert "judge small: died with status -9: it is not started again" in lines


def test_one_that_does_not_start_ends_the_stage_with_its_last_words(python: Path, seen: Path, tmp_path: Path) -> None:
    asked = settings(python, seen, "--dies", "now")
    with pytest.raises(ProcessFailed, match=r"(?s)'small' \(judge.serve\) ended with status 1 .*out of memory: small"):
        served(asked, LAUNCH, tmp_path / "log", print).__enter__()
    slow = settings(python, seen, start_minutes=1e-5)
    with pytest.raises(ProcessFailed, match=r"did not answer within 1e-05 minutes"):
        served(slow, LAUNCH, tmp_path / "log", print).__enter__()


OWNER = """
import sys, time
from pathlib import Path
from qwenlong.tasks.judge import served
from qwenlong.tasks.process import run_process
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings
from qwenlong_core.settings.running import LaunchSettings

with served(JudgeSettings.model_validate_json(sys.argv[1]), LaunchSettings(), Path(sys.argv[2]), print) as service:
    stage = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    run_process(stage, lambda line: print("stage", line, flush=True), *[service.lifeline] * int(sys.argv[3]))
"""


def owner(asked: JudgeSettings, log: Path, inherits: bool) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process that serves a judge beside a stage, and the stage's process."""
    command = [sys.executable, "-c", OWNER, asked.model_dump_json(), str(log), str(int(inherits))]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("stage"))
    return process, psutil.Process(int(line.split()[1]))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_owner_however_that_ends(
    how: signal.Signals, python: Path, seen: Path, tmp_path: Path
) -> None:
    process, stage = owner(settings(python, seen), tmp_path / "log", inherits=False)
    [server] = starts(seen)
    process.send_signal(how)
    process.wait(60)
    until(lambda: not server.is_running())
    assert starts(seen) == [], "ended, and not started again"
    if stage.is_running():
        stage.kill()


def test_it_lives_as_long_as_a_stage_that_outlives_the_pipeline(python: Path, seen: Path, tmp_path: Path) -> None:
    process, stage = owner(settings(python, seen), tmp_path / "log", inherits=True)
    [server] = starts(seen)
    process.kill()
    process.wait(60)
    time.sleep(1)
    assert server.is_running()
    server.kill()
    until(lambda: any(one.is_running() for one in starts(seen)[-1:] if one.pid != server.pid))
    [again] = [one for one in starts(seen) if one.pid != server.pid]
    stage.kill()
    until(lambda: not again.is_running())


def test_it_sees_its_own_gpus_of_those_that_the_job_was_given(
    python: Path, seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, gpus, visible in (("", (), ""), ("", (8,), "8"), ("4,5,6", (2,), "6")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with served(settings(python, seen, gpus=gpus), LAUNCH, tmp_path / "log", print):
            assert seen.read_text().splitlines()[-1].split(" ")[1] == visible
    several = settings(python, seen, gpus=(8, 9))
    assert "--tensor-parallel-size 2" in " ".join(judge_command(several, LAUNCH, "127.0.0.1", 1))


def test_what_cannot_serve_it_is_named_before_the_run(tmp_path: Path) -> None:
    def trouble(*overrides: str) -> str:
        given = [f"rewards.judge.{one}" for one in ("model='m'", "serve={}", *overrides)]
        return obstacle("rewards", load_settings("smoke", given)) or ""

    without, with_gpus = environment(tmp_path / "no"), environment(tmp_path / "gpu", fake_vllm(tmp_path / "vllm"))
    assert f"rewards.judge.serve: {without} has no vLLM; set rewards.judge.serve.python" in trouble(
        f"serve.python='{without}'"
    )
    assert "has vllm 9.9, which is for GPUs, and serve.gpus names none" in trouble(f"serve.python='{with_gpus}'")
    assert "cannot be asked for vLLM" in (missing := trouble(f"serve.python='{tmp_path}/none'"))
    assert "`make setup-vllm` for the CPU" in missing
    assert obstacle("rewards", load_settings("smoke")) is None


def as_a_stage_reads_it(job: Block, folder: Path, url: str | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / "job.json").write_text(job.model_dump_json())
    monkeypatch.setattr(sys, "argv", stage_command("m", None, folder / "job.json", {}, folder, judge=url)[2:])
    ran: list[Block] = []
    stage_main(type(job), lambda job, inputs, work: ran.append(job))
    return ran[0]


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1/v1"])
def test_a_stage_is_told_its_address(url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"{owner}.judge={{model='m', serve={{}}}}" for owner in ("rewards", "evaluation")]
    settings = load_settings("smoke", given)
    phase = as_a_stage_reads_it(GRPOJob.of(settings, 1, None), tmp_path, url, monkeypatch)
    evaluation = as_a_stage_reads_it(EvaluateJob.of(settings), tmp_path, url, monkeypatch)
    for judge in (phase.rewards.judge, evaluation.evaluation.judge):
        assert (judge.base_url, judge.model) == (url, "m")
        assert RewardSettings(judge=judge).judge == judge, "as an evaluation scores with it"
    assert phase.deciding() == GRPOJob.of(settings, 1, None).deciding()
