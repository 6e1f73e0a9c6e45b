"""A stage on another work pool: a real Prefect server and workers, one of which is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from stage_elsewhere import given

from qwenlong.flows.cli.environment import is_up
from qwenlong.tasks.stage import stage_fingerprint
from qwenlong.tasks.store import open_store
from qwenlong_core.store.fingerprint import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(540)]


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def lose(worker: subprocess.Popen[bytes]) -> None:
    """As when its machine is lost: Prefect starts the run's process outside of the worker's group."""
    process = psutil.Process(worker.pid)
    for one in (process, *process.children(recursive=True)):
        one.kill()
    worker.wait()


class Pool:
    """A server, the deployment ``stage/gpu``, and workers that are process groups of their own."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        self.home, self.api, self.groups = home, f"http://127.0.0.1:{port}/api", []
        mine = {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(home / "prefect")}
        self.environment = os.environ | mine | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        wait_until(lambda: is_up(f"{self.api}/health"), 120, "the server does not start")
        deploy = ("--no-prompt", "deploy", "--name", "gpu", "--prefect-file", str(ROOT / "prefect.yaml"))
        for command in (("work-pool", "create", "gpu", "--type", "process"), deploy):
            done = subprocess.run(
                [sys.executable, "-m", "prefect", *command], env=self.environment, cwd=home, capture_output=True
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name: str, *module: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            self.groups.append(
                subprocess.Popen(
                    [sys.executable, "-m", *module],
                    env=self.environment | environment,
                    cwd=self.home,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return self.groups[-1]

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "prefect", "worker", "start", "--pool", "gpu", **environment)

    def waiting(self, *words: str) -> subprocess.Popen[str]:
        program = [sys.executable, str(Path(__file__).with_name("stage_elsewhere.py")), str(self.home), *words]
        return subprocess.Popen(
            program, env=self.environment, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def states(self) -> list[str]:
        body = {"flows": {"name": {"any_": ["stage"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [run["state_name"] for run in httpx.post(f"{self.api}/flow_runs/filter", json=body).json()]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path)
    yield made
    for process in made.groups:
        if process.poll() is None:
            lose(process)


def test_a_killed_worker_is_noticed_and_the_stage_can_be_tried_again(pool: Pool) -> None:
    """The stage hangs at the lock of its work folder, which the test holds, and the pool beats on meanwhile."""
    settings, spec = given(str(pool.home))
    work = Path(settings.storage.work_dir) / f"base-{stage_fingerprint(spec, {})[:16]}.lock"
    work.parent.mkdir(parents=True)
    with work.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker, waiting = pool.worker(), pool.waiting()
        wait_until(lambda: pool.states() == ["Running"], 120, "the stage does not start")
        time.sleep(95)  # longer than a silence that counts as lost
        assert pool.states() == ["Running"] and waiting.poll() is None, "slow, but alive"
        lose(worker)
        killed = time.monotonic()
        log = waiting.communicate(timeout=150)[0]
        assert time.monotonic() - killed < 120, "noticed within two minutes"
        assert waiting.returncode != 0 and "ProcessFailed" in log and "nothing was heard from its process" in log
        assert pool.states() == ["Crashed"]
    pool.worker()
    again = pool.waiting()
    log = again.communicate(timeout=200)[0]
    assert again.returncode == 0 and "completed" in log, log
    assert open_store(settings).lookup("base", stage_fingerprint(spec, {})) is not None


def test_who_stops_waiting_cancels_the_stage(pool: Pool) -> None:
    settings, spec = given(str(pool.home))
    work = Path(settings.storage.work_dir) / f"base-{stage_fingerprint(spec, {})[:16]}.lock"
    work.parent.mkdir(parents=True)
    with work.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pool.worker()
        waiting = pool.waiting()
        wait_until(lambda: pool.states() == ["Running"], 120, "the stage does not start")
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=60)
        wait_until(lambda: pool.states() != ["Running"] and pool.states() != ["Cancelling"], 120, "it is still at work")
        assert pool.states() == ["Cancelled"]


def test_a_worker_with_other_code_refuses_before_it_starts(pool: Pool) -> None:
    """Its training would start from nothing, and the pipeline would not find the result."""
    other = pool.home / "other" / "qwenlong_core"
    shutil.copytree(ROOT / "qwenlong_core", other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "models.py").open("a") as source:
        source.write("\nOTHER = True\n")
    pool.worker(PYTHONPATH=str(other.parent))
    waiting = pool.waiting()
    log = waiting.communicate(timeout=200)[0]
    assert waiting.returncode != 0 and pool.states() == ["Failed"]
    key = stage_fingerprint(given(str(pool.home))[1], {})[:16]
    assert f"base has the fingerprint {key} where its pipeline runs, but " in log
    assert "install the same commit and the same lock file on both" in log
    assert not (pool.home / "work_dir").exists()
