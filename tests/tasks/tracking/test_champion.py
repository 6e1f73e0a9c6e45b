"""The champion moves only if it is still the model that was compared, one move at a time, and can be restored."""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import httpx
import pytest

from qwenlong.tasks.tracking.champion import Move, apply_decision, roll_back
from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import CHAMPION, PREVIOUS, RegisteredVersion, baseline_for, by_alias, register
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.local import LocalStore


@pytest.fixture
def settings(tmp_path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def make(settings: TrackingSettings, tmp_path: Path, number: int) -> RegisteredVersion:
    model = ArtifactRef(kind="model", uri=f"file:///m{number}", sha256=f"{number:064x}")
    evaluation = ArtifactRef(kind="evaluation", uri=f"file:///e{number}", sha256=f"{number + 500:064x}")
    return register(settings, {"model": model, "evaluation": evaluation}, None, tmp_path)


def decision(tmp_path: Path, promote: bool) -> Path:
    folder = tmp_path / f"decision-{promote}"
    folder.mkdir(exist_ok=True)
    (folder / "decision.json").write_text(json.dumps({"promote": promote, "reason": "because"}))
    return folder


def apply(settings, store, version, baseline, tmp_path, promote=True, fresh=False) -> str:
    return apply_decision(
        settings, store, version, baseline, decision(tmp_path, promote), fresh=fresh, runs="pipeline p1, MLflow run m1"
    )


def tags(settings, version) -> dict[str, str]:
    return client_for(settings).get_model_version(version.name, version.version).tags


def test_a_refusal_moves_nothing_and_a_promotion_keeps_the_previous_champion(settings, store, tmp_path):
    first, second = make(settings, tmp_path, 1), make(settings, tmp_path, 2)
    assert "not promoted, there is no champion" in apply(settings, store, first, None, tmp_path, promote=False)
    assert by_alias(settings, CHAMPION) is None
    assert "promoted" in apply(settings, store, first, None, tmp_path)
    assert baseline_for(settings, first) is None and baseline_for(settings, second) == first
    assert "promoted" in apply(settings, store, second, first, tmp_path)
    assert by_alias(settings, CHAMPION) == second and by_alias(settings, PREVIOUS) == first
    assert apply(settings, store, second, first, tmp_path) == "version 2 is champion"
    assert by_alias(settings, PREVIOUS) == first


def test_tags_say_why_when_by_whom_and_from_which_runs(settings, store, tmp_path):
    first, second = make(settings, tmp_path, 1), make(settings, tmp_path, 2)
    apply(settings, store, first, None, tmp_path)
    apply(settings, store, second, first, tmp_path, promote=False)
    said = tags(settings, first)
    assert (said["champion.reason"], said["champion.over"], said["champion.runs"]) == (
        "because",
        "none",
        "pipeline p1, MLflow run m1",
    )
    assert said["champion.since"].startswith("20") and "@" in said["champion.by"]
    assert "not promoted, champion stays version 1: because" in tags(settings, second)["promotion.outcome"]


def test_a_decision_against_an_older_champion_is_void(settings, store, tmp_path):
    first, second, third = (make(settings, tmp_path, number) for number in (1, 2, 3))
    apply(settings, store, first, None, tmp_path)
    assert "promoted" in apply(settings, store, second, first, tmp_path)
    said = apply(settings, store, third, first, tmp_path)
    assert "the champion has changed meanwhile (it is version 2)" in said
    assert by_alias(settings, CHAMPION) == second


def test_a_rollback_brings_the_previous_champion_back_once(settings, store, tmp_path):
    first, second = make(settings, tmp_path, 1), make(settings, tmp_path, 2)
    with pytest.raises(ValueError, match="no champion"):
        roll_back(settings, store, "never was one")
    apply(settings, store, first, None, tmp_path)
    with pytest.raises(ValueError, match="version 1 is the first"):
        roll_back(settings, store, "too early")
    apply(settings, store, second, first, tmp_path)
    assert (
        "version 1 was restored by a rollback from version 2" in roll_back(settings, store, "answers in French").words
    )
    assert by_alias(settings, CHAMPION) == first and by_alias(settings, PREVIOUS) is None
    said = tags(settings, second)
    assert (said["rollback.reason"], said["rollback.to"]) == ("answers in French", "1") and said["rollback.at"]
    with pytest.raises(ValueError, match="rolled back already"):
        roll_back(settings, store, "once more")
    assert by_alias(settings, CHAMPION) == first


def test_only_a_fresh_decision_undoes_a_rollback(settings, store, tmp_path):
    first, second = make(settings, tmp_path, 1), make(settings, tmp_path, 2)
    apply(settings, store, first, None, tmp_path)
    apply(settings, store, second, first, tmp_path)
    roll_back(settings, store, "answers in French")
    said = apply(settings, store, second, first, tmp_path)
    assert (
        "not promoted: it was rolled back at" in said
        and "answers in French" in said
        and "refresh the pipeline's stage `promote`" in said
    )
    assert by_alias(settings, CHAMPION) == first
    assert "promoted" in apply(settings, store, second, first, tmp_path, fresh=True)
    assert by_alias(settings, CHAMPION) == second and by_alias(settings, PREVIOUS) == first
    roll_back(settings, store, "still French")
    assert "it was rolled back" in apply(settings, store, second, first, tmp_path)


def test_a_move_whose_writer_was_killed_is_carried_out_by_the_next(settings, store, tmp_path):
    first, second, third = (make(settings, tmp_path, number) for number in (1, 2, 3))
    apply(settings, store, first, None, tmp_path)
    born = client_for(settings).get_registered_model("qwenlong").creation_timestamp
    move = Move(kind="promotion", leaving="1", version="2", reason="because", at="2026-01-01T00:00:00+00:00")
    store.claim(f"champion/qwenlong-{born}/2", move.model_dump_json())  # and then kill -9
    assert "version 2 was promoted at" in apply(settings, store, third, first, tmp_path)
    assert by_alias(settings, CHAMPION) == second and by_alias(settings, PREVIOUS) == first
    assert "promoted" in apply(settings, store, third, second, tmp_path)


def test_a_move_that_was_cut_short_at_its_last_step_does_not_stop_the_next(settings, store, tmp_path, monkeypatch):
    monkeypatch.setattr("qwenlong.tasks.tracking.champion._GRACE_SECONDS", 0.0)
    first, second, third = (make(settings, tmp_path, number) for number in (1, 2, 3))
    apply(settings, store, first, None, tmp_path)
    apply(settings, store, second, first, tmp_path)
    client_for(settings).set_registered_model_tag("qwenlong", "champion.moves", "1")
    assert "promoted" in apply(settings, store, third, second, tmp_path)
    assert by_alias(settings, CHAMPION) == third and by_alias(settings, PREVIOUS) == second


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def registry(request, tmp_path) -> str:
    """Address of a registry that two processes can use at once."""
    return request.getfixturevalue("server") if request.param == "server" else f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "2"], cwd=home)
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success:
                    break
            except httpx.HTTPError:
                assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def promote_at(uri: str, root: Path, folder: Path, version: str, baseline: str | None, start: float) -> str:
    settings = TrackingSettings(uri=uri)
    challenger, champion = (
        RegisteredVersion.model_validate_json(text) if text else None for text in (version, baseline)
    )
    time.sleep(max(0.0, start - time.time()))
    return apply_decision(settings, LocalStore(root), challenger, champion, folder, fresh=True, runs="race")


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(registry, tmp_path):
    """Two processes, released at the same moment, several times over."""
    settings, baseline = TrackingSettings(uri=registry), None
    folder = decision(tmp_path, True)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number in range(5):
            pair = [make(settings, tmp_path, 2 * number + side) for side in (1, 2)]
            said, start = [], time.time() + (10 if number == 0 else 0.5)
            champion = baseline.model_dump_json() if baseline else None
            tasks = [
                pool.submit(promote_at, registry, tmp_path / "store", folder, v.model_dump_json(), champion, start)
                for v in pair
            ]
            said = [task.result() for task in tasks]
            [winner] = [index for index, text in enumerate(said) if "promoted to champion" in text]
            loser = said[1 - winner]
            assert (
                "not promoted: the champion has changed meanwhile" in loser
                and f"version {pair[winner].version}" in loser
            )
            assert by_alias(settings, CHAMPION) == pair[winner]
            assert by_alias(settings, PREVIOUS) == baseline
            baseline = pair[winner]
