"""Checkpoints that are whole or not there, and the state that makes a resumed run exact.

A checkpoint folder counts only once its ``manifest.json`` lists every file with size and SHA-256.
The manifest is written last, under a temporary name, and renamed. Nothing in it is a pickle: weights and
optimizer are safetensors, all else JSON (:mod:`state_files`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from qwenlong_core.training import state_files

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "qwenlong_state.json"
KEEP = 2
"""Complete checkpoints kept; the older one is the way back if the newest turns out damaged."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST)


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint complete: flush its files and write the manifest."""
    entries = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        entries[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    write_json(checkpoint / MANIFEST, {"files": entries})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or ``None`` if it is whole."""
    if not (checkpoint / MANIFEST).exists():
        return "it has no manifest, so it was never finished"
    entries = json.loads((checkpoint / MANIFEST).read_text())["files"]
    for name, entry in entries.items():
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"] or _digest(path) != entry["sha256"]:
            return f"{name} does not match the manifest"
    return None


def _by_step(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def newest_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint. Changes nothing, so every process may ask."""
    return next((p for p in reversed(_by_step(folder)) if damage(p) is None), None)


def delete_partial(folder: Path) -> None:
    """Delete what is damaged or unfinished, saying why."""
    for checkpoint in _by_step(folder):
        reason = damage(checkpoint)
        if reason is not None:
            logger.warning("deleting %s: %s", checkpoint.name, reason)
            shutil.rmtree(checkpoint)


def prune(folder: Path) -> None:
    """Keep the newest ``KEEP`` checkpoints."""
    for checkpoint in _by_step(folder)[:-KEEP]:
        shutil.rmtree(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The project's own state saved beside the trainer's."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    return state


class SealedCheckpoints:
    """Mixin for a transformers ``Trainer``: its checkpoints hold no pickle, have own state, and are sealed."""

    args: Any
    state: Any
    accelerator: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    is_fsdp_enabled: bool

    def own_state(self) -> dict[str, Any]:
        """JSON state to save; the same on every process."""
        return {}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: checkpoints are not published, and TRL's card would be written outside the seal."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder = Path(self.args.output_dir)
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            (checkpoint / "training_args.bin").unlink()  # a pickle; the stage's job says the same
            write_json(checkpoint / STATE, self.own_state())
            seal(checkpoint)
            prune(folder)
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state_files.save_optimizer(self.model_wrapped, self.optimizer, Path(output_dir))
        if self.accelerator.is_main_process:
            state_files.save_scheduler(self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state_files.load_optimizer(self.model_wrapped, self.optimizer, Path(checkpoint))
            state_files.load_scheduler(self.lr_scheduler, Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            state_files.load_weights(model or self.model_wrapped, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _save_rng_state(self, output_dir: str) -> None:
        state_files.save_random_state(self._random_state_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state_files.load_random_state(self._random_state_file(checkpoint))

    def _random_state_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"random-state-{self.args.process_index}.json"
