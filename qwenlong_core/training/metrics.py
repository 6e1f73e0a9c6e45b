"""``metrics.jsonl``: one line per step; a resumed run first removes the lines after its checkpoint."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class JsonLines:
    """An append-only JSONL file whose rows carry a ``step``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row and sync it to the disk."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            # A checkpoint must never survive a crash that its metrics did not.
            os.fsync(file.fileno())

    def cut_back(self, step: int) -> None:
        """Remove the rows after ``step``, and a last line that a killed process left incomplete."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines(keepends=True):
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(kept))
        # Renaming is atomic: a kill leaves the old or the new file, never a part.
        os.replace(temporary, self.path)


def peak_memory_mb() -> float:
    """Peak memory of this process in MiB: of the GPU if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Linux counts ru_maxrss in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def duration(seconds: float) -> str:
    """``41 s``, ``1m22s`` or ``3h05m``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def finite(value: Any) -> Any:
    """``None`` for NaN and infinity, which JSON cannot represent."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Writes a row and a log line per step, on the main process.

    Args:
        lines: File that the rows go to.
        name: Name of the stage, such as ``grpo-2``.
        updates: Optimizer steps per step.
        row: Makes the stage's own fields from the trainer's log dictionary and the step. The field ``tokens`` becomes
            tokens per second.
        sentence: Makes the middle of the log line from the row.
    """

    def __init__(
        self,
        lines: JsonLines,
        name: str,
        updates: int,
        row: Callable[[dict[str, Any], int], dict[str, Any]],
        sentence: Callable[[dict[str, Any]], str],
    ) -> None:
        self.lines, self.name, self.updates = lines, name, updates
        self.row, self.sentence = row, sentence
        self._started = self._last = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._started = self._last = time.perf_counter()
        self._first_step = state.global_step // self.updates

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """Write the row of a step; the trainer's closing summary, which has no loss, gives none."""
        if not state.is_world_process_zero or "loss" not in logs:
            return
        now = time.perf_counter()
        step, total = state.global_step // self.updates, state.max_steps // self.updates
        row = {"step": step, "total_steps": total} | self.row(logs, step)
        tokens = row.pop("tokens", 0)
        seconds = now - self._last
        row |= {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 2),
            "memory_mb": round(peak_memory_mb(), 1),
            "time": round(time.time(), 3),
        }
        self.lines.append({key: finite(value) for key, value in row.items()})
        left = (now - self._started) / (step - self._first_step) * (total - step)
        logger.info(
            "%s step %d/%d | %s | %s | %s left",
            self.name,
            step,
            total,
            self.sentence(row),
            duration(seconds),
            duration(left),
        )
        self._last = now
