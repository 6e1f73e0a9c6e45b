"""The registry: aliases move only on proof, against the champion that was compared, and fail closed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from qwenlong_core.artifacts import ArtifactRef
from qwenlong_core.config import TrackingSettings
from tasks.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegisteredVersion,
    apply_decision,
    baseline_for,
    by_alias,
    find_version,
    register,
    still_registered,
)


@pytest.fixture
def settings(tmp_path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")


def make(settings: TrackingSettings, tmp_path: Path, number: int) -> RegisteredVersion:
    model = ArtifactRef(kind="model", uri=f"file:///m{number}", sha256=f"{number:064x}")
    evaluation = ArtifactRef(kind="evaluation", uri=f"file:///e{number}", sha256=f"{number + 500:064x}")
    return register(settings, {"model": model, "evaluation": evaluation}, None, tmp_path)


def decision(tmp_path: Path, promote: bool) -> Path:
    path = tmp_path / f"decision-{promote}.json"
    path.write_text(json.dumps({"promote": promote, "reason": "because"}))
    return path


def test_registering_twice_adopts_the_version(settings, tmp_path):
    first = make(settings, tmp_path, 1)
    assert make(settings, tmp_path, 1) == first
    second = make(settings, tmp_path, 2)
    assert (first.version, second.version) == ("1", "2")
    assert by_alias(settings, CHALLENGER) == second and still_registered(settings, first)
    assert find_version(settings, first.model, second.evaluation) is None


def test_a_refusal_moves_nothing_and_a_promotion_keeps_the_previous_champion(settings, tmp_path):
    first, second = make(settings, tmp_path, 1), make(settings, tmp_path, 2)
    assert "not promoted, there is no champion" in apply_decision(settings, first, None, decision(tmp_path, False))
    assert by_alias(settings, CHAMPION) is None
    assert "promoted" in apply_decision(settings, first, None, decision(tmp_path, True))
    assert baseline_for(settings, first) is None and baseline_for(settings, second) == first
    assert "promoted" in apply_decision(settings, second, first, decision(tmp_path, True))
    assert by_alias(settings, CHAMPION) == second and by_alias(settings, PREVIOUS) == first
    assert apply_decision(settings, second, first, decision(tmp_path, True)) == "version 2 is champion"
    assert by_alias(settings, PREVIOUS) == first


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(settings, tmp_path):
    first, second, third = (make(settings, tmp_path, number) for number in (1, 2, 3))
    apply_decision(settings, first, None, decision(tmp_path, True))
    assert "promoted" in apply_decision(settings, second, first, decision(tmp_path, True))
    said = apply_decision(settings, third, first, decision(tmp_path, True))
    assert "the champion has changed meanwhile (now version 2)" in said
    assert by_alias(settings, CHAMPION) == second


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
