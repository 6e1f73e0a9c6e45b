"""Documents with numbered paragraphs, so that an answer can say which of them it rests on (``data.number_paragraphs``).

Each paragraph begins with its number, ``[1] ``, and the prompt asks for the numbers before the answer. Where a row says
which characters of its document are evidence, its metadata get the numbers of those paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwenlong_core.data.wordings import is_conversation, own_message
from qwenlong_core.records import Example

PARAGRAPHS = "paragraphs"
"""In the metadata of a numbered row: ``{"count", "evidence"}``, how many paragraphs there are and which are evidence,
counted from 1; without ``evidence`` where that is not known."""
_BORDER = re.compile(r"\n[ \t\r]*(?:\n[ \t\r]*)+")


def is_numbered(example: Example) -> bool:
    """Whether the row's paragraphs are numbered."""
    return PARAGRAPHS in example.metadata


def numbered(example: Example) -> Example:
    """The row with numbered paragraphs; a benchmark that asks in words of its own stays as it is.

    A worked solution gets the line that cites its evidence, before the answer.
    """
    if is_numbered(example) or is_conversation(example) or own_message(example) is not None:
        return example
    context, starts = example.context, _starts(example.context)
    marks = [f"[{number}] " for number in range(1, len(starts) + 1)]
    ends = [*starts[1:], len(context)]
    text = context[: starts[0]] + "".join(
        mark + context[start:end] for mark, start, end in zip(marks, starts, ends, strict=True)
    )
    metadata: dict[str, Any] = {**example.metadata, PARAGRAPHS: {"count": len(starts)}}
    if spans := example.metadata.get("evidence"):
        numbers = sorted({number for span in spans for number in _touched(starts, span)})
        metadata[PARAGRAPHS]["evidence"] = numbers
        metadata["evidence"] = [[_moved(starts, marks, place) for place in span] for span in spans]
    row = replace(example, context=text, metadata=metadata)
    return replace(row, solution=_citing(row)) if row.solution else row


def citation(numbers: Sequence[int]) -> str:
    """The line that names these paragraphs, in the form that the prompt asks for."""
    return f"Evidence: {', '.join(f'[{number}]' for number in numbers)}."


def _starts(context: str) -> list[int]:
    """Where each paragraph begins. White space around the document belongs to none."""
    first = len(context) - len(context.lstrip())
    return [first, *(border.end() for border in _BORDER.finditer(context, first) if border.end() < len(context))]


def _touched(starts: Sequence[int], span: Sequence[int]) -> list[int]:
    """Numbers of the paragraphs that a span of characters has a part of."""
    first, end = span
    ends = [*starts[1:], float("inf")]
    return [
        number for number, (begin, stop) in enumerate(zip(starts, ends, strict=True), 1) if begin < end and stop > first
    ]


def _moved(starts: Sequence[int], marks: Sequence[str], place: int) -> int:
    """Where a character of the plain document stands in the numbered one."""
    return place + sum(len(mark) for start, mark in zip(starts, marks, strict=True) if start <= place)


def _citing(row: Example) -> str | None:
    numbers, solution = row.metadata[PARAGRAPHS].get("evidence"), row.solution or ""
    if not numbers:
        return row.solution
    thoughts, closed, visible = solution.rpartition("</think>")
    work, _, answer = visible.rpartition("\n\n")
    before = thoughts + closed + work
    return "\n\n".join([*([before] if before else []), citation(numbers), answer.lstrip()])
