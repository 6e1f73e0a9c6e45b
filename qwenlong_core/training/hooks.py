"""The hooks of transformers' trainer that both stages override in the same way."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import Trainer

from qwenlong_core.store.files import write_json
from qwenlong_core.training import shards, state_files
from qwenlong_core.training.checkpoints import STATE, random_state_file
from qwenlong_core.training.saver import Saver
from qwenlong_core.training.sharding import set_precision

logger = logging.getLogger(__name__)


class StageTrainer(Trainer):  # type: ignore[misc]
    """Comes before TRL's trainer in a class's bases: our precision when sharded, and checkpoints without a pickle."""

    def create_accelerator_and_postprocess(self) -> None:
        """Called in the constructor, before anything is sharded (TRL shards its reference model there)."""
        super().create_accelerator_and_postprocess()
        set_precision(self.accelerator)

    @cached_property
    def saver(self) -> Saver:
        """Writes this training's checkpoints."""
        saver = Saver()
        self.add_callback(saver)
        return saver

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Called with every checkpoint. Checkpoints are not published, so there is no card to write."""

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside transformers' state, as JSON; the same on every process."""
        return {}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Called when a checkpoint is due. transformers' own writes the small files, ours the rest."""
        self.saver.wait()  # one checkpoint at a time
        super()._save_checkpoint(model, trial)
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        optimizer, groups = shards.optimizer_of(self.model_wrapped, self.optimizer)
        if self.accelerator.is_main_process:
            write_json(checkpoint / STATE, self.own_state())
            write_json(checkpoint / shards.GROUPS, groups)
            state_files.save_scheduler(self.lr_scheduler, checkpoint)
        tensors = shards.weights_of(self.model_wrapped) | optimizer
        self.saver.start(checkpoint, tensors, self.args.ddp_timeout_delta)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Called within ``_save_checkpoint``. transformers' own would gather the weights on the main process."""
        if _internal_call and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Called within ``_save_checkpoint``. transformers' own would write pickles."""

    def _save_rng_state(self, output_dir: str) -> None:
        """Called within ``_save_checkpoint``. transformers' own would write a pickle."""
        state_files.save_random_state(random_state_file(self, output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Called on resume: before the model is sharded or replicated, or with it."""
        shards.read_weights(model or self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when training begins; ``None`` without a checkpoint."""
        if checkpoint is not None:
            shards.read_optimizer(self.model_wrapped, self.optimizer, Path(checkpoint))
            state_files.load_scheduler(self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called before the first resumed forward; ``None`` without a checkpoint."""
        if checkpoint is not None:
            self._load_random_state(random_state_file(self, checkpoint))

    def _load_random_state(self, path: Path) -> None:
        if path.exists():
            state_files.load_random_state(path)
        else:
            logger.warning("%s is not there: fewer processes wrote the checkpoint, and this one starts afresh", path)
