"""A judge on vLLM's CPU build that the pipeline starts beside a stage, killed once in mid-stage: ``make test-vllm``."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from endpoint_server import Respond, says, served
from verdict_model import PAIRS, write_verdict_model

from qwenlong.tasks.specs import base_stage, evaluate_stage, prepare_stage
from qwenlong.tasks.stage import RunContext, execute_stage
from qwenlong.tasks.store import open_store
from qwenlong_core.evaluation.plan import SAMPLES
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.models import import_base
from qwenlong_core.records import Example
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.fingerprint import ROOT

VLLM = ROOT / ".venv-vllm/bin/python"
ROWS = 3 * len(PAIRS)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture
def judge_model(tmp_path: Path) -> Path:
    import_base(ModelSettings(name="smollm2-135m"), tmp_path / "smollm2")
    write_verdict_model(tmp_path / "smollm2", tmp_path / "judge")
    return tmp_path / "judge"


@pytest.fixture(autouse=True)
def small_and_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)


def row(number: int) -> dict[str, Any]:
    """A question of the pairs, about a document that only its number tells from the others."""
    question, gold, _, _ = PAIRS[number % len(PAIRS)]
    words = " ".join(random.Random(number).choices(["river", "stone", "lamp", "paper", "window", "bridge"], k=40))
    given = {"id": f"r{number}", "source": "test", "domain": "multihop", "answer_type": "span"}
    return given | {"context": f"Record {number}. {words}", "question": question, "answers": [gold]}


def text(number: int) -> str:
    return f"Therefore, the answer is {PAIRS[number % len(PAIRS)][2]}."


def answer(_n: int, request: dict[str, Any]) -> Respond:
    """The policy: it gives the answer of the pair, after a moment."""
    found = re.search(r"Record (\d+)\.", json.dumps(request["messages"]))
    assert found is not None
    return says(text(int(found[1])), after=0.3)


def expected(number: int) -> float:
    """By the rule, or by the verdict that the judge was fitted to."""
    stage = score_text(Example(**row(number) | {"answers": (PAIRS[number % len(PAIRS)][1],)}), text(number), 0.0015)
    return float(PAIRS[number % len(PAIRS)][3]) if stage.question else stage.score.value or 0.0


def servers() -> list[psutil.Process]:
    """The vLLM servers that a keeper below this process has started."""
    keepers = [p for p in psutil.Process().children() if "qwenlong.tasks.keeper" in p.cmdline()]
    return [server for keeper in keepers for server in keeper.children()]


def kill_in_the_middle(samples: Iterator[Path], killed: list[int]) -> None:
    for folder in samples:
        log = folder / SAMPLES
        if log.is_file() and len(log.read_bytes().splitlines()) >= ROWS // 3:
            [server] = servers()
            server.kill()
            killed.append(server.pid)
            return
        time.sleep(0.1)


def run_settings(tmp_path: Path, judge_model: Path, policy: str) -> Settings:
    rows = tmp_path / "eval.jsonl"
    rows.write_text("".join(json.dumps(row(number)) + "\n" for number in range(ROWS)))
    arguments = ["--enforce-eager", "--max-model-len", "1024", "--dtype", "float32"]
    given = {
        "data.eval": rows,
        "evaluation.engine": "openai",
        "evaluation.samples": 1,
        "evaluation.server": f"{{base_url='{policy}', model='m', concurrency=2}}",
        "evaluation.judge": f"{{model='{judge_model}', max_tokens=16, max_retries=0, timeout_seconds=300, "
        f"serve={{python='{VLLM}', arguments={json.dumps(arguments)}}}}}",
        "storage.uri": tmp_path / "artifacts",
        "storage.work_dir": tmp_path / "work",
        "storage.runs_dir": tmp_path / "runs",
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
    }
    return load_settings("smoke", [f"{name}={value}" for name, value in given.items()])


def test_a_judge_that_is_killed_in_mid_stage_costs_no_verdict(tmp_path: Path, judge_model: Path) -> None:
    lines: list[str] = []
    with served(answer) as policy:
        settings = run_settings(tmp_path, judge_model, policy.url)
        context = RunContext(settings=settings, run_id="run")

        def stage(spec: Any, **inputs: Any) -> Any:
            return execute_stage(spec, inputs, context, forced=False, log=lines.append, progress=lambda line: None).ref

        base = stage(base_stage(settings))
        data = stage(prepare_stage(settings), base=base)
        killed: list[int] = []
        outputs = (next(iter((tmp_path / "work").glob("evaluate-*/output")), tmp_path) for _ in iter(int, 1))
        threading.Thread(target=kill_in_the_middle, args=(outputs, killed), daemon=True).start()
        began = time.monotonic()
        evaluation = open_store(settings).fetch(stage(evaluate_stage(settings, "base"), model=base, data=data))
    print(f"evaluated in {time.monotonic() - began:.0f} s")
    samples = read_samples(evaluation / SAMPLES)
    assert {s.example_id: s.score.value for s in samples} == {f"r{n}": expected(n) for n in range(ROWS)}
    assert sum(s.score.judge is not None for s in samples) > ROWS // 2
    said = [line for line in lines if line.startswith("judge ")]
    assert len(killed) == 1
    assert [line.partition(": ")[2].partition(" at ")[0] for line in said] == [
        "starting it",
        "ready",
        "died with status -9: starting it again, 3 time(s) left",
        "ready",
    ]
    assert not servers()
    assert (tmp_path / "runs/run/judge-evaluate-base.log").read_text().count("Application startup complete") == 2
