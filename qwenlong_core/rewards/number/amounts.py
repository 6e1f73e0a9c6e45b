"""Read one amount from tokens: sign, currency, value, scales, unit.

    amount := [sign] [currency] ["("] [sign] [currency] value {scale | currency | unit | rate | "in" scale} [")"]
    value  := digits ["/" digits] | digits digits "/" digits | [digits "×"] "10^" digits | words | parts
    parts  := value scale value scale

Every function looks at a bounded number of tokens and moves forward, so the work is linear.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from qwenlong_core.rewards.number.currencies import Currency
from qwenlong_core.rewards.number.digits import MATH, MAX_EXPONENT
from qwenlong_core.rewards.number.quantity import Quantity
from qwenlong_core.rewards.number.scales import FACTORS
from qwenlong_core.rewards.number.spelled import spelled
from qwenlong_core.rewards.number.tokens import Token
from qwenlong_core.rewards.number.words import DENOMINATION

_LARGE = frozenset({"hundred", "thousand", "万", "lakh", "million", "crore", "亿", "billion", "trillion"})
_BARE_YEAR = re.compile("[12][0-9]{3}")
_RATE_WORDS = frozenset({"per", "a", "an", "each", "/"})


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount and where it stands among the tokens."""

    quantity: Quantity | None
    """``None`` if it is written like a number but is none, or contradicts itself (``32 million thousand``)."""
    start: int
    end: int
    signed: bool = False
    """Whether a sign is written, or parentheses that make it negative."""
    plain: bool = False
    """Whether it is bare digits, without fraction, scale or words."""


@dataclass(slots=True)
class _Draft:
    """What is known of an amount while its tokens are read."""

    at: int
    sign: str = ""
    opened: bool = False
    closed: bool = False
    table_minus: bool = False
    """A currency or percent sign stands outside of the parentheses, as in a balance sheet: $(5), (5)%."""
    currency: Currency | None = None
    number: Decimal | None = None
    literal: str = ""
    written_out: bool = False
    """Words, a fraction or a power of ten rather than digits alone."""
    scales: list[str] = field(default_factory=list)
    unit: str | None = None
    broken: bool = False


def read_amount(tokens: Sequence[Token], start: int, restated: bool = False) -> Amount | None:
    """The amount that begins at ``start``, or ``None``.

    Args:
        tokens: Tokens of the whole answer.
        start: Position of its first token.
        restated: An amount stands before it, so that parentheses around this one only group.
    """
    draft = _Draft(at=start)
    _prefix(tokens, draft, restated)
    if not _value(tokens, draft):
        return None
    _suffix(tokens, draft)
    return Amount(
        _quantity(draft), start, draft.at, bool(draft.sign) or draft.closed, not (draft.written_out or draft.scales)
    )


def _prefix(tokens: Sequence[Token], draft: _Draft, restated: bool) -> None:
    while draft.at < min(len(tokens), 400):
        token = tokens[draft.at]
        if token.kind in ("sign", "dash", "plus") and not draft.sign:
            draft.sign = "+" if token.kind == "plus" else "-"
        elif token.kind == "open" and not draft.opened and not restated:
            draft.opened, draft.table_minus = True, draft.currency is not None
        elif token.kind == "currency" and draft.currency is None:
            draft.currency = token.value
        elif token.kind == "before" and not draft.scales:
            draft.scales.append(token.value)
        elif not (token.key == "." and draft.currency and tokens[draft.at - 1].kind == "currency"):
            return
        draft.at += 1


def _value(tokens: Sequence[Token], draft: _Draft) -> bool:
    """Read the number itself; ``False`` if there is none."""
    if draft.at >= len(tokens):
        return False
    token = tokens[draft.at]
    if token.kind == "number":
        _digits(tokens, draft)
        return True
    draft.written_out = True
    if token.key in ("a", "an") and _kind(tokens, draft.at + 1) == "scale" and tokens[draft.at + 1].key != "percentage":
        draft.number, draft.at = Decimal(1), draft.at + 1
        return True
    if token.key == "half" and [t.key for t in tokens[draft.at + 1 : draft.at + 2]] in (["a"], ["an"]):
        # "half a million": the scale follows, else it is "half a share".
        if _kind(tokens, draft.at + 2) == "scale":
            draft.number, draft.at = Decimal("0.5"), draft.at + 2
            return True
        return False
    read = spelled(tokens, draft.at) if token.kind == "numeral" else None
    if read:
        draft.number, draft.at = read
    return read is not None


