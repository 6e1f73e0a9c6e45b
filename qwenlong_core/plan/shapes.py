"""A model's shape, from its ``config.json``: all that the arithmetic of a plan needs to know about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong_core.bundled import BUNDLED
from qwenlong_core.rehearsal.rehearse import SHAPES
from qwenlong_core.settings.model import ModelSettings

_LLAMA = {"model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True}
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": _LLAMA
    | {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "tiny": _LLAMA
    | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Shapes of the small profiles' models. Those of the large ones are files beside the profiles, for rehearsals too."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_BIASED = ("qwen2",)
_NORMED_HEADS = ("qwen3",)


class NoPlan(ValueError):
    """A model that the arithmetic of a plan does not cover. It may well run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A dense decoder with gated MLPs, such as Llama, Qwen2 and Qwen3."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    """Numbers in one attention head."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""
    biased: bool = False
    """Whether queries, keys and values have biases."""
    normed_heads: bool = False
    """Whether queries and keys are normalised head by head."""

    @property
    def layer_products(self) -> int:
        """Numbers in one layer's weight matrices."""
        attention = self.hidden * self.head * 2 * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        biases = self.head * (self.heads + 2 * self.kv_heads) * int(self.biased)
        return self.layer_products + biases + 2 * self.hidden + 2 * self.head * int(self.normed_heads)

    @property
    def embedding(self) -> int:
        """Numbers in the embedding, and in an output head of its own."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer + self.embedding * (1 if self.tied else 2) + self.hidden

    def cache_bytes(self, bytes_a_number: float = 2) -> float:
        """Bytes of keys and values of one token, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head * bytes_a_number


def shape_from(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a ``config.json`` describes.

    Raises:
        NoPlan: a mixture of experts, or a config that lacks a size.
    """
    experts = [field for field in _EXPERTS if config.get(field)]
    if experts:
        raise NoPlan(
            f"model.name={name!r} is a mixture of experts ({experts[0]}={config[experts[0]]}), which a plan cannot"
            " reckon with: name a dense model"
        )
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        kind = config.get("model_type", "")
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            biased=bool(config.get("attention_bias", kind in _BIASED)),
            normed_heads=kind in _NORMED_HEADS,
        )
    except KeyError as error:
        raise NoPlan(
            f"the config of model.name={name!r} has no {error.args[0]}: a plan reckons with dense decoders such as "
            "Llama and Qwen"
        ) from error


def shape_of(model: ModelSettings) -> Shape:
    """The shape of the profile's base model.

    It comes from the model's folder, from what ships with the project, or from the hub (a file of a few kilobytes).

    Raises:
        NoPlan: a model that a plan cannot reckon with.
        ConnectionError: the hub does not have it or does not answer.
    """
    folder = Path(model.name)
    if model.name not in BUNDLED and (folder / "config.json").is_file():
        return shape_from(json.loads((folder / "config.json").read_text()), model.name)
    if model.name in KNOWN:
        return shape_from(KNOWN[model.name], model.name)
    shipped = SHAPES / f"{model.name.rpartition('/')[2]}.json"
    if shipped.is_file():
        return shape_from(json.loads(shipped.read_text()), model.name)
    return shape_from(_from_hub(model), model.name)


def _from_hub(model: ModelSettings) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.name, "config.json", revision=model.revision)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"the shape of model.name={model.name!r} is not known, and the hub gave no config.json"
            f" ({' '.join(str(error).split())}): name a downloaded folder"
        ) from error
    config: dict[str, Any] = json.loads(Path(path).read_text())
    return config
