"""How far a policy has moved from its start: the KL divergence on its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from qwenlong_core.data.prompts import render_prompt
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Example

BATCH = 16


def kl_per_token(start: Path, trained: Path, log: Path, examples: Sequence[Example]) -> float:
    """Mean over the sampled tokens of ``log p_trained - log p_start``, an unbiased estimate of KL(trained || start).

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
    sums, tokens = [0.0, 0.0], 0
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        tokens += sum(len(answer) for _, answer in batch)
        for index, model in enumerate(models):
            sums[index] += answer_logprobs(model, batch)
    return (sums[0] - sums[1]) / tokens


@torch.no_grad()
def answer_logprobs(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> float:
    """Sum of the log-probs of all answers' tokens, each after its prompt."""
    ids = pad_sequence([torch.tensor(prompt + answer) for prompt, answer in rows], batch_first=True)
    logits = model(input_ids=ids, use_cache=False).logits  # causal: padding at the end reaches no answer
    total = 0.0
    for row, (prompt, answer) in enumerate(rows):
        of_answer = logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].log_softmax(-1)
        total += of_answer.gather(1, torch.tensor(answer)[:, None]).sum().item()
    return total
