"""The registry: its versions point at artifacts, and one that does not answer is never taken for an empty one."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    RegisteredVersion,
    by_alias,
    find_version,
    register,
    still_registered,
)
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef


@pytest.fixture
def settings(tmp_path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")


def make(settings: TrackingSettings, tmp_path: Path, number: int) -> RegisteredVersion:
    model = ArtifactRef(kind="model", uri=f"file:///m{number}", sha256=f"{number:064x}")
    evaluation = ArtifactRef(kind="evaluation", uri=f"file:///e{number}", sha256=f"{number + 500:064x}")
    return register(settings, {"model": model, "evaluation": evaluation}, None, tmp_path)


def test_registering_twice_adopts_the_version(settings, tmp_path):
    first = make(settings, tmp_path, 1)
    assert make(settings, tmp_path, 1) == first
    second = make(settings, tmp_path, 2)
    assert (first.version, second.version) == ("1", "2")
    assert by_alias(settings, CHALLENGER) == second and still_registered(settings, first)
    assert find_version(settings, first.model, second.evaluation) is None
    described = client_for(settings).get_model_version("qwenlong", "1").description
    assert described.startswith("Policy 000000000000\n\n- model: `model/000000000000`\n") and "|" not in described, (
        "MLflow draws no tables"
    )


class Unavailable(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


def test_a_registry_that_is_away_never_reads_as_an_empty_one(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unavailable)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(MlflowException):
            by_alias(TrackingSettings(uri=f"http://127.0.0.1:{server.server_port}"), CHAMPION)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(MlflowException):
        by_alias(TrackingSettings(uri=f"http://127.0.0.1:{server.server_port}"), CHAMPION)
