"""What runs of the pipeline left in a state folder: processes, locks, temporary files, and runs shown as running."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil

MARK = "QWENLONG_KILLS"
"""Variable with the folder, by which all processes of its runs are found, whatever group they are in."""

_TEMPORARY = ("**/.tmp-*", "**/.probe-*", "**/*.tmp", "artifacts/checkpoint/*", "work/*", "stages/checkpoint-*/*")
"""Below the profile's state."""


def alive(home: Path) -> dict[int, str]:
    """The living processes of a folder's runs, by number, with the end of their commands."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())[-120:]
        except psutil.Error:  # it has just ended, or is the kernel's
            continue
    return found


def alive_after(home: Path, seconds: float) -> dict[int, str]:
    """:func:`alive` once nobody is, or after some seconds."""
    deadline = time.monotonic() + seconds
    while (found := alive(home)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def shown_as_running(home: Path, state: Path) -> list[str]:
    """What MLflow and Prefect show as not ended."""
    mlflow = _rows(state / "mlflow.db", "select name from runs where status not in ('FINISHED', 'FAILED', 'KILLED')")
    open_ = "state_type not in ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
    prefect = home / ".qwenlong/prefect/prefect.db"
    flows = _rows(prefect, f"select name from flow_run where {open_}")
    tasks = _rows(prefect, f"select name from task_run where {open_}")
    named = {"MLflow run": mlflow, "flow run": flows, "task run": tasks}
    return [f"{what} {name}" for what, names in named.items() for name in names]


def _rows(database: Path, query: str) -> list[str]:
    if not database.exists():
        return []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60) as connection:
        return [row[0] for row in connection.execute(query)]


def left(home: Path, state: Path) -> list[str]:
    """Everything that should not be there after a run that ended well."""
    found = [f"process {pid}: {command}" for pid, command in alive_after(home, 30).items()]
    found += [f"held lock {path.relative_to(home)}" for path in home.rglob("*.lock") if _held(path)]
    files = [path for pattern in _TEMPORARY for path in state.glob(pattern)]
    # torch makes a folder for compiled kernels as soon as its compiler is imported, one for all runs of a user.
    files += [path for path in (home / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
    files += (home / ".qwenlong/prefect").rglob("*.lock")
    found += [f"file {path.relative_to(home)}" for path in files]
    return found + shown_as_running(home, state)


def _held(path: Path) -> bool:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def weights(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """SHA-256 of the weight files of every model that a pipeline's result names, by stage."""
    found = {}
    for row in result["stages"]:
        manifest = json.loads((Path(row["uri"].removeprefix("file://")) / "manifest.json").read_text())
        files = {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".safetensors")}
        if files:
            found[row["stage"]] = files
    return found
