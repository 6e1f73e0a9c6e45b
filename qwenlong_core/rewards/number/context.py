"""What may stand beside an amount and changes nothing: a period, a reference, how it was rounded, a reason, a contrast.

Each function takes the tokens and a position, and returns the position after what it recognised, or 0. It looks at no
more than :data:`REACH` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.rewards.number.amounts import Amount, read_amount
from qwenlong_core.rewards.number.tokens import Token
from qwenlong_core.rewards.number.words import ANCHOR, CONTRAST, DATE, DOUBT, MONTHS, PERIOD, REFERENCE, ROUNDED

REACH = 16
_JOINS = frozenset({"and", "to", "-", "through", "/", ",", "until", "or"})
_INTRODUCES = frozenset({"see", "per", "from", "in", "at", "cf", "refer", "to", "on", "of", "the", "also", "."})
_TIMES = frozenset({"sec", "min", "h", "day", "week", "business day", "month", "quarter", "year", "decade", "century"})


def period(tokens: Sequence[Token], start: int) -> int:
    """``in FY2021``, ``from 2021 to 2022``, ``for the year ended December 31, 2021``, ``over the 5-year term``."""
    opened = tokens[start].kind == "open"
    i = start + opened
    if i >= len(tokens):
        return 0
    if not opened and tokens[i].key not in PERIOD and tokens[i].key not in ("fy", "fiscal"):
        return 0
    i += tokens[i].key in PERIOD and tokens[i].key != "the"
    last, anchored, joined = 0, False, False
    while i < min(len(tokens), start + REACH):
        step = _date(tokens, i)
        if step:
            anchored, joined, last = anchored or _anchors(tokens, i, opened), False, i + step
            i += step
        elif tokens[i].key in _JOINS or (tokens[i].key in PERIOD and last):
            joined, i = tokens[i].key != ",", i + 1
        else:
            break
    # "from 2000 to 3000": what follows the joining word is no year, so the first was none either.
    amounts_to_a_range = joined and i < len(tokens) and tokens[i].kind == "number"
    if not anchored or amounts_to_a_range:
        return 0
    if opened:
        return last + 1 if last < len(tokens) and tokens[last].kind == "close" else 0
    return last


def _date(tokens: Sequence[Token], i: int) -> int:
    """How many tokens at ``i`` are a part of a date: a word, a year, a day beside its month, a duration."""
    token = tokens[i]
    if token.kind in ("number", "numeral"):
        return _duration(tokens, i) or int(_is_year(tokens, i) or _is_day(tokens, i))
    return int(token.key in DATE or (token.value in _TIMES and token.kind == "unit" and _is_year(tokens, i - 1)))


def _anchors(tokens: Sequence[Token], i: int, opened: bool) -> bool:
    if tokens[i].kind not in ("number", "numeral"):
        return tokens[i].key in ANCHOR
    # "25% (2021)" may state a second number, so a year alone in parentheses is no period.
    return bool(_duration(tokens, i)) or (_is_year(tokens, i) and not (opened and tokens[i - 1].kind == "open"))


def _duration(tokens: Sequence[Token], i: int) -> int:
    """``5 years``, ``three-month``, ``12 months``."""
    at = i + 1 + (i + 1 < len(tokens) and tokens[i + 1].kind == "dash")
    return at + 1 - i if at < len(tokens) and tokens[at].kind == "unit" and tokens[at].value in _TIMES else 0


def _is_year(tokens: Sequence[Token], i: int) -> bool:
    key = tokens[i].key if 0 <= i < len(tokens) and tokens[i].kind == "number" else ""
    after = tokens[i + 1].kind if i + 1 < len(tokens) else ""
    return (
        len(key) == 4
        and key.isdigit()
        and key[:2] in ("19", "20")
        and after not in ("scale", "currency", "noun", "letter")
    )


def _is_day(tokens: Sequence[Token], i: int) -> bool:
    beside = {tokens[j].key for j in (i - 1, i + 1, i + 2) if 0 <= j < len(tokens)}
    return (
        len(tokens[i].key) <= 2 and tokens[i].value is not None and 1 <= tokens[i].value <= 31 and bool(beside & MONTHS)
    )


def reference(tokens: Sequence[Token], start: int) -> int:
    """``(see Note 12)``, ``Table 7``, ``(pages 4 and 5)``."""
    opened = tokens[start].kind == "open"
    i, end = start + opened, min(len(tokens), start + REACH)
    while i < end and (tokens[i].key in _INTRODUCES or tokens[i].kind == "reason"):
        i += 1
    if i + 1 >= end or tokens[i].key not in REFERENCE:
        return 0
    i += 1
    i += tokens[i].key in (".", "#")
    if i >= end or not (tokens[i].kind == "number" or (opened and len(tokens[i].key) <= 3 and tokens[i].key.isalpha())):
        return 0
    i += 1
    while opened and i < end and tokens[i].kind != "close":
        if tokens[i].kind not in ("number", "punct", "dash") and tokens[i].key not in REFERENCE | {"and", "to"}:
            return 0
        i += 1
    return i + 1 if opened and i < end else 0 if opened else i


def rounding(tokens: Sequence[Token], start: int) -> int:
    """``rounded to two decimal places``, ``(rounded to the nearest dollar)``."""
    if tokens[start].key != "rounded":
        return 0
    i = start + 1
    while i < min(len(tokens), start + REACH) and (tokens[i].key in ROUNDED or _small(tokens[i])):
        i += 1
    return i


def _small(token: Token) -> bool:
    return token.kind in ("number", "numeral") and token.value is not None and token.value < 10


def doubtful(tokens: Sequence[Token]) -> bool:
    """Whether a reason takes the answer back."""
    return any(token.key in DOUBT for token in tokens)


def contrast(tokens: Sequence[Token], start: int) -> Amount | None:
    """The amount that is denied at ``start``: ``not 31.2`` after ``32.4``."""
    if tokens[start].key not in CONTRAST:
        return None
    i = start + 1
    while i < min(len(tokens), start + 4) and tokens[i].kind == "fill":
        i += 1
    return read_amount(tokens, i) if i < len(tokens) else None
