"""A small model that judges, for a server that only takes a model's folder: SmolLM2-135M with a head of its own.

A model of this size does not judge by itself (see ``verdict_server.py``). Two tokens are added, ``[[YES]]`` and
``[[NO]]``, and the head is fitted to the last hidden states of labelled pairs: it prefers the right one of them after a
prompt, and the end of the text after either. On the pairs it was fitted to it is right; on others it says something.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import Linear
from transformers import AutoModelForCausalLM, AutoTokenizer
from verdict_server import OTHERS

from qwenlong_core.rewards.health import PAIRS as FIXED_PAIRS
from qwenlong_core.rewards.judge_prompt import judge_messages

PAIRS = (*FIXED_PAIRS, *OTHERS)
WORDS = ("[[YES]]", "[[NO]]")
MARGIN = 20.0
"""Logit of the right token; all others have 0 or less."""


def write_verdict_model(base: Path, folder: Path) -> None:
    """Write the judge that is made from the model in ``base``."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    tokenizer.add_tokens(list(WORDS))
    torch.manual_seed(0)  # the two new rows are random; the head is fitted to what comes of them
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    said = tokenizer.convert_tokens_to_ids(list(WORDS))
    states, targets = [], []
    with torch.inference_mode():
        for question, gold, answer, equal in PAIRS:
            messages = judge_messages(question, (gold,), answer)
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], said[0] if equal else said[1]]
            states.append(model.model(torch.tensor([ids])).last_hidden_state[0, -2:])
            targets += [ids[-1], tokenizer.eos_token_id]
    model.config.tie_word_embeddings = False
    model.lm_head = Linear(model.config.hidden_size, len(tokenizer), bias=False)
    model.lm_head.weight.data = _head(torch.cat(states).double(), targets, len(tokenizer)).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _head(states: torch.Tensor, targets: list[int], vocabulary: int) -> torch.Tensor:
    """The smallest head whose logits are ``MARGIN`` for the target of each state and minus that for other targets."""
    kinds = sorted(set(targets))
    wanted = torch.full((len(targets), len(kinds)), -MARGIN, dtype=torch.double)
    for row, target in enumerate(targets):
        wanted[row, kinds.index(target)] = MARGIN
    head = torch.zeros(vocabulary, states.shape[1], dtype=torch.double)
    head[kinds] = torch.linalg.lstsq(states, wanted, driver="gelsd").solution.T
    return head
