"""Step lines in TensorBoard and Weights & Biases: each once, grouped by run, and never in the training's way."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong.tasks.tracking import mirrors
from qwenlong.tasks.tracking.mirrors import mirrored, numbers_of, require_mirrors
from qwenlong_core.settings.profiles import load_settings

LINES = [{"step": step, "reward": step / 4, "time": 1.0, "note": "x", "done": True} for step in (1, 2, 3)]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """``make(*names)``: settings with these mirrors, and no key of a person's own."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)

    def make(*names: str):
        return load_settings("smoke", [f"tracking.also={list(names)}", f"storage.runs_dir={tmp_path}/runs"])

    return make


def send(settings, lines=LINES, said=None):
    with mirrored(settings, "run-1", "grpo-1", (said if said is not None else []).append) as write:
        for line in lines:
            write(line)


def test_only_numbers_are_metrics():
    assert numbers_of(LINES[1]) == {"reward": 0.5}


def test_without_mirrors_nothing_is_written(settings, tmp_path):
    send(settings())
    assert not (tmp_path / "runs").exists()


def test_a_name_that_is_none_is_refused(settings):
    with pytest.raises(ValueError, match=r"tracking\.also"):
        settings("neptune")


def test_a_missing_package_is_refused_with_the_command(settings, monkeypatch):
    monkeypatch.setattr("qwenlong.tasks.tracking.mirrors.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        require_mirrors(settings("tensorboard"))


def test_wandb_without_a_key_is_refused_unless_it_is_offline(settings, monkeypatch, tmp_path):
    monkeypatch.setattr("qwenlong.tasks.tracking.mirrors.find_spec", lambda name: name)
    require_mirrors(settings("wandb"))
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(ValueError, match="WANDB_MODE=offline"):
        require_mirrors(settings("wandb"))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    require_mirrors(settings("wandb"))


def test_a_broken_mirror_is_told_once_and_stops_nothing(settings, monkeypatch):
    class Broken:
        def __init__(self, *_):
            self.closed = False

        def write(self, step, numbers):
            raise OSError("the disk is full")

        def close(self):
            raise OSError("still full")

    monkeypatch.setattr("qwenlong.tasks.tracking.mirrors.find_spec", lambda name: name)
    monkeypatch.setitem(mirrors._MAKERS, "tensorboard", Broken)
    said = []
    send(settings("tensorboard"), said=said)
    assert said == ["tensorboard gets no more step lines, MLflow does: OSError: the disk is full"]


def test_tensorboard_has_every_step_once_also_after_a_second_try(settings, tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard: pip install tensorboard"
    )
    send(settings("tensorboard"), [LINES[0], LINES[0], LINES[1]])  # the first came twice, as when MLflow was away
    send(settings("tensorboard"), LINES)
    found = events.EventAccumulator(str(tmp_path / "runs/run-1/tensorboard/grpo-1"))
    found.Reload()
    assert found.Tags()["scalars"] == ["reward"]
    assert [(one.step, one.value) for one in found.Scalars("reward")] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def records(path: Path) -> Iterator[bytes]:
    """The records of a ``.wandb`` file: LevelDB's log, in blocks of 32 KiB, after a head of seven bytes."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline_writes_a_run_that_can_be_synced(settings, tmp_path):
    pytest.importorskip("wandb", reason="no wandb: pip install wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    said: list[str] = []
    send(settings("wandb"), said=said)
    [file] = (tmp_path / "runs/run-1/wandb").glob("offline-run-*/*.wandb")
    found = [Record.FromString(data) for data in records(file)]
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.HasField("history")
    ]
    assert [(row["_step"], row["reward"]) for row in history] == [(1, 0.25), (2, 0.5), (3, 0.75)] and said == []
    [run] = [one.run for one in found if one.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("qwenlong", "run-1", "grpo-1")
