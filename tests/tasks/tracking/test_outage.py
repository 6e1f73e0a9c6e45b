"""A real MLflow server is killed during training and comes back, or is away all the time.

The stage is real, too: SFT of a tiny model in its own process. In the end MLflow holds exactly the points
of ``metrics.jsonl``, once each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow.entities import Run

from qwenlong.tasks.specs import base_stage, prepare_stage, sft_stage
from qwenlong.tasks.stage import RunContext, StageOutcome, execute_stage
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.client import Tracker, client_for
from qwenlong.tasks.tracking.metrics import read_lines, to_metrics
from qwenlong.tasks.tracking.outbox import deliver_outbox, outbox_of, waiting
from qwenlong.tasks.tracking.registry import register
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.fingerprint import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Server:
    """``mlflow server`` on a free port of loopback, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        database = f"sqlite:///{self.folder}/server.db"
        command = ["mlflow", "server", "--backend-store-uri", database, "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "--workers", "1"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.uri}/health", timeout=2).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.3)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            tree = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            psutil.wait_procs(tree, timeout=20)
            self.process = None


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, dict[str, ArtifactRef]]:
    """A store with a base model and data, made without any tracker."""
    home = tmp_path_factory.mktemp("outage")
    settings = settings_of(home, TrackingSettings(uri=f"sqlite:///{home}/mlflow.db"))
    base = stage(base_stage(settings), {}, settings).ref
    return home, {"model": base, "data": stage(prepare_stage(settings), {"base": base}, settings).ref}


def settings_of(home: Path, tracking: TrackingSettings, *overrides: str) -> Settings:
    small = ["data.generate_sft=[{min_tokens=190, max_tokens=256, rows=64}]", "sft.epochs=8", *overrides]
    settings = load_settings(str(ROOT / "infra/profiles/smoke.toml"), small)
    storage = {"uri": str(home / "store"), "work_dir": str(home / "work"), "runs_dir": str(home / "state/runs")}
    launch = settings.launch.model_copy(update={"cpu_threads": 1})
    storage_settings = settings.storage.model_copy(update=storage)
    return settings.model_copy(update={"storage": storage_settings, "tracking": tracking, "launch": launch})


def stage(
    spec: Any, inputs: dict[str, ArtifactRef], settings: Settings, on_line: Any = lambda line: None
) -> StageOutcome:
    context = RunContext(settings=settings, run_id="test")
    return execute_stage(spec, inputs, context, forced=False, log=print, progress=on_line)


def the_run(settings: Settings) -> Run:
    client = client_for(settings.tracking)
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    [run] = [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags.get("stage") == "sft"]
    return run


def assert_told_once(settings: Settings, ref: ArtifactRef) -> None:
    """MLflow's points are those of the artifact's lines, no more and no less, and the run is closed."""
    lines = read_lines(open_store(settings).fetch(ref) / "metrics.jsonl")
    expected = sorted((m.key, m.step, m.value, m.timestamp) for line in lines for m in to_metrics(line, 0))
    run, client = the_run(settings), client_for(settings.tracking)
    points = [p for key in run.data.metrics for p in client.get_metric_history(run.info.run_id, key)]
    assert len(lines) > 20 and sorted((p.key, p.step, p.value, p.timestamp) for p in points) == expected
    assert run.info.status == "FINISHED" and run.data.tags["artifact.sha256"] == ref.sha256
    models = client.search_logged_models([run.info.experiment_id])
    assert [model.tags["artifact.uri"] for model in models] == [ref.uri]


def test_a_server_killed_in_mid_training_has_every_point_once_in_the_end(prepared, server):
    home, inputs = prepared
    settings = settings_of(home, TrackingSettings(uri=server.uri), "seed=11")
    server.start()
    steps: list[int] = []
    back = threading.Event()

    def interrupt(line: dict[str, Any]) -> None:
        steps.append(line["step"])
        if line["step"] >= 5 and not back.is_set():
            back.set()
            server.kill()
            threading.Thread(target=server.start).start()

    outcome = stage(sft_stage(settings), inputs, settings, interrupt)
    assert back.is_set() and outcome.how == "ran"
    deadline = time.monotonic() + 240
    while waiting(outbox_of(settings)) and time.monotonic() < deadline:
        deliver_outbox(Tracker(settings.tracking), outbox_of(settings))
        time.sleep(1)
    assert_told_once(settings, outcome.ref)


def test_a_server_that_is_away_all_the_time_is_told_by_sync(prepared, server):
    home, inputs = prepared
    settings = settings_of(home, TrackingSettings(uri=server.uri), "seed=12")
    outcome = stage(sft_stage(settings), inputs, settings)
    assert outcome.how == "ran" and outcome.mlflow_run_id is None and len(waiting(outbox_of(settings))) == 1
    evaluation = inputs["data"]
    with pytest.raises(ConnectionError, match="nothing was registered"):
        register(settings.tracking, {"model": outcome.ref, "evaluation": evaluation}, None, home)
    sets = [f"tracking.uri={server.uri}", f"storage.runs_dir={settings.storage.runs_dir}"]
    command = [
        sys.executable,
        "-m",
        "qwenlong.flows.cli",
        "sync",
        "--profile",
        "smoke",
        "--json",
        *(p for s in sets for p in ("--set", s)),
    ]
    away = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert away.returncode == 1 and "1 still waiting in" in away.stderr
    server.start()
    for expected in ('{"delivered": 1, "left": 0}', '{"delivered": 0, "left": 0}'):
        done = subprocess.run(command, cwd=home, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
    assert_told_once(settings, outcome.ref)
    version = register(settings.tracking, {"model": outcome.ref, "evaluation": evaluation}, None, home)
    found = client_for(settings.tracking).get_model_version(version.name, version.version)
    assert found.run_id == the_run(settings).info.run_id and outcome.ref.sha256 in found.description
