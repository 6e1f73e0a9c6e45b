"""LoRA: a stage trains a low-rank adapter beside frozen weights, and merges it into them when it ends.

The library is peft. TRL wraps the policy in a ``PeftModel``, whose layers hold the frozen weight (``base_layer``) and
the adapter; everything of ours runs through that model. What leaves a stage is an ordinary policy folder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from qwenlong_core.settings.lora import LoRASettings
from qwenlong_core.training.sharding import is_sharded

_NAME = "default"
"""peft's name of the adapter that TRL makes."""


def adapter_config(policy: Any, lora: LoRASettings | None) -> LoraConfig | None:
    """What TRL is told to wrap the policy with; ``None`` for full training.

    Raises:
        ValueError: weights are sharded, the policy has experts, or a target is no linear layer of it.
    """
    if lora is None:
        return None
    if is_sharded():
        raise ValueError("lora trains on whole weights, and this process was started for FSDP: drop one of them")
    if any(weight.dim() == 3 for weight in policy.parameters()):
        raise ValueError(
            f"lora does not reach the experts of {type(policy).__name__}, which are no linear layers: train it in full"
        )
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=_targets(policy, lora))


def _targets(policy: Any, lora: LoRASettings) -> list[str]:
    """Names of the linear layers that learn."""
    head = policy.get_output_embeddings()
    linear = {name for name, layer in policy.named_modules() if isinstance(layer, nn.Linear) and layer is not head}
    known = {name.rpartition(".")[2] for name in linear}
    unknown = set(lora.targets or ()) - known
    if unknown:
        raise ValueError(
            f"lora.targets names {', '.join(sorted(unknown))}, no linear layer of {type(policy).__name__}: it has "
            f"{', '.join(sorted(known))}"
        )
    return sorted(lora.targets or known)


def base_of(model: Any) -> Any:
    """The model inside peft's wrapper, with the adapter's layers in it; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def start_of(policy: Any) -> Any:
    """The policy as it is now, as a model of its own: the frozen weights are shared, so it takes no memory.

    Call it before a trainer wraps the policy.
    """
    return copy.deepcopy(policy, {id(weight): weight for weight in policy.parameters()})


def merged_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights with the adapter in them, one at a time, under the names that they have without it.

    The sum is made in float32 and rounded once. The frozen weight itself stays as it is: peft's own merging adds the
    update to a bfloat16 weight and subtracts it again, which leaves other weights behind.
    """
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    for name, weight in model.get_base_model().named_parameters():
        layer, _, rest = name.partition(".base_layer.")
        if rest == "weight":
            yield f"{layer}.weight", _merged(layers[layer], weight)
        elif model.prefix not in name:
            yield f"{layer}.{rest}" if rest else name, weight.detach()


@torch.no_grad()
def _merged(layer: Any, weight: Tensor) -> Tensor:
    merged: Tensor = (weight.float() + layer.get_delta_weight(_NAME)).to(weight.dtype)
    return merged


def send_merged(trainer: Any) -> None:
    """Give vLLM the weights of :func:`merged_weights`; TRL 1.16 would merge in place (see there)."""
    trainer.vllm_generation._iter_named_params = partial(merged_weights, trainer.model)


def merge(model: PeftModel) -> Any:
    """Merge the adapter into the weights for good, as :func:`merged_weights` does, and return the policy alone."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            weight.data = _merged(layer, weight)
    return model.unload()


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter in peft's format."""
    config = copy.copy(model.peft_config[_NAME])
    config.base_model_name_or_path = None  # a folder of this run
    config.target_modules = sorted(config.target_modules)  # a set, whose order changes from process to process
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "adapter_model.safetensors")
