"""Checkpoints that are whole or do not count, and the state that makes a resumed run exact.

A checkpoint folder counts once it has a ``manifest.json`` that lists every file with its size and SHA-256
(:class:`qwenlong_core.store.files.Seal`). The manifest is written last, under a temporary name, and renamed. No file is
a pickle: weights and optimizer are safetensors, everything else is JSON (:mod:`state_files`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from qwenlong_core.store.files import (
    MANIFEST,
    Seal,
    differences,
    files_below,
    list_files,
    read_seal,
    write_json,
    write_whole,
)
from qwenlong_core.training import state_files

logger = logging.getLogger(__name__)

STATE = "qwenlong_state.json"
KEEP = 2
"""Complete checkpoints that are kept. The older one is there in case the newest is damaged."""


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint complete: flush its files to the disk and write the manifest."""
    # In this order: after a power cut there must be no manifest of files whose bytes were lost.
    for path in files_below(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_whole(checkpoint / MANIFEST, Seal(files=list_files(checkpoint)).model_dump_json(indent=1))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or ``None`` if it is whole."""
    try:
        sealed = read_seal(checkpoint)
    except FileNotFoundError:
        return "it has no manifest, so it was never finished"
    except ValueError:
        return "its manifest cannot be read: it is damaged, or was written by an earlier version"
    return next((f"{name} {what}" for name, what in differences(checkpoint, sealed.files)), None)


def _by_step(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def newest_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint, or ``None``. It changes nothing, so every process may call it."""
    return next((p for p in reversed(_by_step(folder)) if damage(p) is None), None)


def delete_partial(folder: Path) -> None:
    """Delete damaged and unfinished checkpoints, and log why. One process calls it, before the training starts."""
    for checkpoint in _by_step(folder):
        reason = damage(checkpoint)
        if reason is not None:
            logger.warning("deleting %s: %s", checkpoint.name, reason)
            shutil.rmtree(checkpoint)


def prune(folder: Path) -> None:
    """Delete all checkpoints but the newest ``KEEP``."""
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
