"""Whether an answer's number equals the gold's: sign, magnitude, scale, currency and unit.

- A scale in the answer counts: ``$32.4 million`` is 32,400,000, and 25% is 0.25.
- A gold whose scale is given separately (TAT-QA's ``answer_scale``), or is percent, also equals the bare number in that
  scale: gold ``25%`` equals ``25%``, ``25`` and ``0.25``, but never ``0.25%``.
- A bare number below one is a fraction, from one on a percentage: 0.25 equals gold ``25%`` and is undecided for gold
  ``0.25%``; 25 equals gold ``25%`` and is undecided for gold ``2500%``.
- A gold that spells out its scale (``$32.4 million``) does not equal a bare ``32.4``.
- A gold without a scale equals an answer in the scale that the question asks for.
- A currency or unit that the gold names must be the answer's too, where the answer names one.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from qwenlong_core.rewards.number.currencies import agree
from qwenlong_core.rewards.number.digits import MATH
from qwenlong_core.rewards.number.quantity import Quantity
from qwenlong_core.rewards.number.scales import FACTORS
from qwenlong_core.rewards.number.units import UNITS, unit_ratio


def same_quantity(
    answer: Quantity,
    gold: Quantity,
    tolerance: float,
    gold_scale: str | None = None,
    asked: frozenset[str] = frozenset(),
) -> bool | None:
    """Whether ``answer`` states ``gold`` within the relative ``tolerance``; ``None`` if only a reader can tell.

    Args:
        answer: Quantity of the answer.
        gold: Quantity of the gold answer.
        tolerance: Largest relative difference, as a share of the gold.
        gold_scale: Scale that belongs to ``gold`` but is not in its text (TAT-QA's ``answer_scale``).
        asked: Scales that the question names (:func:`~.scales.scales_asked`).
    """
    currency, ratio = agree(answer.currency, gold.currency), unit_ratio(answer.unit, gold.unit)
    if currency is False or ratio is False or (crossed := _crossed(answer, gold)) is False:
        return False
    if isinstance(ratio, Decimal):
        value, face = (MATH.multiply(number, ratio) for number in (answer.value, answer.face))
        answer = replace(answer, value=value, face=face)
    equal = _same_number(answer, gold, tolerance, gold_scale if gold.scale is None else None, asked)
    # Shares and bonds, days and months: no number tells that they differ.
    if ratio is None:
        return None
    return None if equal and (currency is None or crossed is None) else equal


def _crossed(answer: Quantity, gold: Quantity) -> bool | None:
    """``$5`` against ``5 kg``, where each names what the other leaves out: ``False``, or ``None`` for ``5 shares``."""
    answer_only, gold_only = (
        (one.currency and not two.currency, one.unit and not two.unit) for one, two in ((answer, gold), (gold, answer))
    )
    if not ((gold_only[0] and answer_only[1]) or (gold_only[1] and answer_only[0])):
        return True
    return False if (answer.unit or gold.unit) in UNITS else None


def _same_number(
    answer: Quantity, gold: Quantity, tolerance: float, detached: str | None, asked: frozenset[str]
) -> bool | None:
    tolerance = 0.0 if gold.year_like and detached is None else tolerance
    value = MATH.multiply(gold.face, FACTORS[detached]) if detached else gold.value
    percent = "percent" in (detached, gold.scale)
    faces = _close(answer.face, gold.face, tolerance)
    if _close(answer.value, value, tolerance):
        # A bare 25 may be 25% rather than 2500%, and to a question for a percentage a bare 0.25 may be 0.25%.
        fraction = percent and answer.scale is None and not faces
        asked_percent = detached == "percent" and "percent" in asked
        return None if fraction and (abs(answer.face) >= 1 or asked_percent) else True
    if not faces:
        return False
    # A bare number in the gold's scale: "25" for 25%. A currency or unit on it ("$25", "25 kg") rules percent out.
    if answer.scale is None and (detached or percent):
        if percent and (answer.currency or answer.unit in UNITS):
            return False
        return None if gold.scale == "percent" and abs(gold.face) < 1 else True
    if answer.scale is None and gold.scale == "cent":
        return None
    if gold.scale is None and detached is None and answer.scale in asked:
        return None if answer.scale == "percent" and abs(gold.face) < 1 else True
    return False


def _close(a: Decimal, b: Decimal, tolerance: float) -> bool:
    if a == b:
        return True
    # repr() gives the tolerance as it was written; Decimal(0.0015) would be slightly larger.
    return MATH.abs(MATH.subtract(a, b)) <= MATH.multiply(Decimal(repr(tolerance)), MATH.abs(b))
