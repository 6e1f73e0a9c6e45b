"""What a killed writer left in a store goes at the next run; what a living one is writing stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.staging import staging

KILLED = """
import os, signal, sys
from pathlib import Path
from qwenlong_core.store.staging import staging
root = Path(sys.argv[1])
with (
    staging(root / "artifacts/model/abc", folder=True) as folder,
    staging(root / "stages/sft/key.json"),
    staging(root / "claims/night"),
):
    (folder / "deep").mkdir()
    (folder / "deep/weights").write_text("half")
    (root / ".probe-1").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_next_check_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL and len(files(tmp_path)) == 4
    kept = tmp_path / "artifacts/model/.bad-1/weights"
    kept.parent.mkdir()
    kept.touch()
    with (
        staging(tmp_path / "artifacts/model/def", folder=True) as alive,
        staging(tmp_path / "stages/sft/other.json") as record,
    ):
        (alive / "weights").touch()
        LocalStore(tmp_path).check()
        assert files(tmp_path) == {str(path.relative_to(tmp_path)) for path in (kept, alive / "weights", record)}
    assert files(tmp_path) == {str(kept.relative_to(tmp_path))}, "nothing of an unfinished block stays"


def test_what_was_renamed_stays_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    with staging(tmp_path / "a/b", folder=True) as folder:
        (folder / "weights").touch()
        folder.rename(tmp_path / "a/b")
    with pytest.raises(OSError, match="full"), staging(tmp_path / "a/c", folder=True) as folder:
        (folder / "weights").touch()
        raise OSError("full")
    assert files(tmp_path) == {"a/b/weights"} and [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
