"""A model's shape, from its ``config.json``: all that the arithmetic of a plan needs to know about it.

Training imports this module, :mod:`flops` and :mod:`traffic` for its metrics. So they import nothing of a plan's rest:
a stage's fingerprint covers all that it can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WITH_EXPERTS = ("qwen3_moe",)
"""Kinds whose experts a plan knows: every layer has them, all of one size, none that every token goes through."""
_BIASED = ("qwen2",)
_NORMED_HEADS = ("qwen3", "qwen3_moe")


class NoPlan(ValueError):
    """A model that the arithmetic of a plan does not cover. It may well run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A decoder with gated MLPs, such as Llama, Qwen2 and Qwen3, or with gated experts in their place (Qwen3-MoE)."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP, or of one expert."""
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
    experts: int = 0
    """Of a layer; 0 for a dense model."""
    active: int = 1
    """Experts that a token goes through."""

    @property
    def mlp(self) -> int:
        """Numbers in the matrices of the MLP, or of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_products(self) -> int:
        """Numbers in the weight matrices of a layer that a token goes through."""
        attention = self.hidden * self.head * 2 * (self.heads + self.kv_heads)
        return attention + self.hidden * self.experts + self.active * self.mlp

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a dense layer's linear layers, by name."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        attention = {"q_proj": (self.hidden, queries), "o_proj": (queries, self.hidden)}
        attention |= dict.fromkeys(("k_proj", "v_proj"), (self.hidden, keys))
        gates = dict.fromkeys(("gate_proj", "up_proj"), (self.hidden, self.intermediate))
        return attention | gates | {"down_proj": (self.intermediate, self.hidden)}

    @property
    def idle(self) -> int:
        """Numbers in the experts of a layer that a token does not go through."""
        return (self.experts - self.active) * self.mlp if self.experts else 0

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        biases = self.head * (self.heads + 2 * self.kv_heads) * int(self.biased)
        norms = 2 * self.hidden + 2 * self.head * int(self.normed_heads)
        return self.layer_products + self.idle + biases + norms

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


def _all_alike(config: Mapping[str, Any]) -> bool:
    """Whether all layers have experts, and nothing beside them."""
    every = config.get("decoder_sparse_step", 1) == 1 and not config.get("mlp_only_layers")
    return every and config.get("model_type") in _WITH_EXPERTS


def shape_from(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a ``config.json`` describes.

    Raises:
        NoPlan: a mixture of experts of a kind that is not known, or a config that lacks a size.
    """
    experts = [field for field in _EXPERTS if config.get(field)]
    if experts and not _all_alike(config):
        raise NoPlan(
            f"model.name={name!r} is a mixture of experts ({experts[0]}={config[experts[0]]}) of type"
            f" {config.get('model_type')!r}, which a plan cannot reckon with: name a dense model, or one of type"
            f" {', '.join(_WITH_EXPERTS)} with experts in every layer"
        )
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        kind = config.get("model_type", "")
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["moe_intermediate_size" if experts else "intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            biased=bool(config.get("attention_bias", kind in _BIASED)),
            normed_heads=kind in _NORMED_HEADS,
            experts=config[experts[0]] if experts else 0,
            active=config["num_experts_per_tok"] if experts else 1,
        )
    except KeyError as error:
        raise NoPlan(
            f"the config of model.name={name!r} has no {error.args[0]}: a plan reckons with dense decoders such as "
            "Llama and Qwen"
        ) from error
