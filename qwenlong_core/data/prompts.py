"""The prompt of training and evaluation: its wording, its tokens, and how to shorten it.

The wording is QwenLong-L1's (arXiv 2505.17667, table 1): an instruction, the document in ``<text>`` tags, the
question with its options, and the form that the answer must have. The paper writes the form's gap in parentheses, which
small models copy and which mean a minus elsewhere; ours has brackets (``data.prompt_form``).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from qwenlong_core.answer_types import rule_of
from qwenlong_core.data.paragraphs import is_numbered, numbered
from qwenlong_core.data.wordings import (
    Turn,
    answer_start,
    earlier_turns,
    is_conversation,
    own_message,
    without_middle,
)
from qwenlong_core.records import Example
from qwenlong_core.store.files import digest_json

_PROMPT = (
    "Please read the following text and answer the question below.\n\n"
    "<text>\n{context}\n</text>\n\n{question}\n\n"
    'Format your response as follows: "{form}".'
)
_CITE = 'First name the paragraphs that the answer rests on: "Evidence: [insert paragraph numbers here]".'
_ANALYSIS = "Analyze the following document:\n<text>{context}</text>\nQuestion: {question}"
_FORMS = {
    "brackets": "Therefore, the answer is [insert answer here]",
    "paper": "Therefore, the answer is (insert answer here)",
}
_CHOICE_FORM = "The correct answer is (insert answer here)"
_FORM_OF_ROW = "prompt_form"
_DATE = datetime(2025, 1, 1)
"""What a chat template that asks for today's date gets. With the true date a run that is resumed on another day would
go on with other prompts."""
_TODAY = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")
_BREAK = "\ufdd0"
"""Inside a control token that stands in a document: :func:`encode` cuts there, so that it becomes plain text. A
character that Unicode keeps free for such marks."""
_INVISIBLE = "\u200b"

TEMPLATE_DIGEST = hashlib.sha256("\n".join((_PROMPT, *_FORMS.values(), _CHOICE_FORM, _CITE)).encode()).hexdigest()
"""Identifies the wording of the prompt; the chat template is the policy's own and not included."""

_THINK_TAG = re.compile(r"\A\s*<think>\n?")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def answer_form(answer_type: str, answer: str) -> str:
    """The sentence that states ``answer`` in the form the prompt asks for."""
    return f"The correct answer is ({answer})." if answer_type == "choice" else f"Therefore, the answer is {answer}."


def with_form(example: Example, form: str) -> Example:
    """The row, to be asked in this form (``data.prompt_form``)."""
    metadata = {name: value for name, value in example.metadata.items() if name != _FORM_OF_ROW}
    if form != "brackets":
        metadata[_FORM_OF_ROW] = form
    return example if metadata == example.metadata else replace(example, metadata=metadata)


def as_asked(example: Example, form: str, number_paragraphs: bool) -> Example:
    """The row as ``data.prompt_form`` and ``data.number_paragraphs`` ask it."""
    return with_form(numbered(example) if number_paragraphs else example, form)


def form_of(example: Example) -> str:
    """The form that the row is asked in (``data.prompt_form``)."""
    return str(example.metadata.get(_FORM_OF_ROW, "brackets"))


def user_message(example: Example) -> str:
    """The text of the user's turn, without the chat template."""
    own = own_message(example)
    if own is not None:
        return own
    question = example.question
    if example.choices:
        options = (f"({letter}) {text}" for letter, text in zip(_LETTERS, example.choices, strict=False))
        question = "\n".join((question, *options))
    form = _FORMS[form_of(example)]
    if example.answer_type == "choice":
        form = _CHOICE_FORM
    if is_numbered(example):
        question = f"{question}\n\n{_CITE}"
    return _PROMPT.format(context=example.context, question=question, form=form) + _ask(example.answer_type)


def _ask(answer_type: str) -> str:
    rule = rule_of(answer_type)
    return f" {rule.ask}" if rule and rule.ask else ""


def wording_digest(answer_types: Iterable[str]) -> str:
    """Identifies the wording of prompts for rows of these types: what other distributions ask is in it."""
    asks = {answer_type: _ask(answer_type) for answer_type in answer_types if _ask(answer_type)}
    return digest_json([TEMPLATE_DIGEST, asks]) if asks else TEMPLATE_DIGEST


def analysis_message(example: Example) -> str:
    """The user's turn for a reader's own question. This wording asks for no form of answer."""
    return _ANALYSIS.format(context=example.context, question=example.question)


Message = Callable[[Example], str]
"""A wording: makes the user's turn of an example."""


def render_prompt(tokenizer: Any, example: Example, message: Message = user_message) -> str:
    """The whole prompt under the policy's chat template, up to where the policy goes on.

    Only :func:`encode` and :func:`count_tokens` may read it: control tokens in the document are marked for them.
    """
    turns, start = _turns(example, message), answer_start(example)
    text = _rendered(tokenizer, turns)
    if start and opens_thinking(text):
        # After the first words of the answer there would be no thinking, so they end the question.
        return _rendered(tokenizer, _ending_in(turns, start))
    return text + start


def _turns(example: Example, message: Message) -> list[Turn]:
    return [*earlier_turns(example), {"role": "user", "content": message(example)}]


def _ending_in(turns: list[Turn], words: str) -> list[Turn]:
    last = turns[-1]
    return [*turns[:-1], {**last, "content": last["content"] + words}]


