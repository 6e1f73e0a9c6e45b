"""The hooks of transformers' trainer that both stages override in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

from qwenlong_core.training import checkpoints, state_files
from qwenlong_core.training.sharding import set_precision


class StageTrainer(Trainer):  # type: ignore[misc]
    """Comes before TRL's trainer in a class's bases: our precision when sharded, and checkpoints without a pickle."""

    def create_accelerator_and_postprocess(self) -> None:
        """Called in the constructor, before anything is sharded (TRL shards its reference model there)."""
        super().create_accelerator_and_postprocess()
        set_precision(self.accelerator)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Called with every checkpoint. Checkpoints are not published, so there is no card to write."""

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside transformers' state, as JSON; the same on every process."""
        return {}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Called when a checkpoint is due. Ours adds this project's state and seals the folder."""
        super()._save_checkpoint(model, trial)
        checkpoints.finish(self, self.own_state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Called within ``_save_checkpoint``. transformers' own would write pickles."""
        checkpoints.save_optimizer_and_scheduler(self, Path(output_dir))

    def _save_rng_state(self, output_dir: str) -> None:
        """Called within ``_save_checkpoint``. transformers' own would write a pickle."""
        state_files.save_random_state(checkpoints.random_state_file(self, output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Called on resume. transformers' own expects sharded weights in a format of its own."""
        if self.is_fsdp_enabled:
            state_files.load_weights(model or self.model_wrapped, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when training begins; ``None`` without a checkpoint."""
        if checkpoint is not None:
            checkpoints.load_optimizer_and_scheduler(self, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called before the first resumed forward; ``None`` without a checkpoint."""
        if checkpoint is not None:
            state_files.load_random_state(checkpoints.random_state_file(self, checkpoint))
