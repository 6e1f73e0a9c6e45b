"""Weights and optimizer as shards: each process writes its own part, and any number of processes reads them back.

The library is torch's distributed checkpoint with Hugging Face's storage: safetensors files, which run no code when
they are read, and whose headers say where in a tensor each part belongs. A tensor that several processes hold is
written by one of them, so replicas share the work too.

Every function here is called by all processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from qwenlong_core.store.files import write_json

GROUPS = "optimizer.json"
"""The optimizer's parameter groups with the names of their weights."""
_FILE_BYTES = 2 << 30
"""torch puts a file together in memory before it writes it. All processes' parts of one file hold at most this much,
or one tensor."""

Tensors = dict[str, torch.Tensor]
"""Tensors by name. Sharded ones are DTensors, of which each process holds its part."""


def weights_of(model: Any) -> Tensors:
    """The model's weights, not copied, as ``weights/NAME``. A tied weight has several names; the first counts.

    Frozen weights are left out: a training finds them where it started from.
    """
    names: dict[Any, str] = {}
    tensors: dict[str, Any] = get_model_state_dict(model)
    frozen = {_place(weight.data) for weight in model.parameters() if not weight.requires_grad}
    for name, tensor in tensors.items():
        if (place := _place(tensor)) not in frozen:
            names.setdefault(place, name)
    return {f"weights/{name}": tensors[name] for name in names.values()}


def _place(tensor: torch.Tensor) -> Any:
    """The same for two tensors that are one piece of memory. A part may be empty: then its name is all there is."""
    local = tensor.to_local() if isinstance(tensor, distributed.tensor.DTensor) else tensor
    return (local.data_ptr(), local.shape, local.stride()) if local.numel() else id(tensor)


def optimizer_of(model: Any, optimizer: Any) -> tuple[Tensors, list[dict[str, Any]]]:
    """The optimizer's tensors, not copied, as ``optimizer/WEIGHT/NAME``, and its parameter groups."""
    state: dict[str, Any] = get_optimizer_state_dict(model, _inner(optimizer))
    tensors = {
        f"optimizer/{weight}/{name}": torch.as_tensor(value)
        for weight, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper, which torch's state dicts do not know."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def copied(tensors: Tensors) -> Tensors:
    """Copies in the host's memory, which the next update cannot change."""
    staged: Tensors = BlockingAsyncStager().stage(tensors)
    return staged


def write(tensors: Tensors, folder: Path, group: Any = None) -> None:
    """Write each process's part of ``tensors`` to files of its own below ``folder``.

    Args:
        tensors: The same names on every process.
        folder: Where to; every process sees it.
        group: The process group to agree over; without it, torch's default group.

    Raises:
        OSError: a process cannot write its part; raised on all.
    """
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=_files(tensors), save_distributed=True)
    with _plain_errors():
        save(tensors, storage_writer=writer, process_group=group)


def _files(tensors: Tensors) -> dict[str, int]:
    """The number of the file for each tensor, filled in order; one that is larger than a file has its own."""
    numbers, number, room = {}, 1, _FILE_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and room < _FILE_BYTES:
            number, room = number + 1, _FILE_BYTES
        numbers[name], room = number, room - size
    return numbers


def read(tensors: Tensors, folder: Path) -> None:
    """Fill ``tensors`` in place with what :func:`write` has written, by any number of processes.

    Raises:
        RuntimeError: a tensor is not there.
        ValueError: it has another shape.
    """
    with _plain_errors():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what a process met. torch wraps it in an exception of its own, which is no ``Exception``."""
    try:
        yield
    except CheckpointException as error:
        failure, _ = next(iter(error.failures.values()))
        raise failure from None


def read_weights(model: Any, folder: Path) -> None:
    """Load a model's weights."""
    read(weights_of(model), folder)


def read_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Load an optimizer's tensors and parameter groups."""
    tensors, _ = optimizer_of(model, optimizer)
    read(tensors, folder)
    state: dict[str, Any] = {}
    for key, tensor in tensors.items():
        weight, _, name = key.removeprefix("optimizer/").rpartition("/")  # names of weights have dots, never slashes
        state.setdefault(weight, {})[name] = tensor
    groups = json.loads((folder / GROUPS).read_text())
    set_optimizer_state_dict(model, _inner(optimizer), {"state": state, "param_groups": groups})


def write_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Write an optimizer alone, and return when it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, groups = optimizer_of(model, optimizer)
    write(tensors, folder)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        write_json(folder / GROUPS, groups)
