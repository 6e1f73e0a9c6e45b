"""A Llama of 3.5 million parameters that has learned to read the generated documents.

It has its own small vocabulary, so that a CPU spends its time on the text instead of 49,000 logits.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from qwenlong_core.data.prompts import render_prompt, user_message
from qwenlong_core.records import Example

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BATCH = 16
"""Rows per reading step."""
COPIED = 110
"""Tokens of a document that is repeated within a row."""
PROMPT, ANSWER, COPY = 1, 2, 3
"""Kinds of tokens in a reading row; 0 is padding."""
WEIGHTS = {PROMPT: 0.25, ANSWER: 1.0, COPY: 1.0}
"""Weight of the mean loss of each kind. Most of a prompt cannot be predicted, so its loss is mainly noise."""

ReadingRow = tuple[list[int], list[int]]
"""Token ids, and the kind of each token."""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 2,048 tokens, with single digits and a plain chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pad, start, end = special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=pad)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def small_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama: 3 million parameters, plus half a million for a vocabulary of 2,048."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def document_twice(tokenizer: PreTrainedTokenizerFast, example: Example) -> ReadingRow:
    """The start of a document, twice: the fastest way to learn copying from the context."""
    document: list[int] = tokenizer.encode(example.context)[:COPIED]
    return [*document, *document], [PROMPT] * len(document) + [COPY] * len(document)


def question_answered(tokenizer: PreTrainedTokenizerFast, example: Example) -> ReadingRow:
    """A prompt with its solution."""
    prompt: list[int] = tokenizer.encode(render_prompt(tokenizer, example))
    answer: list[int] = [*tokenizer.encode(example.solution or ""), tokenizer.eos_token_id]
    return [*prompt, *answer], [PROMPT] * len(prompt) + [ANSWER] * len(answer)


def reading_batches(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], steps: int
) -> Iterator[list[ReadingRow]]:
    """Prompts with their solutions, mixed with repeated documents.

    Repeated documents are every other row in the first third of the steps, every eighth in the second, none in the
    last.
    """
    generator = random.Random(0)
    for step in range(steps):
        every = (2, 8, BATCH + 1)[3 * step // steps]
        yield [
            (document_twice if index % every == every - 1 else question_answered)(tokenizer, example)
            for index, example in enumerate(generator.sample(examples, BATCH))
        ]


def reading_losses(model: LlamaForCausalLM, batch: Sequence[ReadingRow]) -> dict[int, torch.Tensor]:
    """Mean loss of each kind of token that occurs in the batch."""
    rows = [torch.tensor(ids) for ids, _ in batch]
    ids = pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id)
    kinds = pad_sequence([torch.tensor(kind) for _, kind in batch], batch_first=True)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return {kind: losses[kinds == kind].mean() for kind in WEIGHTS if (kinds == kind).any()}


def learn_to_read(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], steps: int
) -> None:
    """Train on all tokens as a language model, with ``torch.optim.Muon`` for the layers' matrices.

    With Adam it took several times as long until the model copied its first name.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3, weight_decay=0.0),
    ]
    schedules = [get_cosine_schedule_with_warmup(optimizer, 50, steps) for optimizer in optimizers]
    for step, batch in enumerate(reading_batches(tokenizer, examples, steps), 1):
        losses = reading_losses(model, batch)
        model.zero_grad()
        torch.stack([WEIGHTS[kind] * loss for kind, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            schedule.step()
        if step % 50 == 0:
            loss = losses[ANSWER].item()
            print(f"reading: step {step}/{steps}, loss of answers {loss:.3f}", file=sys.stderr, flush=True)


def write_reader(folder: Path, examples: Sequence[Example], steps: int, threads: int) -> None:
    """Write a tokenizer for the examples, and a model that has read them."""
    tokenizer = train_tokenizer(f"{user_message(example)}\n{example.solution}" for example in examples)
    model = small_llama(tokenizer)
    torch.set_num_threads(threads)
    learn_to_read(model, tokenizer, examples, steps)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