def _digits(tokens: Sequence[Token], draft: _Draft) -> None:
    """Digits with a fraction or a power of ten after them."""
    at = draft.at
    draft.number, draft.literal, draft.at = tokens[at].value, tokens[at].key, at + 1
    if draft.number is None:
        draft.broken = True
        return
    chained = _kind(tokens, at + 3) == "slash" and _kind(tokens, at + 4) == "number"
    if _kind(tokens, at + 1) == "slash" and _kind(tokens, at + 2) == "number" and not chained:
        _divide(tokens, draft, Decimal(0), draft.number, at + 2)
    elif _kind(tokens, at + 1) == "number" and _kind(tokens, at + 2) == "slash" and _kind(tokens, at + 3) == "number":
        # "3 1/2": a whole number with a fraction.
        _divide(tokens, draft, draft.number, tokens[at + 1].value, at + 3)
    if (_kind(tokens, draft.at) == "times" and _key(tokens, draft.at + 1) == "10") or (
        _key(tokens, draft.at) == "x" and _key(tokens, draft.at + 1) == "10" and _kind(tokens, draft.at + 2) == "power"
    ):
        _power(tokens, draft, draft.at + 2)
    elif _key(tokens, draft.at - 1) == "10" and _kind(tokens, draft.at) == "power" and draft.at == at + 1:
        draft.number = Decimal(1)
        _power(tokens, draft, draft.at)


def _divide(tokens: Sequence[Token], draft: _Draft, whole: Decimal, part: Decimal | None, at: int) -> None:
    below = tokens[at].value
    draft.at, draft.written_out = at + 1, True
    if not below or part is None:
        draft.broken = True
        return
    draft.number = MATH.add(whole, MATH.divide(part, below))


def _power(tokens: Sequence[Token], draft: _Draft, at: int) -> None:
    """``^7``, ``^{-7}``, ``^(7)`` after a ten."""
    draft.written_out = True
    if _kind(tokens, at) != "power":
        draft.broken = True
        return
    at += 1
    opened = _key(tokens, at) in ("{", "(")
    at += opened
    negative = _kind(tokens, at) == "dash"
    at += negative or _kind(tokens, at) == "plus"
    exponent = tokens[at].value if _kind(tokens, at) == "number" else None
    at += 1
    if opened:
        closes = _key(tokens, at) in ("}", ")")
        at += closes
        exponent = exponent if closes else None
    if exponent is None or exponent != int(exponent) or exponent > MAX_EXPONENT or _kind(tokens, at) == "power":
        draft.broken, draft.at = True, min(at, len(tokens))
        return
    draft.number = MATH.scaleb(draft.number or Decimal(0), -int(exponent) if negative else int(exponent))
    draft.at = at


def _suffix(tokens: Sequence[Token], draft: _Draft) -> None:
    """Scales, currencies and units in any order, and further parts of the number: ``1亿2000万``."""
    while draft.at < len(tokens):
        token = tokens[draft.at]
        if token.kind == "dash" and token.glued and _kind(tokens, draft.at + 1) in ("scale", "unit"):
            draft.at += 1
        elif token.key == "." and token.glued and _kind(tokens, draft.at + 1) in ("currency", "unit"):
            draft.at += 1  # 5 Mio. EUR
        elif token.kind == "close" and draft.opened and not draft.closed:
            draft.closed, draft.at = True, draft.at + 1
            draft.table_minus = draft.table_minus or _key(tokens, draft.at) == "%"
        elif _measure(tokens, draft, draft.at):
            draft.at += 1
        elif not (_rate(tokens, draft) or _denomination(tokens, draft) or _further_part(tokens, draft)):
            return


def _measure(tokens: Sequence[Token], draft: _Draft, at: int) -> bool:
    """Take the scale, currency or unit at ``at``; ``False`` if there is none."""
    token = tokens[at] if at < len(tokens) else None
    if token is None:
        return False
    if token.kind == "scale":
        draft.scales.append(token.value)
    elif token.kind == "letter":
        # A letter such as m is a scale beside a currency; without one it may be metres.
        beside = draft.currency or _kind(tokens, at + 1) == "currency"
        draft.scales.append(token.value) if beside else setattr(draft, "broken", True)
    elif token.kind == "currency":
        _take_currency(draft, token.value)
    elif token.kind == "subunit":
        draft.scales.append("cent")
        _take_currency(draft, token.value)
    elif token.kind == "unit" and draft.unit is None and not (token.value == "x" and _starts_value(tokens, at + 1)):
        # "three quarters" may be 0.75 or nine months.
        draft.broken = draft.broken or (token.value == "quarter" and tokens[at - 1].kind == "numeral")
        draft.unit = token.value
    else:
        return False
    return True


