"""What reading a number gives: one :class:`Quantity`, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from qwenlong_core.rewards.number.currencies import Currency
from qwenlong_core.rewards.number.digits import MATH


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One number with its scale, unit and sign."""

    face: Decimal
    """The signed number as written, before a scale or percent is applied."""
    value: Decimal
    """The signed number it stands for: 25% is 0.25, $3 million is 3,000,000."""
    scale: str | None = None
    """A name of :data:`~.scales.FACTORS`, or ``product`` if several scale words are multiplied."""
    currency: Currency | None = None
    unit: str | None = None
    """A unit of :data:`~.units.UNITS` (``kg``), a rate of two (``km/h``), or the noun that is counted (``share``)."""
    bracketed: bool = False
    """Whether it stands in parentheses without a sign of its own: ``(5)``. Around a whole answer they are the prompt's
    form, in a gold a balance sheet's minus (:func:`in_balance_sheet`)."""
    year_like: bool = False
    """Whether it is a bare integer from 1000 to 2999, which is compared exactly: a tolerance would mix up years."""


def in_balance_sheet(quantity: Quantity) -> Quantity:
    """The quantity as a balance sheet means it, where ``(5)`` is -5."""
    if not quantity.bracketed:
        return quantity
    return replace(quantity, face=MATH.minus(quantity.face), value=MATH.minus(quantity.value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The number that a text states."""

    quantity: Quantity | None
    reason: str = ""
    """Why there is no quantity."""
    decided: bool = True
    """False if a reader who knows the language could still find a number. Only then may the judge be asked."""
    several: bool = False
    """The text names several different numbers or a range, so it commits to none."""
    unknown: frozenset[str] = frozenset()
    """Words beside the number that no table holds. Only the question or the gold can vouch for them."""
