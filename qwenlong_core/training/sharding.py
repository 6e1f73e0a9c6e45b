"""FSDP2 through accelerate: its precision, and how weights come from one process to all.

An accelerate file (``infra/accelerate/``) says that weights are sharded. What it cannot say is here, in one place for
the stages and their tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from qwenlong_core.auto import AutoConfig, AutoModelForCausalLM
from qwenlong_core.models import attention_implementation, load_policy
from qwenlong_core.settings.model import ModelSettings


def is_sharded() -> bool:
    """Whether ``accelerate launch`` has started this process for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def precision_policy(mixed_precision: str) -> MixedPrecisionPolicy:
    """The dtypes of sharded training. Master weights are float32: see :func:`.runtime.training_weights`.

    Args:
        mixed_precision: As accelerate names it: ``no`` or ``bf16``.

    Returns:
        Layers compute with gathered bfloat16 weights, and gradients are summed over the processes in float32.
        accelerate's own policy would sum them in bfloat16 and also round the model's output: log-probs, in which the
        ratio of two policies is often nearer to 1 than bfloat16 can tell. There is no output dtype: the output head
        computes log-probs in float32, and torch would also cast what each layer returns, so that gradient
        checkpointing would keep twice the memory.

    Raises:
        ValueError: any other precision.
    """
    if mixed_precision == "no":
        return MixedPrecisionPolicy()
    if mixed_precision != "bf16":
        raise ValueError(f"mixed_precision: {mixed_precision} in the accelerate file cannot be trained with: use bf16")
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def set_precision(accelerator: Any) -> None:
    """Give a trainer's accelerator our precision, before it shards any model."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.mixed_precision_policy = precision_policy(accelerator.mixed_precision)


def start_policy(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The policy that a training starts from.

    With ``fsdp_cpu_ram_efficient_loading`` accelerate broadcasts the main process's weights when it shards the model,
    so only that process reads them. transformers ignores the option: each process would hold all weights.
    """
    broadcast = is_sharded() and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() == "true"
    if broadcast and not PartialState().is_main_process:
        return empty_policy(folder, settings)
    return load_policy(folder, settings)


def empty_policy(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The policy of :func:`load_policy` with undefined weights. They take no memory: no page of them is ever touched.

    Buffers that no checkpoint holds (rotary frequencies) are computed, since nobody sends them.
    """
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder),
            dtype=getattr(torch, settings.dtype),
            attn_implementation=attention_implementation(settings),
        )
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()
