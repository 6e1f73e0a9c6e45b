"""A process that takes up a work folder, perhaps one of its own: ``run_processes("take_up.py", ..., processes=2)``.

Process I takes the folder of the I-th argument, or that of the last one, and writes what it found to
``RESULTS/I.json``; RESULTS is the first argument.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState

from qwenlong_core.training.taking_up import taken_up


def bytes_read() -> int:
    """Bytes that this process has read from files so far, from the disk or from memory."""
    counts = dict(line.split(": ") for line in Path(f"/proc/{os.getpid()}/io").read_text().splitlines())
    return int(counts["rchar"])


def main(results: Path, *works: Path) -> None:
    state = PartialState(cpu=True)
    work = works[min(state.process_index, len(works) - 1)]
    before = bytes_read()
    try:
        with taken_up(work, state) as checkpoint:
            found = {"checkpoint": str(checkpoint), "read": bytes_read() - before}
    except ValueError as error:
        found = {"refused": str(error)}
    (results / f"{state.process_index}.json").write_text(json.dumps(found))
    state.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
