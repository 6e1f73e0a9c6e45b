"""Small random models of the architectures that the project trains, and a tokenizer for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


class LetterTokenizer:
    """A minimal tokenizer for the engine: ids become letters, and 2 ends a sequence."""

    eos_token_id = 2

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(str(i) for i in ids if i != 2 or not skip_special_tokens)


def tiny_model(kind: str = "llama", vocab: int = 32, heads: int = 4, kv_heads: int = 2, sharp: float = 1.0) -> Any:
    """A model whose attention matters: its weights are fifteen times larger than transformers' initialisation."""
    torch.manual_seed(0)
    config = CONFIGS[kind](
        vocab_size=vocab,
        hidden_size=8 * heads,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharp)
    return model


def greedy_by_generate(model: Any, prompt: list[int], limit: int) -> list[int]:
    """The output of transformers' own ``generate`` at temperature 0."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, eos_token_id=2
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@torch.no_grad()
def logprobs_by_forward(model: Any, prompt: list[int], completion: tuple[int, ...], temperature: float) -> torch.Tensor:
    """Log-probs ``[C]`` of a completion, by one plain forward over the whole sequence."""
    logits = model(input_ids=torch.tensor([prompt + list(completion)])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(completion)[:, None]
    return (logits.double() / temperature).log_softmax(-1).gather(-1, chosen)[:, 0]
