"""The distill stage with a real model as its teacher: killed with SIGKILL in the middle, run again, and priced."""

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
from typing import Any

import pytest

from qwenlong_core.data.rows import read_examples, write_examples
from qwenlong_core.jobs import DistillJob
from qwenlong_core.models import import_base
from qwenlong_core.records import Example
from qwenlong_core.settings.distill import DistillSettings, TeacherSettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.stage_main import OUTPUT

TESTS = Path(__file__).parent.parent
SAMPLES, UNDER_WAY = 4, 2
PRICES = {"price_per_million_prompt_tokens": 1_000.0, "price_per_million_completion_tokens": 5_000.0}
THINGS = (("red", "coins", 12), ("green", "pens", 7), ("blue", "keys", 25), ("white", "shells", 40))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def row(colour: str, things: str, count: int) -> Example:
    return Example(
        id=colour, source="t", domain="math", answer_type="number", answers=(str(count),), num_tokens=120,
        context=f"The {colour} box holds {count} {things}.", question=f"How many {things} does the {colour} box hold?",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    import_base(ModelSettings(name="smollm2-135m"), folder)
    return folder


@pytest.fixture
def teacher(model: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of the teacher, and the file with a line for each request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "requests"
    command = [sys.executable, str(TESTS / "teacher_server.py"), str(model), str(port), str(log)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(TESTS)}) as process:
        try:
            for _ in range(600):
                assert process.poll() is None
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"):
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", log
        finally:
            process.kill()


def start(work: Path, url: str, model: Path, answers: Path) -> subprocess.Popen[bytes]:
    settings = TeacherSettings(
        base_url=url, model="smollm2", samples=SAMPLES, max_tokens=40, concurrency=UNDER_WAY, **PRICES
    )
    distill = DistillSettings(teacher=settings, answers_dir=str(answers), keep_per_question=2)
    job = DistillJob(distill=distill, max_row_tokens=500, number_tolerance=1e-6, seed=1)
    (work / OUTPUT).mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "qwenlong_core.data.distill", "--job", str(work / "job.json")]
    given = [f"--input=base={model}", f"--input=data={work.parent}", f"--work={work}"]
    return subprocess.Popen([*command, *given], stdout=(work / "log").open("ab"), stderr=subprocess.STDOUT)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_a_killed_distillation_asks_for_nothing_twice_and_ends_as_one_left_alone(
    tmp_path: Path, model: Path, teacher: tuple[str, Path]
) -> None:
    url, requests = teacher
    write_examples(tmp_path / "sft.parquet", [row(*thing) for thing in THINGS])
    asked = len(THINGS) * SAMPLES
    killed = start(tmp_path / "work", url, model, tmp_path / "answers")
    while killed.poll() is None and not any(len(lines_of(log)) >= 4 for log in (tmp_path / "answers").glob("*.jsonl")):
        time.sleep(0.05)
    assert killed.poll() is None, (tmp_path / "work/log").read_text()[-2000:]
    killed.kill()
    killed.wait()
    [log] = (tmp_path / "answers").glob("*.jsonl")
    saved = lines_of(log)
    assert 4 <= len(saved) < asked

    assert start(tmp_path / "work", url, model, tmp_path / "answers").wait() == 0, (tmp_path / "work/log").read_text()
    answers = lines_of(log)
    assert answers[: len(saved)] == saved and len(answers) == asked
    assert asked <= len(requests.read_text().splitlines()) <= asked + UNDER_WAY
    assert start(tmp_path / "alone", url, model, tmp_path / "others").wait() == 0
    for name in ("sft.parquet", "traces.jsonl", "dropped.jsonl", "summary.json"):
        again, undisturbed = (tmp_path / work / OUTPUT / name for work in ("work", "alone"))
        assert again.read_bytes() == undisturbed.read_bytes(), name

    counts = json.loads((tmp_path / "work" / OUTPUT / "summary.json").read_text())["distill"]
    assert (counts["questions"], counts["asked"], counts["answered"], counts["failed"]) == (4, asked, asked, 0)
    prompt, completion = (sum(line[f"{part}_tokens"] for line in answers) for part in ("prompt", "completion"))
    assert counts["cost"] == pytest.approx((prompt * 1_000 + completion * 5_000) / 1e6)
    rows = read_examples(tmp_path / "work" / OUTPUT / "sft.parquet")
    golds = {colour: count for colour, _, count in THINGS}
    assert len(rows) == counts["kept"] > 0
    assert all(str(golds[one.id.partition("#")[0]]) in str(one.solution) for one in rows)
