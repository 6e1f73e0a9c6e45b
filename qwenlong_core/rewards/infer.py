"""The answer type of a question that does not state it."""

from __future__ import annotations

import re

from qwenlong_core.records import AnswerType

_NUMBER = re.compile(
    r"^\(?[-+−–]?\s*[$€£¥]?\s*[-+−–]?\d[\d,]*(\.\d+)?([eE][-+]?\d{1,3})?\)?\s*(%|percent|thousand|million|billion|trillion)?\.?$",
    re.IGNORECASE,
)
_UNANSWERABLE = {"unanswerable", "insufficient information", "not answerable", "no answer", "not enough information"}


def infer_answer_type(domain: str, answers: tuple[str, ...], choices: tuple[str, ...]) -> AnswerType:
    """The answer type of a row that does not state it: it decides which rule compares answers."""
    if choices:
        return "choice"
    plain = {answer.strip().rstrip(".").lower() for answer in answers}
    if plain & _UNANSWERABLE:
        return "unanswerable"
    if plain <= {"yes", "no"}:
        return "yes_no"
    if domain == "math" and all(_NUMBER.match(answer.strip()) for answer in answers):
        return "number"
    return "span"
