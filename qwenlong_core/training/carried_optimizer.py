"""The optimizer's state from one phase to the next, in a folder of the policy folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from qwenlong_core.training.state_files import load_optimizer

FOLDER = "optimizer"
"""A folder of its own, since loaders take every ``.safetensors`` file beside the weights for weights."""


class CarriedOptimizer(TrainerCallback):  # type: ignore[misc]
    """Starts a phase with the optimizer state in its model's folder; a resumed one has it from its checkpoint.

    Raises:
        ValueError: the folder holds none.
    """

    def __init__(self, trainer: Any, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        if not folder.exists():
            raise ValueError(
                f"{folder} is missing, but grpo.optimizer_across_phases='carried': train the phase before with the same"
                " setting, or set it to 'fresh'"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load it before the first update; learning rate and the like are those of this phase's settings."""
        if state.global_step == 0:
            groups = self.trainer.optimizer.param_groups
            options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
            load_optimizer(self.trainer.model_wrapped, self.trainer.optimizer, self.folder)
            for group, own in zip(self.trainer.optimizer.param_groups, options, strict=True):
                group.update(own)
