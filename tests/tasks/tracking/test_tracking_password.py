"""MLflow behind a password: its own server with its own list of users."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import free_port
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.running import TrackingSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("flask_wtf") is None, reason="no flask-wtf: pip install 'mlflow[auth]'"
    ),
]

USERS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
admin_password = password-of-the-admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "auth.ini").write_text(USERS.format(folder=folder))
    own = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "only a test"}
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                if httpx.get(f"{address}/health").is_success:
                    break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def login(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def opened(uri: str, tmp_path: Path) -> tuple[Tracker, str | None]:
    tracker = Tracker(TrackingSettings(uri=uri))
    return tracker, TrackedRun(tracker, RunNote(name="a run", params={}, tags={}), tmp_path / "outbox").run_id()


def test_a_run_without_the_password_is_refused_before_any_stage(uri: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--profile", "smoke", "--plain"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [*command, "--set", f"tracking.uri={uri}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr[-3000:]
    said = done.stderr.splitlines()[-1]
    assert "turns this user away" in said and "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said
    assert "stage 1/" not in done.stderr


def test_who_may_only_read_is_refused_and_who_may_write_is_not(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = ("admin", "password-of-the-admin")
    reader = {"username": "reader", "password": "password-of-a-reader"}
    httpx.post(f"{uri}/api/2.0/mlflow/users/create", json=reader, auth=admin).raise_for_status()
    login(monkeypatch, *admin)
    tracker, run = opened(uri, tmp_path)
    tracker.require_access()
    assert run is not None

    login(monkeypatch, *reader.values())
    tracker, run = opened(uri, tmp_path)
    assert run is None
    with pytest.raises(ValueError, match=r"turns this user away: .*who may write to the experiment 'qwenlong'"):
        tracker.require_access()


def test_doctor_says_that_the_password_is_missing(uri: str) -> None:
    said = " ".join(
        CliRunner().invoke(app, ["doctor", "--profile", "smoke", "--set", f"tracking.uri={uri}"]).output.split()
    )
    assert f"no MLflow {uri}" in said and "not authenticated" in said
