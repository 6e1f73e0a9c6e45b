"""A model's shape, from its ``config.json``: all that the arithmetic of a plan needs to know about it.

Training imports this module, :mod:`flops` and :mod:`traffic` for its metrics. So they import nothing of a plan's rest:
a stage's fingerprint covers all that it can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
