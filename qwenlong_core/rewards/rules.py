"""The rule of each answer type: does the committed answer equal a gold answer?

Each rule takes an extracted answer and its example and returns a :class:`RuleResult`: 1.0 or 0.0, the reason, and
whether that is final or a judge may still be asked. Containment, in either direction, is never equality.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from qwenlong_core.answer_types import rule_of
from qwenlong_core.records import Example
from qwenlong_core.rewards.number.equal import same_quantity
from qwenlong_core.rewards.number.quantity import Quantity, in_balance_sheet
from qwenlong_core.rewards.number.read import read_quantity
from qwenlong_core.rewards.number.scales import known_scale, scales_asked
from qwenlong_core.rewards.number.units import UNITS
from qwenlong_core.rewards.number.units import WORDS as UNIT_WORDS
from qwenlong_core.rewards.options import read_choice
from qwenlong_core.rewards.published import published_score
from qwenlong_core.rewards.text import normalize_span, strip_wrappers
from qwenlong_core.rewards.unanswerable import says_unanswerable
from qwenlong_core.rewards.yes_no import read_yes_no

SHOWN_CHARS = 80
"""Longest part of an answer that a reason quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What the rule says about an answer."""

    value: float
    """1.0 or 0.0; of a published scorer any share between."""
    reason: str
    decided: bool = True
    """False if the answer may mean the same in other words, so that a judge may be asked."""


def rule_score(answer: str, example: Example, number_tolerance: float = 0.0015) -> RuleResult:
    """Compare an extracted answer with the gold answers of its example.

    Raises:
        ValueError: the gold answers cannot be read as the example's type. Bad data must stop the run, not score 0.
    """
    if not example.answers:
        raise ValueError(f"example {example.id!r} has no gold answers; give at least one")
    rule = _RULES.get(example.answer_type, _by_rule_from_outside)
    return rule(answer, example, number_tolerance)


def repeated_gold(readings: tuple[str, ...], example: Example) -> str | None:
    """The reading that repeats a gold in words whole, if one does: its signs and sentences are the gold's own."""
    if rule_of(example.answer_type):  # how its texts may be written in another way is not known here
        return next((reading for reading in readings if reading in example.answers), None)
    if example.answer_type not in ("span", "unanswerable"):
        return None
    golds = {_normalized_gold(gold) for gold in example.answers} - {""}
    return next((reading for reading in readings if normalize_span(strip_wrappers(reading)) in golds), None)


def check_gold(example: Example) -> None:
    """Check that the rule can read an example's gold answers, before anything is trained on it.

    Raises:
        ValueError: it cannot; the message names the example, the gold and what the type expects.
    """
    # Every rule reads the golds before it looks at the answer, so an empty answer is enough.
    rule_score("", example)


def _number(answer: str, example: Example, tolerance: float) -> RuleResult:
    scale = known_scale(example.metadata.get("answer_scale"))
    golds = _gold_quantities(example.id, example.answers)
    reading = read_quantity(answer)
    if reading.quantity is None:
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: {reading.reason}", decided=reading.decided)
    # A word that no table knows may be a scale. Only the question or the gold can vouch that it is what is counted.
    if strange := _strange_word(reading.unknown, example):
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: unknown word {strange!r}", decided=False)
    said, asked = reading.quantity, scales_asked(example.question)
    if rate := _unasked_rate(said.unit, example):
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: a rate per {rate}", decided=False)
    # The prompt's form may have parentheses, so around the whole answer they are no minus: (5) is 5. Around a part,
    # as in (5) million, they may be one.
    in_doubt = said.bracketed and not (answer.startswith("(") and answer.endswith(")"))
    decided = not said.bracketed
    for text, gold in golds:
        # Where the gold is in parentheses too, they mean in both what they mean in the gold.
        meant = in_balance_sheet(said) if gold.bracketed else said
        equal = same_quantity(meant, gold, tolerance, scale, asked)
        if equal and (gold.bracketed or not in_doubt):
            return _equal(answer, text)
        # "13 shares" against "13 bonds", "A$5" against "$5": only a judge can tell.
        decided = decided and equal is False
    return _differs(answer, example, decided=decided)


def _strange_word(unknown: frozenset[str], example: Example) -> str:
    if not unknown:
        return ""
    known = _vouching_text(example)
    return next(
        (word for word in sorted(unknown) if not (word.isalpha() and re.search(rf"(?<!\w){word}(?!\w)", known))), ""
    )


def _unasked_rate(unit: str | None, example: Example) -> str:
    """``day`` for ``$32.4 million per day``, if neither the question nor a gold speaks of days: another amount."""
    below = (unit or "").partition("/")[2]
    if unit in UNITS or below not in UNITS or UNITS[below].dimension != "time":
        return ""
    words = "|".join(re.escape(word.casefold()) for word in (*UNIT_WORDS[below], *_RATES.get(below, ())))
    return "" if re.search(rf"(?<![a-z])(?:{words})(?:ly)?(?![a-z])", _vouching_text(example)) else below


_RATES = {"day": ("daily",), "year": ("annual", "annum", "p.a")}
"""Further words of a rate; ``weekly`` begins with its unit."""


def _vouching_text(example: Example) -> str:
    """The question and the golds, folded. A long prompt ends with its question, so only the end is searched."""
    return " ".join((example.question[-4_000:], *example.answers)).casefold()


