"""Step lines: a stage's ``metrics.jsonl``, followed while it grows and turned into MLflow metrics."""

from __future__ import annotations

import contextvars
import hashlib
import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

_POLL_SECONDS = 2.0
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- /]*")
_MAX_NAME, _KEPT = 250, 100
"""Longest name that MLflow takes, and what is kept of a longer one."""


def to_metrics(line: Mapping[str, Any], otherwise_ms: int) -> list[Metric]:
    """The numbers of one line of ``metrics.jsonl`` as MLflow metrics at its step.

    The time is the line's own: MLflow keeps a point once if it comes twice with the same time.

    Args:
        otherwise_ms: time of a line that has none, in milliseconds since 1970; the same at every attempt.
    """
    step = int(line.get("step", 0))
    timestamp_ms = round(line["time"] * 1000) if "time" in line else otherwise_ms
    return [
        Metric(metric_name(key), float(value), timestamp_ms, step)
        for key, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "time")
    ]


def metric_name(key: str) -> str:
    """The key as MLflow takes it; one with other characters, or too long, is made plain and told apart by a digest.

    Keys hold the names of sources, and those come from files.
    """
    name = key.replace("@", "_at_")
    if _PLAIN.fullmatch(name) and len(name) <= _MAX_NAME and posixpath.normpath(name) == name:
        return name
    plain = re.sub(r"[^A-Za-z0-9_/-]+", "_", key).strip("/_")[:_KEPT]
    return f"{posixpath.normpath(plain)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def renamed_metrics(lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The keys of these lines that :func:`metric_name` had to change, by their name in MLflow."""
    keys = dict.fromkeys(key for line in lines for key in line)
    return {name: key for key in keys if (name := metric_name(key)) != key.replace("@", "_at_")}


def score_line(scores: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """A score table as one step line, with a number per row and column: ``{"step": 3, "sft/overall": 0.41}``."""
    numbers = {
        f"{row['stage']}/{column}": value
        for row in scores
        for column, value in row.items()
        if isinstance(value, int | float)
    }
    return {"step": step} | numbers


def read_lines(path: Path) -> tuple[dict[str, Any], ...]:
    """All whole step lines of a file; empty if there is no file.

    A last line without its line break is still being written, and is left out.
    """
    if not path.is_file():
        return ()
    return tuple(json.loads(raw) for raw in path.read_bytes().splitlines(keepends=True) if raw.endswith(b"\n"))


class MetricsForwarder:
    """Follows a growing ``metrics.jsonl`` and hands the line of every new step to ``on_line``.

    A line that ``on_line`` does not return ``True`` for is handed over again, so nothing is lost while the tracker
    is down. Each step goes out once, also when a resumed training cuts the file back to its checkpoint and repeats
    the steps after it.
    """

    def __init__(self, path: Path, on_line: Callable[[dict[str, Any]], bool]) -> None:
        self._path = path
        self._on_line = on_line
        self._last_step = -1
        self._stop = threading.Event()
        # Prefect keeps its settings and the current task run in context variables, which a new thread lacks.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._follow,), name="metrics-forwarder", daemon=True)

    def __enter__(self) -> MetricsForwarder:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.drain()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self.drain()

    def drain(self) -> None:
        """Pass on the line of every step that has not gone out yet."""
        # From the start each time: between two looks a resumed training may cut the file back and append to it,
        # and the file is small, one line a step.
        if not self._path.is_file():
            return
        for raw in self._path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                return
            line = json.loads(raw)
            if line["step"] > self._last_step:
                if not self._on_line(line):
                    return
                self._last_step = line["step"]
