"""Numbers in words: ``two hundred and five``, ``twenty-five point five``, ``三千五百``."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from qwenlong_core.rewards.number.digits import MATH
from qwenlong_core.rewards.number.scales import FACTORS
from qwenlong_core.rewards.number.tokens import Token

_ENGLISH_SCALES = frozenset({"thousand", "million", "billion", "trillion"})
_FRACTIONS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6,
              "eighth": 8, "eighths": 8}  # fmt: skip


def spelled(tokens: Sequence[Token], start: int) -> tuple[Decimal, int] | None:
    """The number in words at ``start`` and the position after it; a last large scale word is left for the caller.

    ``thirty-two million`` gives 32, so that the scale is read as in ``32 million``, but ``one million two hundred
    thousand`` gives 1,200 and leaves ``thousand``.
    """
    total, group, last, i = Decimal(0), Decimal(0), Decimal(1000), start
    # Each number word must be smaller than the one before it: "twenty five" is 25, "two two" is no number.
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "numeral" and Decimal(token.value) < last:
            group, last = group + token.value, Decimal(10) if token.value >= 20 else Decimal(1)
        elif token.key == "hundred" and 0 < group < 100 and i > start:
            group, last = group * 100, Decimal(100)
        elif token.key in _ENGLISH_SCALES and 0 < group < 1000 and (total or _goes_on(tokens, i + 1)):
            total, group, last = total + group * FACTORS[token.value], Decimal(0), Decimal(1000)
        elif not (token.key in ("and", "-") and i > start and _continues(tokens, i, last)):
            break
        i += 1
    if i == start:
        return None
    number, i = _decimals(tokens, i, total + group)
    return _fraction(tokens, i, number, start)


def _goes_on(tokens: Sequence[Token], i: int) -> bool:
    """Whether a smaller number in words follows a scale word."""
    i += i < len(tokens) and tokens[i].key == "and"
    return i < len(tokens) and tokens[i].kind == "numeral"


def _continues(tokens: Sequence[Token], i: int, last: Decimal) -> bool:
    """Whether ``and`` or a hyphen joins the next word to the same number: ``twenty-five``, ``two hundred and five``."""
    follows = i + 1 < len(tokens) and tokens[i + 1].kind == "numeral" and tokens[i + 1].value < last
    return follows and (last >= 100 if tokens[i].key == "and" else last == 10)


def _decimals(tokens: Sequence[Token], i: int, number: Decimal) -> tuple[Decimal, int]:
    if not (i + 1 < len(tokens) and tokens[i].key == "point" and tokens[i + 1].kind == "numeral"):
        return number, i
    place, i = Decimal("0.1"), i + 1
    while i < len(tokens) and tokens[i].kind == "numeral" and tokens[i].value < 10 and place > Decimal("1e-20"):
        number, place, i = number + tokens[i].value * place, place / 10, i + 1
    return number, i


def _fraction(tokens: Sequence[Token], i: int, number: Decimal, start: int) -> tuple[Decimal, int]:
    """``two thirds``, ``one-half``, ``two and a half``."""
    keys = [token.key for token in tokens[i : i + 3]]
    if keys == ["and", "a", "half"]:
        return number + Decimal("0.5"), i + 3
    skip = keys[:1] == ["-"]
    if i - start == 1 and number < 20 and (denominator := _FRACTIONS.get("".join(keys[skip : skip + 1]))):
        return MATH.divide(number, Decimal(denominator)), i + 1 + skip
    return number, i
