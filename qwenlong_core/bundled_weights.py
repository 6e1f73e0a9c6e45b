"""The weights that come with the installation, as a plain Llama in float32.

transformers reads such a file too. It parses it twice and matches every tensor with the names of all architectures,
which takes most of a minute; one parse and the few names below take seconds. A test compares both.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong_core.bundled import bundled_file

_FIELDS = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<name>\w+)\.weight")


def bundled_model() -> LlamaForCausalLM:
    """SmolLM2-135M-Instruct, dequantised.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    reader = GGUFReader(bundled_file())
    fields = {name: reader.fields[key].contents() for name, key in _FIELDS.items()}
    rope = {"rope_type": "default", "rope_theta": reader.fields["llama.rope.freq_base"].contents()}
    model = LlamaForCausalLM(LlamaConfig(**fields, rope_parameters=rope, tie_word_embeddings=True, dtype=torch.float32))
    heads = {"attn_q": fields["num_attention_heads"], "attn_k": fields["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        match = _TENSOR.fullmatch(tensor.name)
        assert match is not None, tensor.name
        layer, name = match["layer"], match["name"]
        array = dequantize(tensor.data, tensor.tensor_type)
        if name in heads:
            array = _rotary_halves(array, heads[name])
        place = f"model.layers.{layer}.{_NAMES[name]}" if layer else _NAMES[name]
        weights[f"{place}.weight"] = torch.from_numpy(np.array(array, dtype=np.float32))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


def _rotary_halves(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The rows of each head as transformers rotates them, the two halves apart; GGUF has them in pairs."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
