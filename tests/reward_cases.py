"""The golden table, and the lazy scorers that its negative cases are designed to fool."""

import json
import re
import string
from pathlib import Path
from typing import Any

from qwenlong_core.records import Completion, Example

FOLDER = Path(__file__).parent / "golden"


def cases(table: str = "rewards") -> list[dict[str, Any]]:
    """Every row of a table: the completion, and the reward that the rule must give."""
    return [json.loads(line) for line in (FOLDER / f"{table}.jsonl").read_text(encoding="utf-8").splitlines()]


def example_of(case: dict[str, Any]) -> Example:
    scale = {"answer_scale": case["answer_scale"]} if "answer_scale" in case else {}
    return Example(
        id=case["id"],
        source="golden",
        domain="math",
        answer_type=case["answer_type"],
        context="",
        question=case.get("question", ""),
        answers=tuple(case["answers"]),
        choices=tuple(case.get("choices", ())),
        metadata=scale,
    )


def completion_of(case: dict[str, Any]) -> Completion:
    return Completion(text=case["completion"], token_ids=(), finish_reason=case.get("finish_reason", "stop"))


def _squad(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _containment(text: str, gold: str) -> bool:
    """The published reference's rule: substring in either direction, after SQuAD normalisation."""
    said = _squad(text.lower().split("the answer is")[-1])
    return _squad(gold) in said or said in _squad(gold)


def _mentioned(text: str, gold: str) -> bool:
    """The gold occurs anywhere in the text, including the thinking."""
    return gold.lower() in text.lower()


def _any_number(text: str, gold: str) -> bool:
    """Any number in the text equals the gold up to its sign, a power of ten and its scale word."""
    wanted = [abs(float(n.replace(",", ""))) for n in re.findall(r"\d[\d,]{0,20}(?:\.\d+)?", gold)]
    found = [abs(float(n.replace(",", "")[:30])) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]
    powers = [10.0**k for k in range(-9, 10)]
    return any(abs(f - w * p) <= 0.0015 * w * p for w in wanted for f in found for p in powers)


def _any_letter(text: str, gold: str) -> bool:
    return re.search(rf"\b{gold}\b", text, re.IGNORECASE) is not None


def _persuaded_judge(text: str, gold: str) -> bool:
    """A judge that sees the whole completion, and whose "YES" may be anywhere in the reply."""
    return re.search(r"\byes\b|\bcorrect\b|\bequivalent\b|\bgold\b|reference answer", text, re.IGNORECASE) is not None


def lazy_scorer_pays(case: dict[str, Any]) -> bool:
    """Whether one of these commonly written scorers would reward this completion."""
    text, kind = case["completion"], case["answer_type"]
    scorers = [_containment, _mentioned]
    if kind == "number":
        scorers.append(_any_number)
    if kind in ("span", "unanswerable"):
        scorers.append(_persuaded_judge)
    if kind == "choice":
        scorers.append(_any_letter)
    return any(scorer(text, gold) for scorer in scorers for gold in case["answers"])
