"""Read and compare numbers as people write them in answers.

:func:`read_quantity` takes a short committed answer such as ``approximately $(1,234.5) million`` and returns a
:class:`Reading` with exactly one :class:`Quantity`, or the reason why there is none. Nothing is evaluated: the grammar
below is regular and digits and exponents are capped, so no input can hang or exhaust memory.

Equality (:func:`same_quantity`) respects sign and magnitude. Units are read as follows:

- A scale in the answer counts: ``$32.4 million`` is 32,400,000, and 25% is 0.25.
- A gold whose scale is given separately (TAT-QA's ``answer_scale``), or is percent, also equals the bare number in that
  unit: gold ``25%`` equals ``25%``, ``25`` and ``0.25``, but never ``0.25%``.
- A gold that spells out its scale (``$32.4 million``) does not equal a bare ``32.4``.
- A gold without a scale equals an answer in the unit that the question asks for: ``25.3%`` equals gold ``25.3`` only if
  the question mentions percent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from qwenlong_core.rewards.digits import DIGITS, MATH, MAX_EXPONENT, parse_digits
from qwenlong_core.rewards.number_words import (
    BOUND,
    CURRENCY,
    DIRECTION,
    DOUBT,
    EXPLANATION,
    FACTORS,
    FILLER,
    HEDGED_LEFT,
    SCALE_WORDS,
    SEVERAL,
    YEARS,
    currency_of,
)
from qwenlong_core.rewards.text import canonical, strip_wrappers

MAX_NUMBER_CHARS = 1_000
"""Longer text is not read as a number, since answers are short."""

_SCALE = "|".join(f"(?P<{name}>{words})" for name, words in SCALE_WORDS.items())
# Signs, currencies and parentheses may come in several places: -$5, $-5, ($5), ($5) million, $(5 million).
_QUANTITY = re.compile(
    rf"""(?<![\w.,^])
    (?P<sign1>[-+]\s?|(?i:negative|minus)\s|负)? (?:(?P<currency1>{CURRENCY})\s?)?
    (?P<open>\(\s?)? (?P<sign2>[-+]\s?)? (?:(?P<currency2>{CURRENCY})\s?)?
    (?P<number>{DIGITS})
    (?:\s?/\s?(?P<denominator>{DIGITS}) | \s(?P<part>[0-9]{{1,6}})\s?/\s?(?P<whole>[0-9]{{1,6}}))?
    (?:\s?(?:×|\\times|\\cdot|·|x|\*)\s?10\s?\^\s?[{{(]?\s?(?P<exponent>[-+]?[0-9]{{1,4}})\s?[}})]?)?
    (?P<close1>\s?\))?
    (?:[\s-]?(?:{_SCALE}))?
    (?P<close2>\s?\))?
    (?:\s?(?P<currency3>{CURRENCY}))?
    (?P<close3>\s?\))?
    (?![\w^]|[.,][0-9])""",
    re.VERBOSE,
)
_BARE_YEAR = re.compile(r"[12][0-9]{3}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{\s*([0-9.,]{1,30})\s*\}\s*\{\s*([0-9.,]{1,30})\s*\}")
_BRACED_EXPONENT = re.compile(r"\^\s*\{\s*([-+]?[0-9]{1,4})\s*\}")
_RESTATEMENT_TOLERANCE = Decimal("0.01")
"""How far the two numbers in ``0.2533 (25.3%)`` may differ: they are rounded, not two answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One number with its unit."""

    face: Decimal
    """The signed number as written, before a scale or percent is applied."""
    value: Decimal
    """The signed number it stands for: 25% is 0.25, $3 million is 3,000,000."""
    scale: str | None = None
    currency: frozenset[str] | None = None
    """The currencies that the sign may mean; ``$`` may mean several."""
    unit: str | None = None
    """First other word after the number, singular: ``month``, ``share``."""
    bracketed: bool = False
    """Whether it stands in parentheses without a sign of its own: ``(5)``. Around a whole answer they are the prompt's
    form, in a gold a balance sheet's minus (:func:`in_balance_sheet`)."""
    year_like: bool = False
    """Whether it is a bare integer from 1000 to 2999, which is compared exactly: a tolerance would mix up years."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The number that a text states."""

    quantity: Quantity | None
    reason: str = ""
    """Why there is no quantity."""
    decided: bool = True
    """False if a reader who knows the language could still find a number: the text has no digits, or gives the sign
    in words ("a decrease of 31"). Only then may the judge be asked."""
    several: bool = False
    """The text names several different numbers or a range, so it commits to none."""


