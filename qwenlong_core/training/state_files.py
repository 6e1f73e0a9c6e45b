"""Optimizer, scheduler and random states as safetensors and JSON, formats that run no code when they are read.

The optimizer's state is gathered under the names of the weights (torch's distributed state dicts), so the file is the
same for a plain, a replicated and an FSDP-sharded model, and for any number of processes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

OPTIMIZER = "optimizer.safetensors"
OPTIMIZER_OPTIONS = "optimizer.json"
SCHEDULER = "scheduler.json"


def _options(**more: Any) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, cpu_offload=True, **more)


def _is_writer() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper, which torch's state dicts do not know."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def save_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Write the optimizer's state to ``folder``. Every process must call it; the first one writes.

    ``optimizer.safetensors`` holds tensors named ``WEIGHT/NAME`` (``lm_head.weight/exp_avg``),
    ``optimizer.json`` the parameter groups with the names of their weights.
    """
    # A collective call: with shards on several processes it gathers them, so it comes before the others leave.
    state: dict[str, Any] = get_optimizer_state_dict(model, _inner(optimizer), options=_options())
    if not _is_writer():
        return
    tensors = {
        f"{weight}/{name}": torch.as_tensor(value).contiguous()
        for weight, values in state["state"].items()
        for name, value in values.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / OPTIMIZER)
    (folder / OPTIMIZER_OPTIONS).write_text(json.dumps(state["param_groups"], indent=1))


def load_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """The inverse of :func:`save_optimizer`. Every process must call it; the first one reads and broadcasts."""
    state: dict[str, Any] = {}
    if _is_writer():
        state = {"state": {}, "param_groups": json.loads((folder / OPTIMIZER_OPTIONS).read_text())}
        for name, tensor in load_file(folder / OPTIMIZER).items():
            weight, _, entry = name.rpartition("/")  # names of weights have dots, never slashes
            state["state"].setdefault(weight, {})[entry] = tensor
    options = _options(broadcast_from_rank0=distributed.is_initialized())
    set_optimizer_state_dict(model, _inner(optimizer), state, options=options)


def load_weights(model: Any, folder: Path) -> None:
    """Load ``folder/model*.safetensors`` into a sharded model. Every process must call it; the first one reads."""
    weights: dict[str, Any] = {}
    if _is_writer():
        for path in sorted(folder.glob("model*.safetensors")):
            weights |= load_file(path)
    # Not strict: tied weights are stored once, so the other name is missing.
    options = _options(strict=False, broadcast_from_rank0=distributed.is_initialized())
    set_model_state_dict(model, weights, options=options)


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
