"""Rows of RULER: each task at each length, filled up with its haystack as far as the length allows.

Lengths are counted with the policy's own tokenizer, chat template and all, as RULER counts them. The largest haystack
that fits is sought once for a task and length; a row that comes out longer takes a little less.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import prompt_tokens
from qwenlong_core.data.ruler.copies import RULER, read_dataset, read_essay, tasks_left_out
from qwenlong_core.data.ruler.counting import common_words_maker, frequent_words_maker
from qwenlong_core.data.ruler.draft import Draft, Maker
from qwenlong_core.data.ruler.needles import needle_maker
from qwenlong_core.data.ruler.questions import question_maker
from qwenlong_core.data.ruler.tasks import TASKS, WORDINGS, Task, label_of
from qwenlong_core.data.ruler.tracking import tracking_maker
from qwenlong_core.data.wordings import frame
from qwenlong_core.records import Example
from qwenlong_core.settings.data import RulerSettings

logger = logging.getLogger(__name__)

LENGTHS = tuple(4_096 << power for power in range(6))
"""Of RULER's tables, 4K to 128K."""
_SEED = "ruler-42"
_KEPT_FREE = max(wording.new_tokens for wording in WORDINGS.values())
_EXAMPLE_TOKENS, _EXAMPLE_SHARE = 500, 4
"""Of the solved example of variable tracking: RULER's number, or a quarter of a prompt that is shorter than 2,000."""
_WORD = re.compile("Ġ([a-z]{4,10})")
"""A word of the bundled vocabulary: with the space before it, whole and in lower case."""


def lengths_within(settings: RulerSettings, longest: int) -> tuple[int, ...]:
    """The lengths to make, ascending.

    Args:
        longest: ``evaluation.max_prompt_tokens``.

    Raises:
        ValueError: a given length, or every one of RULER's, is over the limit.
    """
    most = longest + _KEPT_FREE
    if settings.lengths is None:
        fitting = tuple(length for length in LENGTHS if length <= most)
        if not fitting:
            raise ValueError(
                f"RULER's lengths begin at {LENGTHS[0]:,} tokens, over evaluation.max_prompt_tokens={longest:,}: raise"
                f" it, or set data.ruler.lengths to lengths of at most {most:,}"
            )
        return fitting
    if over := [length for length in settings.lengths if length > most]:
        raise ValueError(
            f"data.ruler.lengths holds {over[0]:,}, whose prompts are longer than evaluation.max_prompt_tokens="
            f"{longest:,} and would lose what is asked for: lower it to {most:,} or less, or raise the limit"
        )
    return tuple(sorted(set(settings.lengths)))


def ruler_rows(tokenizer: Any, spec: str, settings: RulerSettings, longest: int) -> Iterator[Example]:
    """The rows of every task that can be made, length by length; the same ones for every model of a tokenizer.

    Args:
        longest: ``evaluation.max_prompt_tokens``.

    Raises:
        ValueError: see :func:`lengths_within` and :func:`copies_of`.
    """
    missing = tasks_left_out(spec)
    if missing:
        logger.warning(
            "ruler: left out: %s. They are made from copies: name their folder, %s:FOLDER",
            ", ".join(f"{name} (needs {file})" for name, file in missing.items()),
            RULER,
        )
    lengths = lengths_within(settings, longest)
    if settings.lengths is None and len(lengths) < len(LENGTHS):
        left = ", ".join(f"{length:,}" for length in LENGTHS[len(lengths) :])
        logger.warning("ruler: lengths left out: %s, over evaluation.max_prompt_tokens=%d", left, longest)
    folder, words = Path(spec.partition(":")[2]), vocabulary()
    for task in TASKS.values():
        if task.name in missing:
            continue
        material = _material(task, folder)
        for length in lengths:
            maker = _maker(task, length, words, material, tokenizer)
            yield from _rows(tokenizer, task, length, maker, settings.rows, longest)


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Words for keys and lists: those of the bundled vocabulary, sorted. RULER takes them from ``wonderwords``."""
    return tuple(sorted(match[1] for token in bundled_tokenizer().get_vocab() if (match := _WORD.fullmatch(token))))


def _material(task: Task, folder: Path) -> Any:
    if not task.needs:
        return None
    return read_dataset(folder, task.needs) if task.family == "qa" else read_essay(folder)


def _maker(task: Task, length: int, words: Sequence[str], material: Any, tokenizer: Any) -> Maker:
    if task.family == "niah":
        return needle_maker(task, words, material or ())
    if task.family == "variable_tracking":
        return _tracking(task, length, tokenizer)
    if task.family == "common_words":
        return common_words_maker(words, length)
    return frequent_words_maker(length) if task.family == "frequent_words" else question_maker(material)


def _tracking(task: Task, length: int, tokenizer: Any) -> Maker:
    """The maker whose solved example has the tokens that RULER gives it."""
    budget = min(_EXAMPLE_TOKENS, length // _EXAMPLE_SHARE)
    size = 1
    while len(tokenizer(tracking_maker(size + 1).make(Random(_SEED), 1, 0).wording.before)["input_ids"]) <= budget:
        size += 1
    return tracking_maker(size)


def _rows(tokenizer: Any, task: Task, length: int, maker: Maker, count: int, longest: int) -> Iterator[Example]:
    budget = min(length - WORDINGS[task.family].new_tokens, longest)

    def row(size: int, index: int) -> Example:
        return _example(task, length, index, maker.make(Random(f"{_SEED}/{task.name}/{length}/{index}"), size, index))

    def fits(size: int, index: int) -> bool:
        return prompt_tokens(tokenizer, row(size, index)) <= budget

    if not fits(maker.least, 0):
        logger.warning("ruler: %s is left out at %d tokens, which do not hold its smallest question", task.name, length)
        return
    most = _largest(maker, lambda size: fits(size, 0))
    for index in range(count):
        size = most
        while size > maker.least and not fits(size, index):
            size = max(maker.least, size - max(1, size // 50))
        if not fits(size, index):
            raise ValueError(
                f"ruler: row {index} of {task.name} does not fit {length:,} tokens: raise data.ruler.lengths"
            )
        yield row(size, index)


def _largest(maker: Maker, fits: Any) -> int:
    """The largest size that fits: doubled until one does not, then halved in."""
    low = maker.least
    high = 2 * low
    while (maker.most is None or high <= maker.most) and fits(high):
        low, high = high, 2 * high
    if maker.most is not None:
        high = min(high, maker.most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _example(task: Task, length: int, index: int, draft: Draft) -> Example:
    words = draft.wording
    row_id = f"ruler-{length}-{task.name}-{index}"
    return Example(
        id=row_id,
        source=f"{RULER}-{label_of(length)}",
        domain="reading",
        answer_type="published",
        context=draft.context,
        question=words.after.strip(),
        answers=draft.answers,
        document_id=row_id,
        metadata={
            "scorer": task.scorer,
            "parts": [task.name],
            "length": length,
            **frame(words.before, words.after, words.answer_start),
        },
    )