def read_quantity(text: str) -> Reading:
    """The one quantity that ``text`` states.

    Words of approximation, a unit, the left side of an equation and an equal restatement in parentheses may surround
    it. Ranges, alternatives, bounds and negations are not a quantity.
    """
    if len(text) > MAX_NUMBER_CHARS:
        return Reading(quantity=None, reason=f"{len(text):,} characters > {MAX_NUMBER_CHARS:,}: too long for a number")
    text = _plain(text)
    if not any(c.isdigit() for c in text):
        return Reading(quantity=None, reason="no digits in the answer", decided=False)
    # The order matters: reasons and years go first, so that their digits do not count as further numbers.
    left, text = _last_side(_without_context(text))
    read = [(match, _quantity(match)) for match in _QUANTITY.finditer(text)]
    found = [(match, quantity) for match, quantity in read if quantity is not None]
    # Digits whose separators or size do not make a number spoil the whole answer.
    if not found or len(found) < len(read):
        return Reading(quantity=None, reason="the digits do not form one number")
    around = _QUANTITY.sub(" ", text)
    if any(c.isdigit() for c in around):
        return Reading(quantity=None, reason="digits are left over beside the number")
    if word := SEVERAL.search(around) or HEDGED_LEFT.search(left):
        return Reading(quantity=None, reason=f"{word[0]!r} names an alternative", several=True)
    if not _restatements(text, found) or not _equation_agrees(left, found[0][1]):
        return Reading(quantity=None, reason="several different numbers", several=True)
    # Whatever stands beside the number may change it ("at least 32", "f(32)").
    if word := BOUND.search(around):
        return Reading(quantity=None, reason=f"{word[0]!r} makes it a bound, a negation or a formula")
    first, quantity = found[0]
    if (word := DIRECTION.search(around)) and not quantity.face.is_signed():
        return Reading(quantity=None, reason=f"{word[0]!r} gives the sign in words", decided=False)
    return Reading(quantity=_with_unit(quantity, _QUANTITY.sub(" ", text[first.end() :])))


def in_balance_sheet(quantity: Quantity) -> Quantity:
    """The quantity as a balance sheet means it, where ``(5)`` is -5."""
    if not quantity.bracketed:
        return quantity
    return replace(quantity, face=MATH.minus(quantity.face), value=MATH.minus(quantity.value))


def same_quantity(
    answer: Quantity,
    gold: Quantity,
    tolerance: float,
    gold_scale: str | None = None,
    asked: frozenset[str] = frozenset(),
) -> bool:
    """Whether ``answer`` states ``gold`` within the relative ``tolerance``; sign and magnitude count.

    Args:
        answer: Quantity of the answer.
        gold: Quantity of the gold answer.
        tolerance: Largest relative difference, as a share of the gold.
        gold_scale: Scale that belongs to ``gold`` but is not in its text (TAT-QA's ``answer_scale``).
        asked: Scales that the question names (:func:`~.number_words.scales_asked`).
    """
    if not _compatible(answer, gold):
        return False
    tolerance = 0.0 if gold.year_like and gold_scale is None else tolerance
    detached = gold_scale if gold.scale is None else None
    value = gold.face * FACTORS[detached] if detached else gold.value
    if _close(answer.value, value, tolerance):
        return True
    # A bare number in the gold's unit: "25" for 25%. A currency on it ("$25") rules percent out.
    bare_in_gold_unit = answer.scale is None and (detached is not None or gold.scale == "percent")
    if bare_in_gold_unit and ((detached != "percent" and gold.scale != "percent") or answer.currency is None):
        return _close(answer.face, gold.face, tolerance)
    in_asked_unit = gold.scale is None and gold_scale is None and answer.scale in asked
    return in_asked_unit and _close(answer.face, gold.face, tolerance)


def _plain(text: str) -> str:
    text = strip_wrappers(canonical(text))
    return (
        _BRACED_EXPONENT.sub(r"^\1", _FRACTION.sub(r" \1/\2 ", text))
        .replace("\\approx", "≈")
        .strip()
        .rstrip(".。,;!！")
    )


def _without_context(text: str) -> str:
    """The answer without the reason that follows it and without the years that its amount refers to."""
    if (reason := EXPLANATION.search(text)) and any(c.isdigit() for c in text[: reason.start()]):
        text = text if DOUBT.search(text, reason.start()) else text[: reason.start()]
    # An answer that is itself a year keeps the years beside it: they may be a second answer.
    first = _QUANTITY.search(text)
    if first is None or _BARE_YEAR.fullmatch(first[0].strip()):
        return text
    return text[: first.end()] + YEARS.sub(" ", text[first.end() :])


