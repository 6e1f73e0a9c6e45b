"""How far a policy has moved from its start: the KL divergence on its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Example

BATCH = 16


def kl_per_token(start: Path, trained: Path, log: Path, examples: Sequence[Example]) -> float:
    """Mean over the places of sampled answers of the KL divergence of the next token's distributions.

    This estimates KL(trained || start) per token. Each place counts with all tokens of the vocabulary, not with the
    sampled one alone: a token that the start all but excludes would make that mean jump.

    Args:
        start, trained: Policy folders.
        log: ``samples.jsonl`` of the trained policy, sampled at temperature 1 without nucleus. Its first answer of
            each question is used, tokenized anew.
        examples: The questions; answers to others are passed over.
    """
    tokenizer = load_tokenizer(trained)
    prompts = {row.id: tokenizer.encode(render_prompt(tokenizer, row), add_special_tokens=False) for row in examples}
    rows = []
    for sample in read_samples(log):
        if sample.sample == 0 and sample.completion and sample.example_id in prompts:
            ended = [tokenizer.eos_token_id] if sample.finish_reason == "stop" else []
            answer = tokenizer.encode(sample.completion, add_special_tokens=False) + ended
            rows.append((prompts[sample.example_id], answer))
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (trained, start)]
    total, places = 0.0, 0
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        of_trained, of_start = (next_logprobs(model, batch) for model in models)
        total += kl_div(of_start, of_trained, reduction="sum", log_target=True).item()
        places += len(of_trained)
    return total / places


@torch.no_grad()
def next_logprobs(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Log-probs of all tokens at every place of the answers, ``[places, vocabulary]``."""
    ids = pad_sequence([torch.tensor(prompt + answer) for prompt, answer in rows], batch_first=True)
    logits = model(input_ids=ids, use_cache=False).logits  # causal: padding at the end reaches no answer
    of_answers = [
        logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] for row, (prompt, answer) in enumerate(rows)
    ]
    return torch.cat(of_answers).log_softmax(-1)
