"""A checkpoint is whole or it does not count."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenlong_core.store.files import MANIFEST, list_files, write_json
from qwenlong_core.training.checkpoints import damage, newest_complete, prune, seal


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "nested").mkdir(parents=True)
    (path / "weights").write_bytes(b"abc")
    (path / "nested" / "state").write_bytes(b"xyz" * step)
    if sealed:
        seal(path, list_files(path))
    return path


def test_the_newest_complete_one_is_found_by_number(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    ten = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, sealed=False)
    checkpoint(tmp_path, 8, sealed=False)
    assert newest_complete(tmp_path) == ten
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "missing") is None
    assert newest_complete(tmp_path) is None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda p: (p / "weights").write_bytes(b"abX"), "weights does not match"),
        (lambda p: (p / "nested" / "state").unlink(), "nested/state is missing"),
        (lambda p: (p / "weights").write_bytes(b"ab"), "weights does not match"),
        (lambda p: (p / MANIFEST).unlink(), "no manifest"),
        (lambda p: (p / MANIFEST).write_text('{"files": {"weights": {"bytes": 3}}}'), "by an earlier version"),
    ],
)
def test_damage_is_named(tmp_path: Path, harm: object, words: str) -> None:
    path = checkpoint(tmp_path, 1)
    assert damage(path) is None
    harm(path)  # type: ignore[operator]
    assert words in str(damage(path))


def test_old_ones_are_pruned(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        checkpoint(tmp_path, step)
    prune(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-6"]


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n "a": 1\n}'
