"""MLflow: metrics arrive once each and in order, an outage does not hurt, dead runs are closed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextvars import ContextVar

import pytest

from qwenlong_core.artifacts import ArtifactRef
from qwenlong_core.config import TrackingSettings
from tasks.tracking import MetricsForwarder, Tracker, client_for, flatten, to_metrics

MODEL = ArtifactRef(kind="model", uri="file:///somewhere/model", sha256="ab" * 32)
DATA = ArtifactRef(kind="data", uri="file:///somewhere/data", sha256="cd" * 32)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db", experiment="test")


def append(path, *lines):
    with path.open("a") as stream:
        for line in lines:
            stream.write(json.dumps(line) + "\n")


def test_each_step_goes_out_once_even_when_a_resume_cuts_the_file_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sent: list[int] = []
    forwarder = MetricsForwarder(path, lambda line: sent.append(line["step"]) or True)
    append(path, {"step": 1}, {"step": 2}, {"step": 3})
    forwarder.drain()
    path.write_text(json.dumps({"step": 1}) + "\n")
    forwarder.drain()
    append(path, {"step": 2}, {"step": 3}, {"step": 4})
    with path.open("a") as stream:
        stream.write('{"step": 5')
    forwarder.drain()
    assert sent == [1, 2, 3, 4]
    with path.open("a") as stream:
        stream.write("}\n")
    forwarder.drain()
    assert sent == [1, 2, 3, 4, 5]


def test_a_line_the_tracker_did_not_take_is_sent_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, {"step": 1}, {"step": 2})
    answers = iter([True, False, True])
    sent: list[int] = []
    forwarder = MetricsForwarder(path, lambda line: sent.append(line["step"]) or next(answers))
    forwarder.drain()
    forwarder.drain()
    assert sent == [1, 2, 2]


def test_numbers_become_metrics_at_their_step_and_nothing_else():
    metrics = to_metrics({"step": 7, "total_steps": 9, "reward": 0.5, "done": True, "note": "x", "pass@2": 1}, 1000)
    assert {(m.key, m.value, m.step) for m in metrics} == {("total_steps", 9, 7), ("reward", 0.5, 7), ("pass_at_2", 1, 7)}


def test_nested_settings_become_dotted_parameters():
    assert dict(flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1]})) == {"a.b": "1", "a.c.d": "None", "e": "[1]"}


def test_a_stage_run_holds_params_inputs_metrics_and_a_model_that_points_at_the_artifact(settings):
    tracker = Tracker(settings)
    parent = tracker.start_run("pipeline", {"seed": 7}, {"profile": "test"})
    child = tracker.start_run("sft", {"sft": {"epochs": 3}}, {}, parent)
    tracker.log_inputs(child, {"data": DATA, "model": MODEL})
    assert tracker.log_metrics(child, to_metrics({"step": 1, "loss": 2.0}, 1) + to_metrics({"step": 2, "loss": 1.0}, 2))
    tracker.log_output(child, "sft", MODEL)
    tracker.end_run(child, "FINISHED")
    run = client_for(settings).get_run(child)
    assert run.info.status == "FINISHED" and run.data.params == {"sft.epochs": "3"}
    assert run.data.tags["mlflow.parentRunId"] == parent and run.data.tags["artifact.sha256"] == MODEL.sha256
    assert run.inputs.dataset_inputs[0].dataset.digest == DATA.sha256[:36]
    history = client_for(settings).get_metric_history(child, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    model = client_for(settings).get_logged_model(run.data.tags["logged_model"])
    assert model.tags["artifact.uri"] == MODEL.uri and model.source_run_id == child


def test_a_tracker_that_is_down_stops_nothing(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        tracker = Tracker(TrackingSettings(uri=f"http://127.0.0.1:{unused.getsockname()[1]}"))
        run_id = tracker.start_run("sft", {}, {})
        assert run_id is None
        tracker.log_inputs(run_id, {"data": DATA})
        tracker.log_output(run_id, "sft", MODEL)
        tracker.end_run(run_id, "FINISHED")
        assert not tracker.log_metrics("a run from before the outage", to_metrics({"step": 1, "loss": 2.0}, 1))


def test_runs_whose_process_is_gone_are_closed_as_killed(settings):
    code = (
        "import sys; from qwenlong_core.config import TrackingSettings; from tasks.tracking import Tracker\n"
        "t = Tracker(TrackingSettings(uri=sys.argv[1], experiment='test'))\n"
        "print(t.start_run('dead', {}, {'prefect.flow_run_id': 'flow-1'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, settings.uri], capture_output=True, text=True, check=True)
    dead = done.stdout.split()[-1]
    tracker = Tracker(settings)
    alive = tracker.start_run("alive", {}, {})
    assert tracker.close_orphans() == ["flow-1"]
    client = client_for(settings)
    assert client.get_run(dead).info.status == "KILLED" and client.get_run(alive).info.status == "RUNNING"


def test_the_forwarding_thread_sees_the_context_of_its_task(tmp_path):
    """Prefect's settings and task run are context variables; a bare thread would not see them."""
    current: ContextVar[str] = ContextVar("current", default="outside")
    current.set("task")
    seen = []
    path = tmp_path / "metrics.jsonl"
    with MetricsForwarder(path, lambda line: seen.append((current.get(), threading.current_thread().name)) or True):
        append(path, {"step": 1})
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
    assert seen == [("task", "metrics-forwarder")]
