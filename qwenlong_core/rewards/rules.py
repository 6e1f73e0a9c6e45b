"""The rule of each answer type: does the committed answer equal a gold answer?

Each rule takes an extracted answer and its example and returns a :class:`RuleResult`: 1.0 or 0.0, the reason, and
whether that is final or a judge may still be asked. Containment, in either direction, is never equality.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from qwenlong_core.records import Example
from qwenlong_core.rewards.number_words import known_scale, scales_asked
from qwenlong_core.rewards.numbers import Quantity, in_balance_sheet, read_quantity, same_quantity
from qwenlong_core.rewards.options import before_reason, read_choice, read_yes_no
from qwenlong_core.rewards.text import normalize_span, strip_wrappers

SHOWN_CHARS = 80
"""Longest part of an answer that a reason quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What the rule says about an answer."""

    value: float
    """1.0 or 0.0."""
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
    return _RULES[example.answer_type](answer, example, number_tolerance)


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
    said, asked = reading.quantity, scales_asked(example.question)
    # The prompt's form may have parentheses, so around the whole answer they are no minus: (5) is 5. Around a part,
    # as in (5) million, they may be one.
    in_doubt = said.bracketed and not (answer.startswith("(") and answer.endswith(")"))
    for text, gold in golds:
        # Where the gold is in parentheses too, they mean in both what they mean in the gold.
        meant = in_balance_sheet(said) if gold.bracketed else said
        if (gold.bracketed or not in_doubt) and same_quantity(meant, gold, tolerance, scale, asked):
            return _equal(answer, text)
    # "13 years" against "13 months": only a judge can tell whether two units name the same amount.
    other_unit = bool(said.unit) and any(gold.unit and gold.unit != said.unit for _, gold in golds)
    return _differs(answer, example, decided=not (other_unit or said.bracketed))


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
    count = len(example.choices)
    gold = _gold_letter(example)
    choice = read_choice(answer, count)
    if choice.problem:
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: {choice.problem}")
    # Two options may have the same text; then the text does not name exactly one.
    if choice.letter is None:
        named = _letters_of_text(answer, example.choices)
        if len(named) != 1:
            return RuleResult(
                value=0.0, reason=f"{_shown(answer)} is neither a letter nor the text of exactly one option"
            )
        return _equal(answer, gold) if named == {gold} else _differs(answer, example)
    if other := _other_option_text(choice.letter, choice.rest, example.choices):
        return RuleResult(value=0.0, reason=f"{_shown(answer)}: letter {choice.letter} with the text of option {other}")
    return _equal(answer, gold) if choice.letter == gold else _differs(answer, example)


_JOINING = re.compile(
    r"(?:(?:or|and|but|also|maybe|perhaps|possibly|otherwise|alternatively|either|both|if|not|vs|unless)\b\s*)*"
)


def _other_option_text(letter: str, rest: str, choices: tuple[str, ...]) -> str:
    """The letter of another option whose text follows ``letter``, alone or joined to the right text."""
    texts = {chr(ord("A") + i): normalize_span(option) for i, option in enumerate(choices)}
    left = normalize_span(before_reason(rest))
    while left:
        left = left[_JOINING.match(left).end() :]  # type: ignore[union-attr]
        found = [key for key, text in texts.items() if text and re.match(rf"{re.escape(text)}(?!\w)", left)]
        if not found:
            return ""
        # One option's text may begin with another's ("Paris", "Paris and London"): the longest match is meant.
        longest = max(len(texts[key]) for key in found)
        found = [key for key in found if len(texts[key]) == longest]
        if letter not in found:
            return found[0]
        left = left[longest:].lstrip()
    return ""


def _gold_letter(example: Example) -> str:
    gold = example.answers[0].strip().upper()
    last = chr(ord("A") + len(example.choices) - 1) if example.choices else "Z"
    if len(example.answers) != 1 or not re.fullmatch(f"[A-{last}]", gold):
        raise ValueError(
            f"example {example.id!r}: gold {list(example.answers)!r} of a choice must be one letter in A..{last}; "
            "correct answers or choices"
        )
    return gold


def _letters_of_text(text: str, choices: tuple[str, ...]) -> set[str]:
    wanted = normalize_span(text)
    return {chr(ord("A") + i) for i, option in enumerate(choices) if wanted and normalize_span(option) == wanted}


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


# The patterns below run on text from normalize_span: lower case, without punctuation and articles.
_WHERE = (
    r"(?: (?:in|from|by|with|on|given|based on|using|within|according to)(?: the)?(?:"
    r" (?:given|provided|above|available))? \w+(?: \w+)?| here)?"
)
_UNANSWERABLE = re.compile(
    rf"""(?: (?:the\ )?(?:question\ )? (?:(?:is|it\ is)\ )? (?:unanswerable|not\ answerable|indeterminable|unknown)
    | (?:the\ )?(?:question\ |this\ question\ |it\ |this\ |answer\ )?
      (?:cannot|can\ not|cant|could\ not|cannot\ possibly)\ be\ (?:answered|determined|known|inferred|found|established)
    | (?:there\ is\ )?(?:insufficient|not\ enough|no\ sufficient)\ (?:information|evidence|data|context)
      (?:\ (?:to\ answer|is\ (?:given|provided|available)))?(?:\ question)?
    | (?:it\ is\ )?not\ (?:mentioned|stated|given|provided|specified|available|disclosed|reported|said|answerable
      |known|found|in\ (?:document|text|context|passage))
    | (?:there\ is\ )?no\ answer(?:\ is\ (?:given|available|possible))? | none\ of\ (?:documents|passages)\ (?:say|says)
    | (?:document|text|context|passage|article|it)\ (?:does\ not|doesnt|do\ not)\ (?:say|mention|state|specify|tell
      |provide\ (?:this|enough)\ information)
    | 无法(?:回答|确定) | 信息不足 | (?:文中)?(?:未|没有)(?:提及|说明|提到)
    ){_WHERE.replace(" ", chr(92) + " ")}""",
    re.VERBOSE,
)


def _unanswerable(answer: str, example: Example, _tolerance: float) -> RuleResult:
    said = normalize_span(answer)
    if _UNANSWERABLE.fullmatch(said) or any(said and said == _normalized_gold(gold) for gold in example.answers):
        return RuleResult(value=1.0, reason=f"{_shown(answer)} says that the document does not answer")
    return _differs(answer, example, decided=False)


_RULES: dict[str, Callable[[str, Example, float], RuleResult]] = {
    "number": _number,
    "choice": _choice,
    "span": _span,
    "yes_no": _yes_no,
    "unanswerable": _unanswerable,
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
