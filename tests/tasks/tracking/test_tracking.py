"""MLflow: each metric arrives once and in order, an outage loses nothing, and dead runs are closed."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from qwenlong.tasks.tracking.client import Tracker, client_for, flatten, has_ended
from qwenlong.tasks.tracking.metrics import MetricsForwarder, to_metrics
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, put, waiting
from qwenlong.tasks.tracking.runs import RunNote, Runs
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef

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
    assert {(m.key, m.value, m.step) for m in metrics} == {
        ("total_steps", 9, 7),
        ("reward", 0.5, 7),
        ("pass_at_2", 1, 7),
    }


def test_nested_settings_become_dotted_parameters():
    assert dict(flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1]})) == {"a.b": "1", "a.c.d": "None", "e": "[1]"}


def note(**told) -> RunNote:
    return RunNote(**{"name": "sft", "params": {}, "tags": {}, **told})


def test_a_stage_run_holds_params_inputs_metrics_and_a_model_that_points_at_the_artifact(settings, tmp_path):
    tracker = Tracker(settings)
    parent = TrackedRun(tracker, note(name="pipeline", key="p1"), tmp_path)
    parent.run_id()
    told = note(params={"sft": {"epochs": 3}}, parent="p1", inputs={"data": DATA, "model": MODEL})
    child = TrackedRun(tracker, told, tmp_path)
    lines = ({"step": 1, "loss": 2.0, "time": 1.0}, {"step": 2, "loss": 1.0, "time": 2.0})
    assert all(child.send(line) for line in lines)
    run_id = child.finish("FINISHED", lines=lines, output=MODEL, tags={"cached.base": "x"})
    run = client_for(settings).get_run(run_id)
    assert (
        run.info.status == "FINISHED" and run.data.params == {"sft.epochs": "3"} and run.data.tags["cached.base"] == "x"
    )
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id() and run.data.tags["artifact.sha256"] == MODEL.sha256
    words = run.data.tags["mlflow.note.content"]
    assert MODEL.sha256 in words and max(map(len, words.split())) < 70, "an address would be wider than the page"
    assert run.data.tags["artifact.uri"] == MODEL.uri
    assert run.inputs.dataset_inputs[0].dataset.digest == DATA.sha256[:36]
    history = client_for(settings).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    model = client_for(settings).get_logged_model(run.data.tags["logged_model"])
    assert model.tags["artifact.uri"] == MODEL.uri and model.source_run_id == run_id
    assert not waiting(tmp_path)


def test_a_page_is_one_of_training_and_the_experiment_says_what_it_holds(settings):
    tracker = Tracker(settings)
    assert (
        tracker.page("r1")
        == f"http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}/runs/r1?workflowType=machine_learning"
    )
    assert (
        "its stages nested below"
        in client_for(settings).get_experiment(tracker.experiment_id).tags["mlflow.note.content"]
    )


def test_delivering_a_note_again_changes_nothing(settings):
    runs, client = Runs(Tracker(settings)), client_for(settings)
    told = note(
        params={"a": 1},
        inputs={"data": DATA},
        lines=({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "time": 7.5}),
        output=MODEL,
        status="FINISHED",
        ended_ms=99,
        texts={"a.txt": "text"},
    )
    assert runs.deliver(told) == runs.deliver(told)
    run = runs.find(told.key)
    run_id = run.info.run_id
    assert len(client.get_metric_history(run_id, "loss")) == 2 and len(run.inputs.dataset_inputs) == 1
    assert len(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")) == 1
    assert len(client.search_runs([run.info.experiment_id], f"tags.`qwenlong.key` = '{told.key}'")) == 1


def test_a_child_that_arrives_before_its_parent_is_linked_when_that_comes(settings):
    runs = Runs(Tracker(settings))
    child = runs.open(note(parent="late"))
    parent = runs.open(note(key="late"))
    assert client_for(settings).get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_a_run_that_a_hanging_server_made_late_is_taken_away(settings):
    tracker, told = Tracker(settings), note(lines=({"step": 1, "loss": 2.0},), status="FINISHED", ended_ms=99)
    runs, client = Runs(tracker), client_for(settings)
    run_id = runs.open(told)
    late = client.create_run(
        tracker.experiment_id, start_time=told.started_ms + 1, tags={"qwenlong.key": told.key}
    ).info.run_id
    runs.finish(run_id, told)
    assert runs.find(told.key).info.run_id == run_id and client.get_run(late).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("bad", ["refused by MLflow", "cut short", "of another version"])
def test_a_note_that_cannot_be_delivered_holds_up_no_other(settings, tmp_path, bad):
    path = put(
        tmp_path, note(params={"a\x00?" if bad == "refused by MLflow" else "a": 1}, status="FINISHED", started_ms=1)
    )
    if bad == "cut short":
        path.write_text(path.read_text()[:20])
    elif bad == "of another version":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"renamed": 1}))
    put(tmp_path, note(status="FINISHED", started_ms=2))
    assert deliver_outbox(Tracker(settings), tmp_path) == 1
    assert not waiting(tmp_path) and path.with_suffix(".refused").is_file()


@pytest.fixture
def hanging_up() -> Iterator[tuple[int, list[int]]]:
    """A port that accepts every connection and drops it, and a list with one entry for each."""
    calls: list[int] = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], calls
        server.shutdown()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{}", "postgresql+psycopg2://qwenlong@127.0.0.1:{}/mlflow"])
def test_a_tracker_that_is_down_stops_nothing_and_is_left_alone_for_a_while(tmp_path, monkeypatch, hanging_up, uri):
    if uri.startswith("postgresql"):
        pytest.importorskip("psycopg2", reason="no Postgres driver: pip install psycopg2-binary")
    port, calls = hanging_up
    monkeypatch.setattr("qwenlong.tasks.tracking.client._AWAY_SECONDS", 3600.0)
    tracker = Tracker(TrackingSettings(uri=uri.format(port)))
    run = TrackedRun(tracker, note(), tmp_path)
    assert run.run_id() is None and not run.send({"step": 1, "loss": 2.0})
    assert tracker.page("a run from before the outage") is None and tracker.close_orphans() == []
    assert run.finish("FINISHED", lines=({"step": 1, "loss": 2.0},), output=MODEL) is None
    asked = len(calls)
    # A Postgres client that is refused tries again without encryption: up to two connections for one call.
    assert 1 <= asked <= 2
    assert deliver_outbox(tracker, tmp_path) == 0 and len(calls) == 2 * asked
    [kept] = waiting(tmp_path)
    assert RunNote.model_validate_json(kept.read_text()).output == MODEL


def test_runs_whose_process_is_gone_are_closed_as_killed(settings):
    code = (
        "import sys; from pathlib import Path; from qwenlong_core.settings.running import TrackingSettings\n"
        "from qwenlong.tasks.tracking.client import Tracker; from qwenlong.tasks.tracking.outbox import TrackedRun\n"
        "from qwenlong.tasks.tracking.runs import RunNote\n"
        "t = Tracker(TrackingSettings(uri=sys.argv[1], experiment='test'))\n"
        "n = RunNote(name='dead', params={}, tags={'prefect.flow_run_id': 'flow-1'})\n"
        "print(TrackedRun(t, n, Path('none')).run_id())"
    )
    done = subprocess.run([sys.executable, "-c", code, settings.uri], capture_output=True, text=True, check=True)
    dead = done.stdout.split()[-1]
    tracker = Tracker(settings)
    alive = TrackedRun(tracker, note(), Path("none")).run_id()
    assert tracker.close_orphans() == ["flow-1"]
    client = client_for(settings)
    assert client.get_run(dead).info.status == "KILLED" and client.get_run(alive).info.status == "RUNNING"


def test_a_number_that_another_process_has_now_is_no_sign_of_life():
    now = time.time()
    assert not has_ended(os.getpid(), now)
    assert has_ended(os.getpid(), now - 30 * 86400), "this process is younger"
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert has_ended(ended.pid, now)


def test_runs_that_a_dead_host_left_are_closed_by_who_finished_the_stage(settings):
    tracker, client = Tracker(settings), client_for(settings)
    left, other, mine = (
        TrackedRun(tracker, RunNote(name=name, params={}, tags={"fingerprint": key}), Path("none")).run_id()
        for name, key in (("left", "a" * 64), ("another stage", "b" * 64), ("mine", "a" * 64))
    )
    tracker.close_superseded("a" * 64, mine)
    states = [client.get_run(run).info.status for run in (left, other, mine)]
    assert states == ["KILLED", "RUNNING", "RUNNING"]


def test_the_forwarding_thread_sees_the_context_of_its_task(tmp_path):
    """Prefect's settings and task run are context variables, which a plain thread would not see."""
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
