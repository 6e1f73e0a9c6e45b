"""Checkpoints written in the background: what is copied, what is sealed, and what a failure does."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from training_jobs import whole_state

from qwenlong_core.store.files import MANIFEST, list_files, read_seal
from qwenlong_core.training.checkpoints import damage
from qwenlong_core.training.saver import Saver, own_files, writer_of

HOUR = timedelta(hours=1)


def folder_of(tmp_path: Path, step: int = 1) -> Path:
    folder = tmp_path / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    (folder / "random-state-0.json").write_text("{}")
    return folder


def test_what_changes_after_the_start_is_not_written(tmp_path: Path) -> None:
    folder, weight = folder_of(tmp_path), torch.arange(4.0)
    saver = Saver()
    saver.start(folder, {"weights/a": weight}, HOUR)
    weight.fill_(-1)
    saver.wait()
    assert whole_state(folder)["weights/a"].tolist() == [0, 1, 2, 3]
    assert damage(folder) is None
    assert read_seal(folder).files == list_files(folder), "every file is in the seal"


def test_the_older_ones_go_when_a_new_one_is_sealed(tmp_path: Path) -> None:
    saver = Saver()
    for step in (1, 2, 3):
        saver.start(folder_of(tmp_path, step), {"weights/a": torch.ones(1)}, HOUR)
    saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """The disk refuses files over 1 MB, with an error as a full one gives."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_refuses_ends_the_step_and_leaves_no_seal(tmp_path: Path, small_files_only: None) -> None:
    folder, saver = folder_of(tmp_path), Saver()
    saver.start(folder, {"weights/a": torch.zeros(1_000_000)}, HOUR)
    with pytest.raises(OSError) as raised:
        while True:
            saver.on_step_end(None, None, None)
    assert raised.value.errno == errno.EFBIG
    assert not (folder / MANIFEST).exists()
    saver.wait()  # said once
    small = folder_of(tmp_path, 2)
    saver.start(small, {"weights/a": torch.zeros(10)}, HOUR)
    saver.on_train_end(None, None, None)
    assert damage(small) is None


def test_every_file_has_one_writer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for name in ("shard-00001-model-00001-of-00001.safetensors", "shard-00012-model-00001-of-00001.safetensors",
                 "random-state-11.json", "optimizer.json", MANIFEST):  # fmt: skip
        (folder / name).write_text("")
    names = {rank: {path.name for path in own_files(folder, rank)} for rank in range(12)}
    assert sum(map(len, names.values())) == len(os.listdir(folder)) - 1
    assert names[11] == {"shard-00012-model-00001-of-00001.safetensors", "random-state-11.json"}
    assert {"optimizer.json", "trainer_state.json", "random-state-0.json"} < names[0]
    assert writer_of("shard-00012-model-00001-of-00001.safetensors") == 11
