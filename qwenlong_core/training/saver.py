"""Checkpoints are written while the training goes on: it waits only until its tensors are copied.

A thread of each process writes and hashes that process's part; the main process's then seals the checkpoint. The
threads agree over a process group of their own, so that they never meet the training's messages.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback

from qwenlong_core.store.files import FileEntry, files_below, list_files
from qwenlong_core.training import shards
from qwenlong_core.training.checkpoints import prune, seal

logger = logging.getLogger(__name__)


class Saver(TrainerCallback):  # type: ignore[misc]
    """Writes one checkpoint at a time.

    A failure is raised at the end of the step in which it is found, on every process.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._group: Any = None

    def start(self, checkpoint: Path, tensors: shards.Tensors, timeout: Any) -> None:
        """Copy ``tensors`` and write them to ``checkpoint`` in the background; every process calls it.

        Args:
            checkpoint: A folder that has its small files already.
            tensors: Weights and optimizer.
            timeout: How long the processes' threads wait for each other, a ``timedelta``.
        """
        self.wait()
        if distributed.is_initialized() and self._group is None:
            self._group = distributed.new_group(backend="gloo", timeout=timeout)
        self._writing = self._thread.submit(self._write, checkpoint, shards.copied(tensors))

    def _write(self, checkpoint: Path, tensors: shards.Tensors) -> None:
        shards.write(tensors, checkpoint, self._group)
        tensors.clear()  # the copy is as large as the training's own share
        files = self._gathered(list_files(checkpoint, own_files(checkpoint, self._rank)))
        if self._rank == 0:
            seal(checkpoint, files)
            prune(checkpoint.parent)

    @property
    def _rank(self) -> int:
        return distributed.get_rank() if distributed.is_initialized() else 0

    def _gathered(self, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        if self._group is None:
            return files
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, files, group=self._group)
        return {name: entry for one in found for name, entry in one.items()}

    def wait(self) -> None:
        """Wait until the checkpoint in hand is sealed.

        Raises:
            OSError: a process could not write its part; raised on all.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise what has stopped the thread."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last checkpoint is sealed before the training says that it is done, or that it was stopped."""
        self.wait()


def own_files(checkpoint: Path, rank: int) -> list[Path]:
    """The files of a checkpoint that a process has written, and hashes: the main process all that bear no number."""
    found = files_below(checkpoint)
    return [path for path in found if writer_of(path.name) == rank]


def writer_of(name: str) -> int:
    """The process that wrote a checkpoint's file."""
    kind, _, rest = name.partition("-")
    if kind == "shard":
        return int(rest.split("-")[0]) - 1
    if name.startswith("random-state-"):
        return int(name.removeprefix("random-state-").removesuffix(".json"))
    return 0
