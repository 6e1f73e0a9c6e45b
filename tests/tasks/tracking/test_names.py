"""Names and addresses of the outside world have no power in MLflow; what it refuses is said, and its run is closed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from test_outage import Server

from qwenlong.tasks.tracking.client import Tracker, client_for, flatten
from qwenlong.tasks.tracking.metrics import metric_name
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, put, refused, waiting
from qwenlong.tasks.tracking.runs import REFUSED_TAG, RunNote
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef

NAMES = [
    "held out (v2) 100% @k=1.jsonl",
    "with\nnewline",
    "été 🎉.jsonl",
    "../../up",
    "/absolute//path.json",
    "a" * 600,
    "'; drop table runs; --",
    "plain",
]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def settings(request, tmp_path_factory) -> Iterator[TrackingSettings]:
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "sqlite":
        yield TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db", experiment="names")
        return
    server = Server(folder)
    server.start()
    yield TrackingSettings(uri=server.uri, experiment="names")
    server.kill()


def attached(client: MlflowClient, run_id: str, name: str, folder: Path) -> dict[str, str]:
    return json.loads(Path(client.download_artifacts(run_id, name, str(folder))).read_text())


def the_run(settings: TrackingSettings, note: RunNote) -> Run:
    client = client_for(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`qwenlong.key` = '{note.key}'")
    return run


def test_names_are_values_and_long_values_are_kept_whole(settings, tmp_path):
    digests = {name: f"{i:064x}" for i, name in enumerate(NAMES)}
    long = "x" * 7_000 + "🎉"
    params = {"file_digests": digests, "data": {"train": NAMES}, "long": long}
    tags = {"night": NAMES[0], "words": "w" * 9_000}
    data = ArtifactRef(kind="data", uri=f"file:///{NAMES[0]}", sha256="cd" * 32)
    note = RunNote(name=NAMES[0], params=params, tags=tags, inputs={"data": data})
    run = TrackedRun(Tracker(settings), note, tmp_path)
    line = {"step": 1, "time": 7.0} | {f"sft/{name}": i / 8 for i, name in enumerate(NAMES)}
    assert run.send(line)
    run_id = run.finish("FINISHED", lines=(line,))
    assert not waiting(tmp_path) and not refused(tmp_path)
    found, client = the_run(settings, note), client_for(settings)
    assert found.info.status == "FINISHED" and found.data.tags["night"] == NAMES[0]
    assert set(found.data.params) == {"file_digests", "data.train", "long"}
    assert json.loads(found.data.params["file_digests"]) == digests
    assert attached(client, run_id, "long_parameters.json", tmp_path) == {"long": long}
    assert attached(client, run_id, "long_tags.json", tmp_path) == {"words": tags["words"]}
    names = attached(client, run_id, "metric_names.json", tmp_path)
    told = {names.get(key, key): value for key, value in found.data.metrics.items()}
    assert told == {key: value for key, value in line.items() if key not in ("step", "time")}


def test_metric_names_are_told_apart_and_plain_ones_stay():
    odd = ["a b(1)", "a b[1]", "a b{1}", "a" * 300, "a" * 301, "é", "è", "x/../y", "/x", "x/", "", "."]
    assert len({metric_name(name) for name in odd}) == len(odd)
    plain = ["champion/hotpotqa", "pass@2", "unscored share", "loss"]
    assert [metric_name(name) for name in plain] == ["champion/hotpotqa", "pass_at_2", "unscored share", "loss"]


def test_only_names_of_settings_become_names_of_parameters():
    tree = {"grpo": {"lr": 1}, "files": {"a/b.jsonl": "1"}, "mixed": {"ok": 1, "not ok": {"deep": 2}}}
    assert dict(flatten(tree)) == {
        "grpo.lr": "1",
        "files": '{"a/b.jsonl": "1"}',
        "mixed": '{"ok": 1, "not ok": {"deep": 2}}',
    }


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_refused_run_is_closed_and_said_at_once(settings, tmp_path, status, caplog):
    note = RunNote(name="refused", params={"a\x00?": 1}, tags={})
    run = TrackedRun(Tracker(settings), note, tmp_path)
    run.finish(status)
    (kept,) = refused(tmp_path)
    assert not waiting(tmp_path) and RunNote.model_validate_json(kept.read_text()).key == note.key
    found = the_run(settings, note)
    assert found.info.status == status and "Names may only contain" in found.data.tags[REFUSED_TAG]
    assert "MLflow refused the note of run 'refused'" in caplog.text


def test_sync_names_what_was_refused_until_it_is_gone(settings, tmp_path):
    outbox = tmp_path / "outbox"
    refusing = RunNote(name="bad", params={"a\x00?": 1}, tags={}, status="FINISHED", ended_ms=9, started_ms=1)
    put(outbox, refusing)
    put(outbox, RunNote(name="good", params={}, tags={}, status="FINISHED", ended_ms=9, started_ms=2))
    values = {"tracking.uri": settings.uri, "tracking.experiment": settings.experiment}
    values["storage.runs_dir"] = str(tmp_path / "runs")
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "qwenlong.flows.cli", "sync", "--profile", "smoke", *sets]
    for delivered in (1, 0):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and f"{delivered} runs delivered, 1 refused" in done.stderr, done.stderr
    assert the_run(settings, refusing).info.status == "FINISHED"
    refused(outbox)[0].unlink()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert deliver_outbox(Tracker(settings), outbox) == 0
