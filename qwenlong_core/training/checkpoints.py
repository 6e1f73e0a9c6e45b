"""Checkpoints that are either whole or ignored, and the optimizer's state from one phase to the next.

A checkpoint counts only once its ``manifest.json`` lists every file with size and SHA-256. The manifest
is written last, under a temporary name, and renamed. No file is a pickle: weights and optimizer are
safetensors (:mod:`shards`), everything else is JSON (:mod:`state_files`).

:mod:`hooks` writes them, :mod:`saver` seals them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from qwenlong_core.store.files import (
    MANIFEST,
    Files,
    Seal,
    differences,
    files_below,
    read_seal,
    write_whole,
)
from qwenlong_core.training import shards
from qwenlong_core.training.output import CARRIED

logger = logging.getLogger(__name__)

STATE = "qwenlong_state.json"
KEEP = 2
"""Complete checkpoints kept; a run falls back to the older one if the newest is damaged."""


def seal(checkpoint: Path, files: Files) -> None:
    """Declare a checkpoint complete: flush its files to the disk and write the manifest that lists them."""
    # In this order: after a power cut there must be no manifest of files whose bytes were lost.
    for path in files_below(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_whole(checkpoint / MANIFEST, Seal(files=files).model_dump_json(indent=1))


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
    """The newest whole checkpoint, or ``None``. One process calls it, before the training starts.

    Deletes damaged checkpoints down to it and all that were never finished, and logs why. Older ones are not read:
    that takes minutes for a large model.
    """
    newest = None
    for checkpoint in reversed(_by_step(folder)):
        reason = damage(checkpoint) if newest is None or not (checkpoint / MANIFEST).exists() else None
        if reason is not None:
            logger.warning("deleting %s: %s", checkpoint.name, reason)
            shutil.rmtree(checkpoint)
        newest = newest or (None if reason else checkpoint)
    return newest


def prune(folder: Path) -> None:
    """Delete all checkpoints but the newest ``KEEP``."""
    for checkpoint in _by_step(folder)[:-KEEP]:
        shutil.rmtree(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state that the trainer's hook saves beside the trainer's."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    return state


def random_state_file(trainer: Any, checkpoint: str) -> Path:
    """The file of this process's random state."""
    return Path(checkpoint) / f"random-state-{trainer.args.process_index}.json"


class CarriedOptimizer(TrainerCallback):  # type: ignore[misc]
    """Starts a phase with the optimizer's state that the phase before left in its policy folder.

    Args:
        trainer: The phase's trainer.
        policy: The policy folder that the phase starts from.

    Raises:
        ValueError: the folder holds no optimizer state.
    """

    def __init__(self, trainer: Any, policy: Path) -> None:
        self.trainer, self.folder = trainer, policy / CARRIED
        if not self.folder.exists():
            raise ValueError(
                f"{self.folder} is missing, but grpo.optimizer_across_phases='carried': train the phase before with the"
                " same setting, or set it to 'fresh'"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the state before the first update. A resumed phase has it from its own checkpoint."""
        if state.global_step == 0:
            groups = self.trainer.optimizer.param_groups
            options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
            shards.read_optimizer(self.trainer.model_wrapped, self.trainer.optimizer, self.folder)
            # Loading also sets the learning rate and the like, which are those of this phase's settings.
            for group, own in zip(self.trainer.optimizer.param_groups, options, strict=True):
                group.update(own)
