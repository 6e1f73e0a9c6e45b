"""A store whose disk is full says so in one line, leaves nothing behind, and works again when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong_core.store.artifacts import DiskFull, describe
from qwenlong_core.store.local import LocalStore


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "test", folder]).returncode:
        pytest.skip("a small disk is mounted by root only")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_with_what_is_needed_and_free(small: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "nested").mkdir(parents=True)
    for name in ("weights", "nested/more"):
        (made / name).write_bytes(os.urandom(3_000_000))
    manifest = describe(made, "model", parents={}, settings_digest="s", code_digest="c")
    store = LocalStore(small / "store")
    with pytest.raises(DiskFull, match=r"store' is full: 0.006 GB are to be stored and 0.004 were free") as error:
        store.publish(made, manifest)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert not [path for path in (small / "store").rglob("*") if path.is_file()]
    subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
    ref = store.publish(made, manifest)
    assert (store.fetch(ref) / "nested/more").read_bytes() == (made / "nested/more").read_bytes()
