"""Does the judge judge as the labels say? Cohen's kappa on pairs whose right verdict is known.

The labels hold by construction: an answer that restates a gold in other words is equal to it; the
gold of another question, a number with another sign or another magnitude is not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.evaluation.statistics import kappa
from qwenlong_core.records import Example
from qwenlong_core.rewards import Judge, JudgeQuestion, rule_score


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPair:
    """One comparison with its right verdict."""

    question: JudgeQuestion
    equal: bool
    kind: str
    """How it was made: ``restated``, ``other gold``, ``other sign``, ``other magnitude``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A judge against the labels."""

    kappa: float | None
    """Over the pairs that got a verdict; ``None`` where none did."""
    pairs: int
    no_verdict: int
    wrong_by_kind: dict[str, int]


def _restated(example: Example) -> str:
    gold = example.answers[0].strip()
    if example.answer_type == "number":
        return re.sub(r"^(-?)\$\s*(.+)$", r"\1\2 dollars", re.sub(r"\s*%$", " percent", gold))
    return f"It is {gold}."


def _number_traps(gold: str) -> list[tuple[str, bool, str]]:
    made = [(gold[1:] if gold.startswith("-") else f"-{gold}", False, "other sign")]
    if "%" not in gold:
        scaled = gold.replace("million", "billion") if "million" in gold else f"{gold} million"
        made.append((scaled, False, "other magnitude"))
    return made


def _pairs_of(example: Example, other: Example) -> list[tuple[str, bool, str]]:
    made = [(_restated(example), True, "restated")]
    if example.answer_type == "number":
        made += _number_traps(example.answers[0].strip())
    # Two questions may happen to share an answer: only what the strict rule keeps apart is labelled so.
    if rule_score(other.answers[0], example).value == 0:
        made.append((other.answers[0], False, "other gold"))
    return made


def labelled_pairs(examples: Sequence[Example], limit: int, seed: int) -> list[LabelledPair]:
    """Pairs built from rows with answers in words or numbers, at most ``limit``, half of them equal.

    Raises:
        ValueError: fewer than two rows are of those types.
    """
    rng = random.Random(seed)
    usable = sorted((e for e in examples if e.answer_type in ("span", "number")), key=lambda e: e.id)
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} rows with span or number answers: labelled pairs need at least two")
    rng.shuffle(usable)
    made: dict[bool, list[LabelledPair]] = {True: [], False: []}
    for index, example in enumerate(usable):
        alike = [e for e in usable[index + 1 :] + usable[:index] if e.answer_type == example.answer_type]
        for answer, equal, kind in _pairs_of(example, alike[0]) if alike else []:
            question = JudgeQuestion(question=example.question, golds=example.answers[:1], answer=answer)
            made[equal].append(LabelledPair(question=question, equal=equal, kind=kind))
    half = min(limit // 2, len(made[True]), len(made[False]))
    return rng.sample(made[True], half) + rng.sample(made[False], half)


async def judge_agreement(judge: Judge, pairs: Sequence[LabelledPair]) -> Agreement:
    """Ask the judge about every pair; one without a verdict is counted apart, not as disagreement."""
    verdicts = await judge.verdicts([pair.question for pair in pairs])
    given = [(pair, verdict.equal) for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.equal is not None]
    wrong = [pair.kind for pair, equal in given if equal is not pair.equal]
    return Agreement(
        kappa=kappa([pair.equal for pair, _ in given], [equal for _, equal in given]) if given else None,
        pairs=len(pairs),
        no_verdict=len(pairs) - len(given),
        wrong_by_kind={kind: wrong.count(kind) for kind in sorted(set(wrong))},
    )
