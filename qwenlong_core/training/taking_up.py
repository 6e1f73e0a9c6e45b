"""Taking up a work folder: one training at a time, and all its processes go on from the same checkpoint.

The processes may run on several machines, which must share the folder.
"""

from __future__ import annotations

import fcntl
import json
import logging
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from qwenlong_core.store.files import MANIFEST, digest_file, write_json
from qwenlong_core.training.checkpoints import newest_complete

logger = logging.getLogger(__name__)

CHECKPOINTS, _TOLD, _LOCK = "checkpoints", "taken_up.json", "training.lock"


@contextmanager
def taken_up(work: Path, state: PartialState) -> Iterator[Path | None]:
    """Hold the work folder; yields the checkpoint to go on from, or ``None``. Every process calls it.

    The main process alone reads and checks the checkpoints, which takes minutes for large ones. It tells the others
    the name and the digest of the manifest.

    Raises:
        ValueError: a process does not see the main process's folder.
    """
    if not state.is_main_process:
        yield _agree(None, work, state)
        return
    with (work / _LOCK).open("w") as lock:
        # A launcher that was killed may have left a training on another machine, which the pipeline does not see.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another training is at work in %s: waiting for its end", work)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield _agree(_tell(work), work, state)


def _tell(work: Path) -> dict[str, Any]:
    """What the main process found, also written to the folder so that the others can see that it is theirs."""
    checkpoint = newest_complete(work / CHECKPOINTS)
    told = {
        "host": socket.gethostname(),
        "folder": str(work.absolute()),
        "start": uuid.uuid4().hex,
        "checkpoint": checkpoint.name if checkpoint else None,
        "manifest": digest_file(checkpoint / MANIFEST) if checkpoint else None,
    }
    write_json(work / _TOLD, told)
    return told


def _agree(told: dict[str, Any] | None, work: Path, state: PartialState) -> Path | None:
    [told] = broadcast_object_list([told])
    assert told is not None  # by the main process
    # Refused by all: the main process writes the reason where the pipeline reads it.
    for obstacle in filter(None, gather_object([_unseen(told, work, state.process_index)])):
        raise ValueError(obstacle)
    return work / CHECKPOINTS / told["checkpoint"] if told["checkpoint"] else None


def _unseen(told: dict[str, Any], work: Path, process: int) -> str | None:
    """What is wrong if this process does not see what the main process told."""
    try:
        seen = json.loads((work / _TOLD).read_text()) == told
        if seen and told["checkpoint"]:
            seen = digest_file(work / CHECKPOINTS / told["checkpoint"] / MANIFEST) == told["manifest"]
    except FileNotFoundError:
        seen = False
    if seen:
        return None
    return (
        f"process {process} on {socket.gethostname()} does not see {told['checkpoint'] or _TOLD} in {work.absolute()}; "
        f"process 0 on {told['host']} has it in {told['folder']}: storage.work_dir must be one folder that all "
        "machines share"
    )
