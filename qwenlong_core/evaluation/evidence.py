"""Where in a document the answer stands: for accuracy by depth, and for readers of the report."""

from __future__ import annotations

import re
from statistics import fmean

from qwenlong_core.records import Example


def occurrences(context: str, answers: tuple[str, ...]) -> list[tuple[int, int]]:
    """Character spans of the answers in the context, case-insensitive, whole words, in order.

    Overlapping spans are merged, so the result can be marked from left to right.
    """
    spans: list[tuple[int, int]] = []
    for answer in filter(None, {answer.strip() for answer in answers}):
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
    """The texts worth marking in the document: gold answers, or the right option's text."""
    if example.answer_type == "choice":
        index = ord(example.answers[0].strip().upper()[:1]) - ord("A")
        return (example.choices[index],) if 0 <= index < len(example.choices) else ()
    return () if example.answer_type in ("yes_no", "unanswerable") else example.answers


def evidence_spans(example: Example) -> list[tuple[int, int]]:
    """Character spans of the passages that the answer rests on, where the source names them; none in a
    document that lost its middle, where they would point elsewhere."""
    if example.metadata.get("lost_tokens"):
        return []
    return [(start, end) for start, end in example.metadata.get("evidence", [])]


def evidence_depth(example: Example) -> float | None:
    """Depth of the evidence in [0, 1]: the mean of the source's own ``evidence_depth`` if it gave
    one, else the place of the only occurrence of the answer; ``None`` where that is not known."""
    given = example.metadata.get("evidence_depth")
    if given:
        return fmean(given)
    found = occurrences(example.context, marked_texts(example))
    return found[0][0] / len(example.context) if len(found) == 1 else None
