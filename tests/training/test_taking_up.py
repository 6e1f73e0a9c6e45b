"""All processes of a training go on from one checkpoint in one folder, which one training holds at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from fsdp_on_cpu import run_processes

from qwenlong_core.store.files import list_files
from qwenlong_core.training.checkpoints import seal
from qwenlong_core.training.taking_up import taken_up

WEIGHTS = 30_000_000


def checkpoint(work: Path, step: int, content: bytes = b"x") -> Path:
    folder = work / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content * WEIGHTS)
    seal(folder, list_files(folder))
    return folder


def two(tmp_path: Path, *works: Path) -> list[dict[str, Any]]:
    run_processes("take_up.py", tmp_path, *works, processes=2, sharded=False)
    return [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]


def test_one_process_reads_the_checkpoints_and_all_take_the_same(tmp_path: Path) -> None:
    """The newest is damaged in one byte, and the oldest is needed no more."""
    work = tmp_path / "work"
    checkpoint(work, 1)
    whole = checkpoint(work, 2)
    with (checkpoint(work, 3) / "model.safetensors").open("rb+") as stream:
        stream.write(b"y")
    main, other = two(tmp_path, work)
    assert main["checkpoint"] == other["checkpoint"] == str(whole)
    assert 2 * WEIGHTS <= main["read"] < 2.5 * WEIGHTS, "the damaged and the whole one, each once"
    assert other["read"] < 0.1 * WEIGHTS
    assert sorted(path.name for path in (work / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize(
    "there", [*(pytest.param(there, marks=pytest.mark.slow) for there in ("nothing", "another one")), "the same name"]
)
def test_a_process_that_does_not_see_the_folder_is_a_refusal_of_all(there: str, tmp_path: Path) -> None:
    mine, own = tmp_path / "mine", tmp_path / "own"
    for folder in (mine, own):
        folder.mkdir()
    if there != "nothing":
        checkpoint(mine, 4)
        checkpoint(own, 4 if there == "the same name" else 5, content=b"z")
        shutil.copytree(own, tmp_path / "before")
    answers = two(tmp_path, mine, own)
    assert answers[0] == answers[1]
    for word in (str(mine), str(own), "storage.work_dir", "process 1 on", "process 0 on"):
        assert word in answers[0]["refused"]
    if there == "another one":
        assert (own / "checkpoints/checkpoint-5").is_dir(), "nothing was deleted there"


def test_a_second_training_waits_for_the_first(tmp_path: Path) -> None:
    """As after the death of a launcher whose training on another machine lives on."""
    program = "import sys; from take_up import main; from pathlib import Path; main(*map(Path, sys.argv[1:]))"
    with taken_up(tmp_path, PartialState(cpu=True)) as found:
        assert found is None
        path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        second = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {program}", tmp_path, tmp_path],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert second.stderr is not None
        line = next(line for line in second.stderr if "another training is at work" in line)
        assert str(tmp_path) in line
        time.sleep(1)
        assert second.poll() is None and not (tmp_path / "0.json").exists()
    assert second.wait(60) == 0
    second.stderr.close()
    assert (tmp_path / "0.json").exists()
