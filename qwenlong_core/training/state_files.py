"""Scheduler and random states as JSON, a format that runs no code when it is read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

SCHEDULER = "scheduler.json"


def save_scheduler(scheduler: Any, folder: Path) -> None:
    """Write a learning rate scheduler's state."""
    (folder / SCHEDULER).write_text(json.dumps(scheduler.state_dict(), sort_keys=True))


def load_scheduler(scheduler: Any, folder: Path) -> None:
    """The inverse of :func:`save_scheduler`."""
    scheduler.load_state_dict(json.loads((folder / SCHEDULER).read_text()))


def save_random_state(path: Path) -> None:
    """Write this process's random states: those of Python, NumPy, torch on the CPU, and torch on every GPU."""
    version, python, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    kind, keys, *numpy_rest = numpy_state
    state = {
        "python": [version, list(python), gauss],
        "numpy": [kind, keys.tolist(), *numpy_rest],
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(one) for one in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(state))


def load_random_state(path: Path) -> None:
    """The inverse of :func:`save_random_state`.

    Raises:
        ValueError: the file holds the states of another number of GPUs.
    """
    state = json.loads(path.read_text())
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_hex(state["torch"]))
    if len(state["cuda"]) != torch.cuda.device_count():
        raise ValueError(
            f"{path} has the random states of {len(state['cuda'])} GPUs, but this process sees "
            f"{torch.cuda.device_count()}: resume with as many, or delete the stage's work folder to start over"
        )
    torch.cuda.set_rng_state_all([_from_hex(one) for one in state["cuda"]])


def _hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
