"""How a benchmark that asks in words of its own is asked. Its rows carry the words in their metadata:

``frame``         ``{"before", "after"}``: the user's turn is before + document + after; with ``"alone"``, the turn
                  that asks without a document
``answer_start``  the first words of the answer, which the model continues
``system``        the system's turn before it
``turns``         true: the document is a conversation, a JSON list of ``{"role", "content"}``, and the question its
                  last turn

Rows without them are asked in the paper's words (:mod:`~qwenlong_core.data.prompts`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from qwenlong_core.records import Example

Turn = dict[str, str]
"""``{"role", "content"}``."""

_NO_DOCUMENT = "(The text is not available.)"


def frame(before: str, after: str, answer_start: str = "", alone: str = "") -> dict[str, Any]:
    """The metadata of a row whose user's turn is ``before`` + document + ``after``."""
    words = {"before": before, "after": after} | ({"alone": alone} if alone else {})
    return {"frame": words, **({"answer_start": answer_start} if answer_start else {})}


def own_message(example: Example) -> str | None:
    """The user's turn in the benchmark's own words, or ``None``."""
    if is_conversation(example):
        return example.question
    words = example.metadata.get("frame")
    return None if words is None else f"{words['before']}{example.context}{words['after']}"


def answer_start(example: Example) -> str:
    """The first words of the answer; mostly none."""
    return str(example.metadata.get("answer_start", ""))


def is_conversation(example: Example) -> bool:
    """Whether the document is a conversation that the question continues."""
    return bool(example.metadata.get("turns"))


def earlier_turns(example: Example) -> list[Turn]:
    """The turns before the question; mostly none."""
    system = example.metadata.get("system")
    turns: list[Turn] = json.loads(example.context) if is_conversation(example) else []
    return [{"role": "system", "content": system}, *turns] if system else turns


def conversation(turns: list[Turn]) -> str:
    """A conversation as the document of a row."""
    return json.dumps(turns, ensure_ascii=False)


def without_middle(example: Example, kept: int) -> Example:
    """The conversation with ``kept`` exchanges, half from its start and half from its end.

    An exchange is two turns, so that the roles still alternate. A first turn without a partner (the system's) stays.
    """
    turns: list[Turn] = json.loads(example.context)
    lone = len(turns) % 2
    head, tail = 2 * ((kept + 1) // 2), 2 * (kept // 2)
    rest = turns[lone:]
    return replace(example, context=conversation([*turns[:lone], *rest[:head], *rest[len(rest) - tail :]]))


def without_document(example: Example) -> Example:
    """The row as it is asked to see how much of an answer is memory."""
    if is_conversation(example):
        return replace(example, context=conversation([]))
    if alone := example.metadata.get("frame", {}).get("alone"):
        return replace(example, context="", metadata={**example.metadata, "frame": {"before": alone, "after": ""}})
    return replace(example, context=_NO_DOCUMENT)
