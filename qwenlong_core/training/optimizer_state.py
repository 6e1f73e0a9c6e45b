"""The optimizer's state from one phase to the next, as a part of the policy folder.

``optimizer/state.safetensors`` holds every tensor under ``PARAMETER/ENTRY`` (for AdamW ``exp_avg``,
``exp_avg_sq`` and ``step``) and the optimizer's class in its metadata: nothing that is unpickled. It lies
in a folder of its own, since loaders take every ``.safetensors`` file beside the weights for weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

FILE = Path("optimizer") / "state.safetensors"


def _named_parameters(optimizer: Any, model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The optimizer's parameters by name, in the order of its own numbering."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(parameter)], parameter) for group in optimizer.param_groups for parameter in group["params"]]


def _class_of(optimizer: Any) -> str:
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def save_optimizer(optimizer: Any, model: Any, folder: Path) -> None:
    """Write the state of an optimizer that holds whole tensors into a policy folder."""
    state = optimizer.state_dict()["state"]
    tensors = {
        f"{name}/{entry}": value.detach().to("cpu").contiguous()
        for number, (name, _) in enumerate(_named_parameters(optimizer, model))
        for entry, value in state.get(number, {}).items()
    }
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, {"optimizer": _class_of(optimizer)})


def load_optimizer(optimizer: Any, model: Any, folder: Path) -> None:
    """Give a fresh optimizer the state that :func:`save_optimizer` wrote.

    Raises:
        ValueError: it is that of another optimizer or model.
    """
    path = folder / FILE
    parameters = _named_parameters(optimizer, model)
    numbers = {name: number for number, (name, _) in enumerate(parameters)}
    shapes = {name: parameter.shape for name, parameter in parameters}
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, "pt") as file:
        if file.metadata()["optimizer"] != _class_of(optimizer):
            raise ValueError(
                f"{path} holds the state of {file.metadata()['optimizer']}, not of {_class_of(optimizer)}: set "
                "grpo.optimizer_across_phases='fresh'"
            )
        for key in file.keys():  # noqa: SIM118 (the file is no dict)
            name, _, entry = key.rpartition("/")
            value = file.get_tensor(key)
            if name not in shapes or (value.dim() and value.shape != shapes[name]):
                raise ValueError(f"{path} does not fit the model at {name}: set grpo.optimizer_across_phases='fresh'")
            state.setdefault(numbers[name], {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class CarryOptimizer(TrainerCallback):  # type: ignore[misc]
    """Starts a phase with the state in its model's folder; a resumed one has it from its checkpoint.

    Raises:
        ValueError: the folder holds none.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / FILE).exists():
            raise ValueError(
                f"{folder / FILE} is missing, but grpo.optimizer_across_phases='carried': train the phase before with "
                "the same setting, or set it to 'fresh'"
            )
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load it before the first update."""
        if state.global_step == 0:
            load_optimizer(kwargs["optimizer"], kwargs["model"], self.folder)
