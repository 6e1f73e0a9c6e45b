"""``qwenlong runs`` on a real MLflow database, and what every command that asks MLflow says while it is away."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.running import TrackingSettings

MINUTE = 60_000
NOON = 1_790_000_000_000


def call(tmp_path: Path, *words: str) -> tuple[int, str]:
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    result = CliRunner().invoke(app, ["runs", *words, "--set", uri], env={"TZ": "UTC"})
    return result.exit_code, result.stdout


def tracked(tmp_path: Path, name: str, began: int, parent: str | None = None) -> TrackedRun:
    tracker = Tracker(TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    note = RunNote(key=name, name=name, params={}, tags={}, parent=parent, started_ms=began)
    run = TrackedRun(tracker, note, tmp_path / "outbox")
    run.run_id()
    return run


def test_the_newest_come_first_with_scores_and_outcome(tmp_path: Path) -> None:
    first = tracked(tmp_path, "local one", NOON)
    stage = tracked(tmp_path, "sft", NOON + 1, parent="local one")
    stage.finish("FINISHED")
    scores = {"grpo-10/overall": 0.5, "sft/overall": 0.25, "grpo-2/overall": 0.375, "base/overall": 0.125}
    words = "version 1 promoted: every condition holds\n\n[This run in Prefect](http://p)"
    first.send({"step": 0, **scores})
    first.finish("FINISHED", tags={"mlflow.note.content": words})
    tracked(tmp_path, "local two", NOON + MINUTE).finish("FAILED", tags={"mlflow.note.content": "Failed: no disk"})
    tracked(tmp_path, "local three", NOON + 2 * MINUTE)

    code, out = call(tmp_path, "--json")
    listed = json.loads(out)
    assert code == 0
    assert [(one["name"], one["status"]) for one in listed] == [
        ("local three", "RUNNING"),
        ("local two", "FAILED"),
        ("local one", "FINISHED"),
    ]
    assert [*listed[2]["scores"]] == ["base", "sft", "grpo-2", "grpo-10"]
    assert listed[2]["outcome"] == "version 1 promoted: every condition holds"
    assert listed[2]["began"] == "2026-09-21T14:13:20+00:00" and listed[0]["seconds"] is None

    code, out = call(tmp_path, "-n", "2")
    assert "local two" in out and "Failed: no disk" in out and "local one" not in out
    assert "0.12 to 0.50" in call(tmp_path)[1]


def test_looking_makes_no_database(tmp_path: Path) -> None:
    code, out = call(tmp_path, "--profile", "smoke")
    assert code == 0 and "start one with `qwenlong run --profile smoke`" in out
    assert json.loads(call(tmp_path, "--json")[1]) == []
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["runs"],
        ["compare", "models:/qwenlong/1", "models:/qwenlong@champion"],
        ["artifacts", "show", "models:/qwenlong@champion"],
        ["artifacts", "gc"],
    ],
)
def test_a_server_that_is_away_is_said_in_one_line(tmp_path: Path, words: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        given = ["--set", f"tracking.uri={uri}", "--set", f"storage.uri={tmp_path}/store"]
        result = CliRunner().invoke(app, [*words, *given])
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1 and "Is the server of tracking.uri up?" in result.stderr
    assert uri in result.stderr and "Traceback" not in result.stderr
