"""What SFT and GRPO share: setting up the process, the trainer's arguments, saving the policy."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback

from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.lora import merge, save_adapter
from qwenlong_core.training.output import ADAPTER
from qwenlong_core.training.sharding import is_sharded

logger = logging.getLogger(__name__)

STOPPED = 143
"""Exit status after SIGTERM: 128 + 15, as shells report it."""


def set_up_process(launch: LaunchSettings) -> PartialState:
    """Set the number of threads, silence the libraries, and let only the main process log.

    Raises:
        ValueError: the number of processes is not the job's, FSDP is requested without a GPU, or DeepSpeed is
            requested.
    """
    # accelerate keeps this state for the process; the trainers find it later, so that their own timeout has no effect.
    timeout = timedelta(minutes=launch.timeout_minutes)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)
    if state.num_processes != launch.num_processes:
        raise ValueError(
            f"launch.num_processes={launch.num_processes}, but {state.num_processes} process(es) are running: "
            f"start with `accelerate launch --num_processes {launch.num_processes} -m ...`, or change the setting"
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise ValueError(
            f"launch.accelerate_config={launch.accelerate_config!r} asks for DeepSpeed, which does not expose the"
            " optimizer's state, so no checkpoint could be written: use FSDP2, as in"
            " infra/accelerate/fsdp2-1node.yaml"
        )
    if is_sharded() and os.environ.get("FSDP_VERSION") != "2":
        raise ValueError(
            f"launch.accelerate_config={launch.accelerate_config!r} asks for FSDP version"
            f" {os.environ.get('FSDP_VERSION', '1')}, but weights are sharded by FSDP2: set fsdp_version: 2, as in"
            " infra/accelerate/fsdp2-1node.yaml"
        )
    if is_sharded() and not torch.cuda.is_available():
        raise ValueError(
            f"launch.accelerate_config={launch.accelerate_config!r} asks for FSDP, which accelerate silently skips"
            " without a GPU: set launch.accelerate_config to none on a CPU"
        )
    if launch.cpu_threads is not None:
        torch.set_num_threads(launch.cpu_threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # The pinned TRL still uses names that the pinned transformers has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # One process alone is no mistake when it writes a checkpoint.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.WARNING)
    return state


def leave_group() -> None:
    """Wait for all processes, and end their group. After an error do without, since the others may not come.

    gloo's threads let go of the tensors of the last collective a little after it, and need Python for that. A process
    whose Python shuts down by then is aborted (https://github.com/pytorch/pytorch/pull/179291). Ending the group does
    not join them as long as a trainer holds it, so the wait, which leaves Python to them, is what helps.
    """
    state = PartialState()
    if state.num_processes > 1:  # a process alone may have a group of vLLM's
        state.wait_for_everyone()
        state.destroy_process_group()


def trainer_arguments(model: ModelSettings, launch: LaunchSettings, seed: int, checkpoints: Path) -> dict[str, Any]:
    """Arguments that are the same for both trainers.

    :class:`StepBoundary` decides when to log and save, so both strategies are off.
    """
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "seed": seed,
        "use_cpu": on_cpu,
        "ddp_find_unused_parameters": False,
        "ddp_timeout": 60 * launch.timeout_minutes,
        "ddp_backend": "gloo" if on_cpu and launch.num_processes > 1 else None,
        "bf16": model.dtype == "bfloat16",
        # Neither a packed row nor a row cut over processes computes the loss that balances a router's experts. TRL
        # would add it wherever a config names a coefficient.
        "router_aux_loss_coef": 0.0,
        # Between micro-batches FSDP would otherwise keep the whole gradient on every GPU, summed in bfloat16. Under DDP
        # it is whole anyway, so there only the last micro-batch exchanges it.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": is_sharded()}},
        "gradient_checkpointing": launch.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} | ({"offload": True} if offloads(launch) else {}),
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }


def offloads(launch: LaunchSettings) -> bool:
    """Whether activations are offloaded to the host; without a GPU they are there already, and the log says so."""
    if launch.activation_offload and not torch.cuda.is_available():
        logger.info("launch.activation_offload has nothing to move: without a GPU activations are in the host's memory")
    return launch.activation_offload and torch.cuda.is_available()


@contextmanager
def checkpointing_off(model: Any, options: Mapping[str, Any] | None) -> Iterator[None]:
    """Switch checkpointing with offload off for TRL's passes without gradient, and back on afterwards.

    TRL does this itself, but when it switches checkpointing back on, it passes transformers' option ``offload`` on to
    ``torch.utils.checkpoint``. That refuses the option or, with ``use_reentrant=False``, hands it to the layer, which
    ignores it. If TRL finds checkpointing off, it leaves it alone.
    """
    if not (options or {}).get("offload"):
        yield
        return
    model.gradient_checkpointing_disable()
    try:
        yield
    finally:
        others = {name: value for name, value in (options or {}).items() if name != "offload"}
        enable_checkpointing(model, others, offload=True)


def enable_checkpointing(model: Any, options: Mapping[str, Any], *, offload: bool = False) -> None:
    """Switch gradient checkpointing on. transformers 5.23 has renamed the method of 5.17, which goes with vLLM."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(dict(options), offload=offload)


def training_weights(model: ModelSettings, lora: LoRASettings | None = None) -> ModelSettings:
    """Model settings for training: weights in float32, bfloat16 only in the arithmetic.

    An update of size 1e-6 would be lost when added to a bfloat16 weight. With an adapter, which is float32 itself, the
    weights are frozen and keep their dtype.
    """
    return model if lora else model.model_copy(update={"dtype": "float32"})


def quiet(trainer: Any) -> None:
    """Stop the trainer from printing its log dictionaries to stdout."""
    trainer.remove_callback(PrinterCallback)


def save_policy(trainer: Any, tokenizer: Any, dtype: str, folder: Path) -> None:
    """Gather the weights on all processes; the main process writes them as a policy folder in ``dtype``.

    An adapter is merged into them, and written beside them.
    """
    policy = trainer.model_wrapped
    if isinstance(trainer.model, PeftModel):
        if trainer.accelerator.is_main_process:
            save_adapter(trainer.model, folder / ADAPTER)
        policy = merge(trainer.model)
    # get_state_dict is collective under FSDP: every process must call it.
    weights = trainer.accelerator.get_state_dict(policy)
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(policy)
        weights = {name: tensor.to("cpu", getattr(torch, dtype)) for name, tensor in weights.items()}
        model.save_pretrained(folder, state_dict=weights)
        # save_pretrained writes the trained model's dtype, float32. Loaders take the dtype that the config names.
        model.config.dtype = dtype
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


class StepBoundary(TrainerCallback):  # type: ignore[misc]
    """Logs, saves and stops only at the end of a step, where no rollouts are buffered.

    Args:
        updates: Optimizer steps per step.
        steps: Total number of steps.
        save_steps: Steps between checkpoints. The last step has one only if it is such a step: its policy follows.
    """

    def __init__(self, updates: int, steps: int, save_steps: int) -> None:
        self.updates, self.steps, self.save_steps = updates, steps, save_steps
        self.stop_requested = False
        self.stopped = False
        signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, *_: Any) -> None:
        self.stop_requested = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide what to do after this optimizer step; all processes decide the same."""
        # Within a step TRL still holds rollouts in its buffer, which a checkpoint would lose.
        if state.global_step % self.updates:
            return
        step = state.global_step // self.updates
        # SIGTERM may reach only some processes, or reach them at different steps.
        self.stopped = any(gather_object([self.stop_requested])) and step < self.steps
        control.should_log = True
        control.should_save = self.stopped or step % self.save_steps == 0
        control.should_training_stop = control.should_training_stop or self.stopped

    def exit_if_stopped(self) -> None:
        """Exit with 143 if SIGTERM ended training early; its checkpoint is written."""
        if self.stopped:
            logger.warning("stopped by SIGTERM at a step boundary; run the same command to resume from the checkpoint")
            leave_group()
            raise SystemExit(STOPPED)
