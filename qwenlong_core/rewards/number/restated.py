"""One number in several forms: ``0.25, or 25%``, ``forty-two (42)``, ``0.2533 (25.3%)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from qwenlong_core.rewards.number.amounts import Amount
from qwenlong_core.rewards.number.currencies import agree
from qwenlong_core.rewards.number.digits import MATH
from qwenlong_core.rewards.number.quantity import Quantity
from qwenlong_core.rewards.number.units import unit_ratio

_LARGEST_ROUNDING = Decimal("0.01")
"""How far two roundings of one number may differ, as a share of it."""


@dataclass(frozen=True, slots=True)
class Stated:
    """An amount of the answer, with the words between it and the amount before."""

    amount: Amount
    joins: tuple[str, ...]

    def with_unit(self, unit: str) -> Stated:
        """The same with a unit, if it has none and is a number."""
        quantity = self.amount.quantity
        if quantity is None or quantity.unit is not None:
            return self
        return replace(self, amount=replace(self.amount, quantity=replace(quantity, unit=unit, year_like=False)))


def one_number(stated: Sequence[Stated]) -> Quantity | None:
    """The number that all amounts state, as exactly as any of them; ``None`` if they are different numbers."""
    chosen = stated[0].amount
    best = chosen.quantity
    for one in stated[1:]:
        other = one.amount.quantity
        if best is None or other is None:
            return None
        if best.face.is_signed() and not one.amount.signed:
            # In a restatement the sign may be missing: "-32 (32)".
            other = (
                replace(other, face=MATH.minus(other.face), value=MATH.minus(other.value))
                if "(" in one.joins
                else other
            )
        both = _same(best, other, exact=not _may_round(chosen, one))
        if both is None:
            return None
        best = both
    return best


def _may_round(first: Amount, one: Stated) -> bool:
    """Two bare numbers side by side are a list, unless the second one explains the first."""
    explained = bool({"(", "=", "ie", "i . e", "about", "approximately", "~", "≈", "or about"} & set(one.joins))
    return explained or not (first.plain and one.amount.plain)


def _same(a: Quantity, b: Quantity, exact: bool) -> Quantity | None:
    """Both as one quantity, with the finer of the two numbers."""
    ratio = unit_ratio(b.unit, a.unit)
    if not agree(a.currency, b.currency) or ratio is None or ratio is False:
        return None
    value = b.value if ratio is True else MATH.multiply(b.value, ratio)
    if value != a.value and (exact or a.year_like or b.year_like or not _rounded_alike(a.value, value)):
        return None
    finer = b if (_place(b), a.scale is not None) < (_place(a), b.scale is not None) else a
    other = a if finer is b else b
    return replace(finer, currency=finer.currency or other.currency, unit=finer.unit or other.unit)


def _rounded_alike(a: Decimal, b: Decimal) -> bool:
    difference = abs(MATH.subtract(a, b))
    place = max(_exponent(a), _exponent(b))
    half = MATH.scaleb(Decimal("0.5001"), place)
    return difference <= half and difference <= MATH.multiply(_LARGEST_ROUNDING, abs(b))


def _place(quantity: Quantity) -> int:
    return _exponent(quantity.value)


def _exponent(number: Decimal) -> int:
    return int(MATH.normalize(number).as_tuple().exponent) if number else 0