@lru_cache(maxsize=4096)
def _gold_quantities(example_id: str, answers: tuple[str, ...]) -> tuple[tuple[str, Quantity], ...]:
    readings = [(text, read_quantity(text)) for text in answers]
    golds = tuple((text, in_balance_sheet(r.quantity)) for text, r in readings if r.quantity is not None)
    if not golds:
        raise ValueError(
            f"example {example_id!r}: gold {answers[0][:SHOWN_CHARS]!r} is not a number ({readings[0][1].reason}); "
            "correct it or give it answer_type 'span'"
        )
    return golds


def _choice(answer: str, example: Example, _tolerance: float) -> RuleResult:
    gold = _gold_letter(example)
    choice = read_choice(answer, example.choices)
    if problem := choice.problem or choice.clash:
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: {problem}")
    if choice.letter is None:
        return RuleResult(value=0.0, reason=f"{_shown(answer)} is neither a letter nor the text of exactly one option")
    return _equal(answer, gold) if choice.letter == gold else _differs(answer, example)


def _gold_letter(example: Example) -> str:
    gold = example.answers[0].strip().upper()
    last = chr(ord("A") + len(example.choices) - 1) if example.choices else "Z"
    if len(example.answers) != 1 or not re.fullmatch(f"[A-{last}]", gold):
        raise ValueError(
            f"example {example.id!r}: gold {list(example.answers)!r} of a choice must be one letter in A..{last}; "
            "correct answers or choices"
        )
    return gold


def _span(answer: str, example: Example, _tolerance: float) -> RuleResult:
    wanted = normalize_span(answer)
    for gold in example.answers:
        if wanted and wanted == _normalized_gold(gold):
            return _equal(answer, gold)
    return _differs(answer, example, decided=False)


@lru_cache(maxsize=4096)
def _normalized_gold(gold: str) -> str:
    return normalize_span(strip_wrappers(gold))  # extraction removed the answer's wrappers too


def _yes_no(answer: str, example: Example, _tolerance: float) -> RuleResult:
    gold = read_yes_no(example.answers[0])
    if gold.word is None:
        raise ValueError(
            f"example {example.id!r}: gold {example.answers[0]!r} of type yes_no must be yes or no; correct it"
        )
    said = read_yes_no(answer)
    if said.word is None:
        return RuleResult(
            value=0.0, reason=f"{_shown(answer)} does not say yes or no{said.problem and ': ' + said.problem}"
        )
    return _equal(answer, gold.word) if said.word == gold.word else _differs(answer, example)


def _unanswerable(answer: str, example: Example, _tolerance: float) -> RuleResult:
    said = normalize_span(answer)
    if says_unanswerable(answer) or any(said and said == _normalized_gold(gold) for gold in example.answers):
        return RuleResult(value=1.0, reason=f"{_shown(answer)} says that the document does not answer")
    return _differs(answer, example, decided=False)


def _published(answer: str, example: Example, tolerance: float) -> RuleResult:
    value = published_score(answer, example)
    if value is None:
        return RuleResult(value=0.0, reason="the benchmark has a judge decide", decided=False)
    return RuleResult(value=value, reason=f"{value:.3g} by the benchmark's own scorer")


def _by_rule_from_outside(answer: str, example: Example, _tolerance: float) -> RuleResult:
    """By another distribution's rule. What it cannot tell, or fails on, is in doubt: undecided, never paid."""
    rule, golds = rule_of(example.answer_type), _golds_from_outside(example.answer_type, example.answers)
    assert rule is not None
    try:
        said = rule.read(answer)
        verdicts = [None if said is None else rule.equal(said, gold) for gold in golds]
    except Exception as error:  # a model may write anything, and whatever the rule raises on it is no verdict
        reason = f"{_shown(answer)}: the rule of {example.answer_type!r} raised {type(error).__name__}: {error}"
        return RuleResult(value=0.0, reason=reason, decided=False)
    for gold, verdict in zip(example.answers, verdicts, strict=True):
        if verdict is True:
            return _equal(answer, gold)
    return _differs(answer, example, decided=all(verdict is False for verdict in verdicts))


@lru_cache(maxsize=4096)
def _golds_from_outside(answer_type: str, answers: tuple[str, ...]) -> tuple[Any, ...]:
    """The golds as the type's rule reads them. Each must equal itself, or the rule would pay nobody."""
    rule, golds = rule_of(answer_type), []
    assert rule is not None
    for text in answers:
        try:
            gold = rule.read(text)
            usable = gold is not None and rule.equal(gold, gold) is True
            why = "" if usable else "is no answer of that type, or not equal to itself"
        except Exception as error:  # whatever the other distribution's code raises
            why = f"made its rule raise {type(error).__name__}: {error}"
        if why:
            raise ValueError(
                f"gold {_shown(text)} of type {answer_type!r} {why}; correct it, or give it answer_type 'span'"
            )
        golds.append(gold)
    return tuple(golds)


_RULES: dict[str, Callable[[str, Example, float], RuleResult]] = {
    "number": _number,
    "choice": _choice,
    "span": _span,
    "yes_no": _yes_no,
    "unanswerable": _unanswerable,
    "published": _published,
}


def _equal(answer: str, gold: str) -> RuleResult:
    return RuleResult(value=1.0, reason=f"{_shown(answer)} equals gold {_shown(gold)}")


def _differs(answer: str, example: Example, decided: bool = True) -> RuleResult:
    more = f" and {len(example.answers) - 1} more" if len(example.answers) > 1 else ""
    return RuleResult(
        value=0.0, reason=f"{_shown(answer)} is not gold {_shown(example.answers[0])}{more}", decided=decided
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")
