"""The one maker of engines that run in this process: it chooses the device and checks vLLM and the context.

A server needs none of this: :class:`~qwenlong_core.generation.openai_engine.OpenAIEngine` takes its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qwenlong_core.generation.engine import Engine
from qwenlong_core.generation.vllm_check import require_options, require_vllm
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def context_of(folder: Path) -> int | None:
    """Positions of the model in a transformers folder; ``None`` where it does not say (a tokenizer alone)."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    # Models that also read images keep the numbers of their language model in a block of its own.
    positions: int | None = {**config.get("text_config", {}), **config}.get("max_position_embeddings")
    return positions


def load_on_device(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The policy in ``folder``, on the GPU if there is one, else on the CPU."""
    import torch  # here, as everywhere in this module, so that evaluation and the command line load without it

    from qwenlong_core.models import load_policy

    policy: PreTrainedModel = load_policy(folder, settings).to("cuda" if torch.cuda.is_available() else "cpu")
    return policy


def load_engine(
    engine: str,
    folder: Path,
    tokenizer: Any,
    model: ModelSettings,
    launch: LaunchSettings,
    *,
    batch_size: int,
    longest: int,
    setting: str,
    limits: str | None = None,
    vllm_options: Mapping[str, Any] = MappingProxyType({}),
) -> Engine:
    """The engine over the policy in ``folder``.

    Args:
        engine: ``transformers`` or ``vllm``.
        folder: An imported policy.
        tokenizer: The policy's.
        model: Precision and attention.
        launch: CPU threads (transformers) and GPUs (vLLM).
        batch_size: Prompts that transformers decodes together; vLLM schedules by itself.
        longest: Tokens of the longest prompt and completion together. vLLM reserves room for them.
        setting: The setting that chose the engine, for the error message.
        limits: The settings whose sum is ``longest``. Where they are named, the sum must fit the model's context;
            leave them out where each prompt is checked by itself.
        vllm_options: Further arguments of vLLM.

    Raises:
        ValueError: vLLM is not installed here or lacks an option, or ``longest`` is over the model's context.
    """
    require_vllm(setting, engine)
    if engine == "vllm":
        from qwenlong_core.generation.vllm_engine import VLLMEngine

        require_options(setting, vllm_options)
        gpus = max(1, launch.num_processes // launch.num_machines)
        return VLLMEngine(folder, model.dtype, longest, tensor_parallel_size=gpus, options=vllm_options)
    context = context_of(folder)
    if limits and context is not None and longest > context:
        raise ValueError(
            f"{limits} = {longest:,} is over the model's context of {context:,}: lower them, or raise model.yarn_factor"
        )
    import torch

    from qwenlong_core.generation.transformers_engine import TransformersEngine

    if launch.cpu_threads:
        torch.set_num_threads(launch.cpu_threads)
    return TransformersEngine(load_on_device(folder, model), tokenizer, batch_size=batch_size)