def _rendered(tokenizer: Any, turns: list[Turn]) -> str:
    control = _control_tokens(tokenizer, str(tokenizer.chat_template))
    text: str = tokenizer.apply_chat_template(
        [{**turn, "content": control.sub(_broken, turn["content"].replace(_BREAK, ""))} for turn in turns],
        tokenize=False,
        add_generation_prompt=True,
        chat_template=_dated(tokenizer.get_chat_template()),
    )
    return text


@lru_cache(maxsize=4)
def _dated(template: str) -> str:
    """The template with a fixed date in place of today's."""
    return _TODAY.sub(lambda call: repr(_DATE.strftime(call[2])), template)


def served_message(tokenizer: Any, message: str) -> str:
    """A user's turn for a server that applies a template of its own.

    A server reads control tokens in it, so each gets an invisible character.
    """
    return _control_tokens(tokenizer, str(tokenizer.chat_template)).sub(_broken, message).replace(_BREAK, _INVISIBLE)


def served_turns(tokenizer: Any, example: Example) -> list[Turn]:
    """The turns of a row for a server that applies a template of its own; an answer's first words end the question."""
    turns = _turns(example, user_message)
    start = answer_start(example)
    turns = _ending_in(turns, start) if start else turns
    return [{**turn, "content": served_message(tokenizer, turn["content"])} for turn in turns]


def _broken(token: re.Match[str]) -> str:
    return token[0][0] + _BREAK + token[0][1:]


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Any, template: str) -> re.Pattern[str]:
    """Finds the texts that the tokenizer would read as control tokens: special ones, and those of the chat template.

    R1's ``<｜User｜>`` is not marked as special, and the tokenizers of other models hold plain words as added tokens.
    """
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    # Where the template writes them in pieces. The attribute of this name is not in the transformers of GPU stages.
    named = tokenizer.init_kwargs.get("chat_control_tokens") or ()
    written = [text for text in added if text.strip() and text in template]  # some templates hold blank tokens
    tokens = {*written, *named, *(text for text, special in added.items() if special)}
    # The longest first: one token's text may begin with another's.
    return re.compile("|".join(re.escape(text) for text in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Refuse a model whose prompts cannot be rendered, before anything is done with it.

    Raises:
        ValueError: the tokenizer holds no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"model {name} has no chat template, so no prompt can be rendered: name a Jinja file in "
            "model.chat_template (that of the model's instruct version, for example), or put it into the model's "
            "folder as chat_template.jinja"
        )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt. No special tokens are added: the chat template has them already."""
    return [id for part in text.split(_BREAK) for id in tokenizer(part, add_special_tokens=False)["input_ids"]]


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
    parts = [text.split(_BREAK) for text in texts]
    counts = map(len, backend.encode_batch_fast([part for text in parts for part in text], add_special_tokens=False))
    return [sum(next(counts) for _ in text) for text in parts]


def prompt_tokens(tokenizer: Any, example: Example, message: Message = user_message) -> int:
    """Number of tokens of the whole rendered prompt."""
    return len(encode(tokenizer, render_prompt(tokenizer, example, message)))


def opens_thinking(prompt: str) -> bool:
    """Whether the chat template opens the ``<think>`` block itself, as those of R1-distilled models do."""
    return prompt.rstrip().endswith("<think>")


def as_completion(prompt: str, solution: str) -> str:
    """A worked solution as the policy would have to continue ``prompt``.

    Where the prompt ends in ``<think>``, the solution's own tag is dropped, so that the thinking is opened once. Where
    the prompt ends in a closed block, as Qwen3's does with thinking switched off, the solution's thinking is dropped.

    Raises:
        ValueError: the solution would be thinking without an answer: it does not close what it or the prompt opens.
    """
    if opens_thinking(prompt):
        if "</think>" not in solution:
            raise ValueError(
                f"the chat template opens <think> and the solution {solution[:60]!r} has no </think>, so all of it "
                "would be thinking without an answer: give solutions with their thinking in data.sft"
            )
        return _THINK_TAG.sub("", solution, count=1)
    if prompt.rstrip().endswith("</think>"):
        answer = solution.rpartition("</think>")[2].lstrip()
        if not answer or _THINK_TAG.match(answer):
            raise ValueError(
                f"the chat template closes <think> and the solution {solution[:60]!r} has no answer after its "
                "thinking: give solutions with an answer in data.sft"
            )
        return answer
    return solution


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
    if is_conversation(example):
        return _fewer_turns(tokenizer, example, max_tokens, total)
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


def _fewer_turns(tokenizer: Any, example: Example, max_tokens: int, total: int) -> tuple[Example, int, int]:
    """:func:`truncate_middle` of a conversation of ``total`` tokens: whole exchanges leave its middle."""
    if total <= max_tokens:
        return example, total, 0

    def size(kept: int) -> int:
        return prompt_tokens(tokenizer, without_middle(example, kept))

    most = len(earlier_turns(example)) // 2
    if (least := size(0)) > max_tokens:
        raise ValueError(
            f"row {example.id!r}: the question alone takes {least} tokens, the limit is {max_tokens}: raise the prompt"
            " limit"
        )
    kept = bisect_right(range(1, most + 1), max_tokens, key=size)
    shorter = without_middle(example, kept)
    left = size(kept)
    return shorter, left, total - left
