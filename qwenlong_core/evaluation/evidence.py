"""Where in a document the answer is, for accuracy by depth and for the marks in the report."""

from __future__ import annotations

import re
from statistics import fmean

from qwenlong_core.records import Example


def occurrences(context: str, answers: tuple[str, ...]) -> list[tuple[int, int]]:
    """Character spans ``(start, end)`` where the answers occur as whole words, whatever their case.

    In order and without overlaps, so they can be marked from left to right.
    """
    spans: list[tuple[int, int]] = []
    for answer in filter(None, {answer.strip() for answer in answers}):
        # Not \b: an answer may begin or end with a sign, such as "$5" or "12%", where \b would not match.
        pattern = rf"(?<!\w){re.escape(answer)}(?!\w)"
        spans.extend(match.span() for match in re.finditer(pattern, context, re.IGNORECASE))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def marked_texts(example: Example) -> tuple[str, ...]:
    """The texts worth marking in the document: the gold answers, or the text of the right option."""
    if example.answer_type == "choice":
        index = ord(example.answers[0].strip().upper()[:1]) - ord("A")
        return (example.choices[index],) if 0 <= index < len(example.choices) else ()
    return () if example.answer_type in ("yes_no", "unanswerable") else example.answers


def evidence_spans(example: Example) -> list[tuple[int, int]]:
    """Character spans of the passages that support the answer, where the source names them.

    A document that lost its middle has none: the offsets of the whole document would point elsewhere in it.
    """
    if example.metadata.get("lost_tokens"):
        return []
    return [(start, end) for start, end in example.metadata.get("evidence", [])]


def evidence_depth(example: Example) -> float | None:
    """Depth of the evidence in [0, 1], 0 at the start of the document; ``None`` where it is not known.

    The mean of the source's own ``evidence_depth``, else the place of the answer where it occurs exactly once.
    """
    given = example.metadata.get("evidence_depth")
    if given:
        return fmean(given)
    # An answer that occurs twice may be evidence at either place, so its depth is not known.
    found = occurrences(example.context, marked_texts(example))
    return found[0][0] / len(example.context) if len(found) == 1 else None
