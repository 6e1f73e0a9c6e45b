"""The prompt of training and evaluation: its wording, its tokens, and how to shorten it.

The wording is QwenLong-L1's (arXiv 2505.17667, table 1): an instruction, the document in ``<text>`` tags, the
question with its options, and the form that the answer must have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwenlong_core.records import Example

_PROMPT = (
    "Please read the following text and answer the question below.\n\n"
    "<text>\n{context}\n</text>\n\n{question}\n\n"
    'Format your response as follows: "{form}".'
)
_ANALYSIS = "Analyze the following document:\n<text>{context}</text>\nQuestion: {question}"
_FORM = "Therefore, the answer is (insert answer here)"
_CHOICE_FORM = "The correct answer is (insert answer here)"

TEMPLATE_DIGEST = hashlib.sha256("\n".join((_PROMPT, _FORM, _CHOICE_FORM)).encode()).hexdigest()
"""Identifies the wording of the prompt; the chat template is the policy's own and not included."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def answer_form(answer_type: str, answer: str) -> str:
    """The sentence that states ``answer`` in the form the prompt asks for."""
    return f"The correct answer is ({answer})." if answer_type == "choice" else f"Therefore, the answer is {answer}."


def user_message(example: Example) -> str:
    """The text of the user's turn, without the chat template."""
    question = example.question
    if example.choices:
        options = (f"({letter}) {text}" for letter, text in zip(_LETTERS, example.choices, strict=False))
        question = "\n".join((question, *options))
    form = _CHOICE_FORM if example.answer_type == "choice" else _FORM
    return _PROMPT.format(context=example.context, question=question, form=form)


def analysis_message(example: Example) -> str:
    """The user's turn for a reader's own question. This wording asks for no form of answer."""
    return _ANALYSIS.format(context=example.context, question=example.question)


Message = Callable[[Example], str]
"""A wording: makes the user's turn of an example."""


def render_prompt(tokenizer: Any, example: Example, message: Message = user_message) -> str:
    """The whole prompt under the policy's chat template, up to where the policy's answer begins."""
    turn = {"role": "user", "content": message(example)}
    text: str = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt. No special tokens are added: the chat template has them already."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def count_tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    """Number of tokens of each text, tokenized as one batch on all cores.

    This calls the Rust tokenizer directly: converting the ids to Python lists, which are not needed here, would
    take half of the time.
    """
    if not texts:
        return []
    if not tokenizer.is_fast:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    backend = tokenizer.backend_tokenizer
    # A tokenizer that was saved with truncation or padding would count its limit instead.
    backend.no_truncation()
    backend.no_padding()
    return [len(encoding) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def prompt_tokens(tokenizer: Any, example: Example, message: Message = user_message) -> int:
    """Number of tokens of the whole rendered prompt."""
    return len(encode(tokenizer, render_prompt(tokenizer, example, message)))


def opens_thinking(prompt: str) -> bool:
    """Whether the chat template opens the ``<think>`` block itself, as those of R1-distilled models do."""
    return prompt.rstrip().endswith("<think>")


def truncate_middle(
    tokenizer: Any, example: Example, max_tokens: int, message: Message = user_message
) -> tuple[Example, int, int]:
    """Cut the middle out of the document until the whole prompt has at most ``max_tokens`` tokens.

    Instruction, question and options are kept whole. Equal parts of the document's start and end are kept, as
    in LongBench, which however cuts the whole prompt.

    Returns:
        the example with the shortened context, the number of document tokens kept, and the number lost.

    Raises:
        ValueError: the prompt is longer than ``max_tokens`` even without the document.
    """
    total = prompt_tokens(tokenizer, example, message)
    encoded = tokenizer(example.context, add_special_tokens=False, return_offsets_mapping=True)
    spans: list[tuple[int, int]] = encoded["offset_mapping"]
    if total <= max_tokens:
        return example, len(spans), 0
    frame = prompt_tokens(tokenizer, replace(example, context=""), message)
    # A cut may split one token into several, so shrink the budget until the whole prompt fits.
    keep = max_tokens - frame
    while keep > 0:
        head, tail = (keep + 1) // 2, keep // 2
        left = example.context[: spans[head - 1][1]]
        right = example.context[spans[-tail][0] :] if tail else ""
        shorter = replace(example, context=left + right)
        excess = prompt_tokens(tokenizer, shorter, message) - max_tokens
        if excess <= 0:
            return shorter, keep, len(spans) - keep
        keep -= excess
    raise ValueError(
        f"row {example.id!r}: instruction and question alone take {frame} tokens, the limit is {max_tokens}: "
        "raise the prompt limit"
    )
