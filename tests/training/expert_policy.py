"""A small mixture of experts of the family of QwenLong-L1.5's base, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

EXPERTS, ACTIVE = 6, 2
"""Of a layer, and those that a token goes through."""


def expert_model(vocabulary: int, *, hidden: int = 64, width: int = 24, heads: int = 8, key_heads: int = 2) -> Any:
    """Two layers, both with experts only; the router's weights are normalised, as in Qwen3-30B-A3B."""
    torch.manual_seed(11)
    config = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        moe_intermediate_size=width,
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        norm_topk_prob=True,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=hidden // heads,
        max_position_embeddings=8192,
        # As some published configs have them; neither may change what is trained.
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    return Qwen3MoeForCausalLM(config)


def write_expert_policy(folder: Path, tokenizer: Any, **sizes: Any) -> Path:
    """A policy folder with such a model and this tokenizer."""
    model = expert_model(len(tokenizer), **sizes)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