def _last_side(text: str) -> tuple[str, str]:
    """``("x", "32")`` for ``x = 32``: the end of a chain of equations is the answer."""
    left, sign, right = text.rpartition("≈" if text.rfind("≈") > text.rfind("=") else "=")
    return (left, right.strip()) if sign and left.strip() and any(c.isdigit() for c in right) else ("", text)


def _equation_agrees(left: str, quantity: Quantity) -> bool:
    """Whether a number alone left of the equals sign is the same number: ``25 = 30`` claims both."""
    for side in re.split("[=≈]", left):
        match = _QUANTITY.fullmatch(side.strip())
        stated = _quantity(match) if match else None
        if stated is not None and not _close(stated.value, quantity.value, float(_RESTATEMENT_TOLERANCE)):
            return False
    return True


def _restatements(text: str, found: list[tuple[re.Match[str], Quantity]]) -> bool:
    """Whether every later quantity restates the first in parentheses; only a sign may be missing."""
    first_match, first = found[0]
    for match, quantity in found[1:]:
        opened = "(" in text[first_match.end() : match.start("number")]
        same = _close(abs(quantity.value), abs(first.value), float(_RESTATEMENT_TOLERANCE))
        written = bool(match["sign1"] or match["sign2"])
        if not opened or not same or (written and quantity.face.is_signed() != first.face.is_signed()):
            return False
    return True


def _quantity(match: re.Match[str]) -> Quantity | None:
    """The quantity of a match of ``_QUANTITY``; ``None`` if it has two signs, divides by zero or exceeds the caps."""
    number = parse_digits(match["number"])
    closed = bool(match["close1"] or match["close2"] or match["close3"])
    if number is None or (bool(match["sign1"]) and bool(match["sign2"])):
        return None
    # "3 1/2": a whole number with a fraction.
    if match["part"]:
        number = (
            None
            if int(match["whole"]) == 0
            else MATH.add(number, MATH.divide(Decimal(match["part"]), Decimal(match["whole"])))
        )
    elif match["denominator"]:
        denominator = parse_digits(match["denominator"])
        number = MATH.divide(number, denominator) if denominator else None
    if number is None or abs(int(match["exponent"] or 0)) > MAX_EXPONENT:
        return None
    number = MATH.scaleb(number, int(match["exponent"] or 0))
    sign = (match["sign1"] or match["sign2"] or "+").strip().lower()
    # Beside a sign parentheses only group. With a currency or percent sign outside they are a minus: $(5), (5)%.
    bracketed = bool(match["open"]) and closed and not (match["sign1"] or match["sign2"])
    table_minus = bracketed and bool(match["currency1"] or match[0].rstrip().endswith("%"))
    negative = sign in ("-", "negative", "minus", "负") or table_minus
    face = MATH.minus(number) if negative else number
    scale = next((name for name in SCALE_WORDS if match[name]), None)
    return Quantity(
        face=face,
        value=MATH.multiply(face, FACTORS[scale]) if scale else face,
        scale=scale,
        currency=currency_of(match["currency1"] or match["currency2"] or match["currency3"]),
        bracketed=bracketed and not table_minus,
        year_like=_BARE_YEAR.fullmatch(match[0].strip()) is not None,
    )


def _with_unit(quantity: Quantity, after: str) -> Quantity:
    """The quantity with the first word of ``after`` that is not a filler as its unit."""
    words = FILLER.sub(" ", after).split()
    unit = words[0].casefold() if words else None
    # "months" equals "month", but a short unit such as "ms" keeps its last letter.
    if unit and len(unit) > 2:
        unit = unit.removesuffix("s")
    return replace(quantity, unit=unit, year_like=quantity.year_like and unit is None)


def _compatible(answer: Quantity, gold: Quantity) -> bool:
    """Whether currencies and units allow equality; one that is left out fits any."""
    if answer.currency and gold.currency and not answer.currency & gold.currency:
        return False
    return not (answer.unit and gold.unit and answer.unit != gold.unit)


def _close(a: Decimal, b: Decimal, tolerance: float) -> bool:
    if a == b:
        return True
    # repr() gives the tolerance as it was written; Decimal(0.0015) would be slightly larger.
    return MATH.abs(MATH.subtract(a, b)) <= MATH.multiply(Decimal(repr(tolerance)), MATH.abs(b))
