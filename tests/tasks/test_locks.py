"""Runs that start at the same moment in an empty folder: each database is made once, and both runs go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qwenlong.tasks.locks import one_at_a_time
from qwenlong_core.store.fingerprint import ROOT

START = """
import sys, time
from pathlib import Path
from qwenlong.flows.cli.environment import prefect_api, use_project_defaults
use_project_defaults()
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.running import TrackingSettings
tracker = Tracker(TrackingSettings(uri="sqlite:///.qwenlong/mlflow.db"))
Path(f"ready-{sys.argv[1]}").touch()
while len(list(Path().glob("ready-*"))) < int(sys.argv[2]):
    time.sleep(0.01)
run = TrackedRun(tracker, RunNote(name=sys.argv[1], params={}, tags={}), Path("outbox"))
assert run.finish("FINISHED") is not None and not Path("outbox").exists()
if "prefect" in sys.argv:
    with prefect_api() as api:
        from prefect import flow
        assert flow(lambda: 7, name="seven")() == 7
print("done", tracker.experiment_id)
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_many_take_turns_and_the_file_goes_with_the_last(tmp_path: Path) -> None:
    """Each removes the file that the next is waiting for."""
    path, inside, most, waited = tmp_path / "new/x.lock", [], [], []

    def turn(number: int) -> None:
        with one_at_a_time(path, lambda: waited.append(number)):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 20 and waited and not path.exists()


def test_after_an_error_the_file_stays_for_who_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with pytest.raises(ValueError, match="boom"), one_at_a_time(path) as lock:
        child = subprocess.Popen(["sleep", "0.5"], pass_fds=[lock])
        raise ValueError("boom")
    assert path.exists()
    with one_at_a_time(path):
        assert child.poll() is not None or child.wait(1) == 0, "it was waited for"
    assert not path.exists()


@pytest.mark.parametrize("what", ["mlflow", pytest.param("prefect", marks=pytest.mark.slow)])
def test_processes_that_start_together_make_one_database(tmp_path: Path, what: str) -> None:
    processes = [start(tmp_path, "-c", START, f"run-{i}", "2", what) for i in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert len({text.split()[-1] for text in said}) == 1, said
    assert all(text.split()[-2:-1] == ["done"] for text in said), said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_first_runs_in_an_empty_folder_both_complete(tmp_path: Path) -> None:
    small = [
        "data.generate_sft=[{min_tokens=190, max_tokens=256, rows=4}]",
        "data.generate_train=[{min_tokens=190, max_tokens=256, rows=4}]",
        "data.generate_eval=[{min_tokens=190, max_tokens=256, rows=2}]",
        "sft.epochs=1",
        "grpo.phases=[{max_prompt_tokens=256, max_completion_tokens=8, cache_tokens=2, steps=1}]",
        "launch.cpu_threads=1",
    ]
    sets = [part for value in small for part in ("--set", value)]
    command = ["-m", "qwenlong.flows.cli", "run", "--profile", str(ROOT / "infra/profiles/smoke.toml"), "--json"]
    os.environ.pop("PREFECT_API_URL", None)
    processes = [start(tmp_path, *command, *sets) for _ in range(2)]
    for process in processes:
        said = process.communicate(timeout=1700)[0]
        assert process.returncode == 0, said[-3000:]
    runs = [json.loads(path.read_text()) for path in tmp_path.glob(".qwenlong/smoke/runs/*/result.json")]
    assert len(runs) == 2 and runs[0]["model"] == runs[1]["model"]