def _take_currency(draft: _Draft, currency: Currency) -> None:
    both = draft.currency.narrowed(currency) if draft.currency else currency
    draft.currency, draft.broken = both or currency, draft.broken or both is None


def _rate(tokens: Sequence[Token], draft: _Draft) -> bool:
    """``per share``, ``/km``, ``a year``: the unit below the line."""
    if _key(tokens, draft.at) not in _RATE_WORDS or _kind(tokens, draft.at + 1) not in ("unit", "noun"):
        return False
    if draft.unit and "/" in draft.unit:
        return False
    draft.unit, draft.at = f"{draft.unit or ''}/{tokens[draft.at + 1].value}", draft.at + 2
    return True


def _denomination(tokens: Sequence[Token], draft: _Draft) -> bool:
    """``(in thousands)``, ``in millions of US dollars``, ``(%)``, ``(USD)``: what the number is counted in."""
    at = draft.at
    opened = _kind(tokens, at) == "open"
    at += opened
    trial = _Draft(at=at, currency=draft.currency, scales=list(draft.scales), unit=draft.unit)
    leads = measured = False
    for i in range(at, min(at + 8, len(tokens))):
        token = tokens[i]
        if token.kind == "close" or (token.kind == "scale" and measured and token.value in trial.scales):
            break
        if (token.key in DENOMINATION and token.kind in ("fill", "noun")) or token.key in ("'", "-"):
            leads = True
        elif _measure(tokens, trial, i):
            measured, at = True, i + 1
        else:
            break
    if (opened and _kind(tokens, at) != "close") or not measured or not (opened or leads):
        return False
    draft.currency, draft.scales, draft.unit = trial.currency, trial.scales, trial.unit
    draft.broken, draft.at = draft.broken or trial.broken, at + opened
    return True


def _further_part(tokens: Sequence[Token], draft: _Draft) -> bool:
    """``2000万`` after ``1亿``, ``200 thousand`` after ``1 million``: parts from large to small make one number."""
    at = draft.at + (_key(tokens, draft.at) == "and")
    if not draft.scales or draft.scales[-1] not in _LARGE or draft.unit or _kind(tokens, at) != "number":
        return False
    number, scale = tokens[at].value, tokens[at + 1].value if _kind(tokens, at + 1) == "scale" else None
    glued = tokens[at].glued and scale is None and draft.scales[-1] in ("万", "亿")
    if number is None or draft.number is None or not (glued or scale in _LARGE):
        return False
    part, whole = (MATH.multiply(number, FACTORS[scale]) if scale else number), _product(draft.scales)
    if part >= whole or (scale and FACTORS[scale] >= whole):
        return False
    draft.number = MATH.add(MATH.multiply(draft.number, whole), part)
    draft.scales, draft.written_out, draft.at = [], True, at + (2 if scale else 1)
    return True


def _quantity(draft: _Draft) -> Quantity | None:
    if draft.broken or draft.number is None:
        return None
    # Two scales multiply only if both are large (hundred million); "32% million" is nothing.
    if len(draft.scales) > 1 and not (set(draft.scales) <= _LARGE and len(set(draft.scales)) == len(draft.scales)):
        return None
    # Beside a sign parentheses only group.
    bracketed = draft.closed and not draft.sign
    negative = draft.sign == "-" or (bracketed and draft.table_minus)
    face = MATH.minus(draft.number) if negative else draft.number
    scale = None if not draft.scales else draft.scales[0] if len(draft.scales) == 1 else "product"
    bare = not (scale or draft.unit or draft.currency or draft.sign or draft.closed or draft.written_out)
    return Quantity(
        face=face,
        value=MATH.multiply(face, _product(draft.scales)) if scale else face,
        scale=scale,
        currency=draft.currency,
        unit=draft.unit,
        bracketed=bracketed and not draft.table_minus,
        year_like=bare and _BARE_YEAR.fullmatch(draft.literal) is not None,
    )


def _product(scales: list[str]) -> Decimal:
    product = Decimal(1)
    for scale in scales:
        product = MATH.multiply(product, FACTORS[scale])
    return product


def _starts_value(tokens: Sequence[Token], at: int) -> bool:
    return _kind(tokens, at) in ("number", "numeral")


def _kind(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].kind if 0 <= at < len(tokens) else ""


def _key(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].key if 0 <= at < len(tokens) else ""
