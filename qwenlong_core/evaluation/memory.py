"""Documents past the model's context, read part by part with running notes (``evaluation.reader = "memory"``).

    document --cut--> parts;  notes = ""
    for each part:   question, notes, part --engine--> notes
    answer:          notes in place of the document, in the usual prompt

After QwenLong-L1.5's memory agent (arXiv 2512.12967), for evaluation alone. Every sample of a question takes its own
notes. A document that fits the prompt's limit is asked whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from qwenlong_core.data.prompts import encode, prompt_tokens, render_prompt
from qwenlong_core.data.wordings import is_conversation
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.seeds import prompt_seed
from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.extract import visible_text
from qwenlong_core.settings.evaluation import EvaluationSettings

_READ = (
    "You read a long text part by part to answer a question. Here are the question, your notes on the parts so far and"
    " the next part. Write the notes anew: keep what may help to answer the question, add what the next part says about"
    " it, and leave out the rest. Give the notes alone.\n\n"
    "Question: {question}\n\nNotes so far:\n{notes}\n\n<text>\n{part}\n</text>"
)
_NOTHING = "(none)"
_SLACK = 16
"""Tokens by which text may grow when it is put together and counted anew."""


def parts_of(tokenizer: Any, document: str, size: int) -> list[str]:
    """The document cut into parts of at most ``size`` tokens, at the ends of lines where there are some; together they
    are the document."""
    spans = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    starts, cuts, index = [start for start, _ in spans], [0], size
    while index < len(starts):
        line = document.rfind("\n", (cuts[-1] + starts[index]) // 2, starts[index])
        cuts.append(line + 1 if line > cuts[-1] else starts[index])
        index = bisect_right(starts, cuts[-1]) - 1 + size
    cuts.append(len(document))
    return [document[start:end] for start, end in pairwise(cuts) if start < end]


def first_tokens(tokenizer: Any, text: str, size: int) -> str:
    """The text's first ``size`` tokens."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(spans) <= size else text[: spans[size - 1][1]]


def _message(example: Example, notes: str) -> str:
    return _READ.format(question=example.question, notes=notes or _NOTHING, part=example.context)


def reading_prompt(tokenizer: Any, example: Example, notes: str, part: str) -> list[int]:
    """The prompt that asks for new notes after a part."""
    row = replace(example, context=part, metadata={})  # the first words of an answer are for the answer
    return encode(tokenizer, render_prompt(tokenizer, row, partial(_message, notes=notes)))


def answering_prompt(tokenizer: Any, example: Example, notes: str) -> list[int]:
    """The usual prompt, with the notes in place of the document."""
    return encode(tokenizer, render_prompt(tokenizer, replace(example, context=notes or _NOTHING)))


def check_fits(tokenizer: Any, example: Example, settings: EvaluationSettings) -> None:
    """Refuse a row that cannot be read part by part.

    Raises:
        ValueError: it is a conversation, or a part with notes and question is over ``evaluation.max_prompt_tokens``.
    """
    if is_conversation(example):
        raise ValueError(
            f"row {example.id!r} is a conversation, which is not read part by part: leave its benchmark out, or use"
            " evaluation.reader='whole'"
        )
    bare = replace(example, context="")
    frame = max(len(reading_prompt(tokenizer, bare, "", "")), prompt_tokens(tokenizer, bare))
    needed, limit = frame + settings.chunk + settings.memory_tokens + 2 * _SLACK, settings.max_prompt_tokens
    if needed > limit:
        room = limit - (needed - settings.chunk)
        raise ValueError(
            f"row {example.id!r}: evaluation.chunk={settings.chunk:,}, memory_tokens={settings.memory_tokens:,} and the"
            f" question take {needed:,} tokens, over max_prompt_tokens={limit:,}: lower chunk to {max(room, 0):,}"
        )


def read_and_answer(
    engine: Engine, tokenizer: Any, examples: Sequence[Example], settings: EvaluationSettings, sampling: Sampling
) -> list[list[Completion]]:
    """The completions of each row, each after notes of its own.

    Raises:
        ValueError: a row cannot be read part by part.
    """
    for example in examples:
        check_fits(tokenizer, example, settings)
    parts = [parts_of(tokenizer, example.context, settings.chunk) for example in examples]
    found: list[list[Completion]] = [[] for _ in examples]
    for number in range(settings.samples):
        seed = None if sampling.seed is None else prompt_seed(sampling.seed, (), number)
        own = replace(sampling, seed=seed)
        notes = _notes(engine, tokenizer, examples, parts, settings, own)
        prompts = [answering_prompt(tokenizer, row, note) for row, note in zip(examples, notes, strict=True)]
        for group, (completion,) in zip(found, engine.generate(prompts, 1, own), strict=True):
            group.append(completion)
    return found


def _notes(
    engine: Engine,
    tokenizer: Any,
    examples: Sequence[Example],
    parts: Sequence[Sequence[str]],
    settings: EvaluationSettings,
    sampling: Sampling,
) -> list[str]:
    """The notes on each row's document after its last part. Rows are read side by side."""
    notes, reading = [""] * len(examples), replace(sampling, max_tokens=settings.memory_tokens, stop=())
    for turn in range(max(map(len, parts))):
        rows = [row for row in range(len(examples)) if turn < len(parts[row])]
        prompts = [reading_prompt(tokenizer, examples[row], notes[row], parts[row][turn]) for row in rows]
        for row, (completion,) in zip(rows, engine.generate(prompts, 1, reading), strict=True):
            # Thinking that was cut leaves nothing to note: the earlier notes stay.
            written = visible_text(completion.text)
            if written is not None:
                notes[row] = first_tokens(tokenizer, written.strip(), settings.memory_tokens)
    return notes
