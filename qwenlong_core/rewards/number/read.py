"""Read the one number that an answer states.

:func:`read_quantity` takes a short committed answer such as ``approximately $(1,234.5) million`` and returns a
:class:`~.quantity.Reading`. Every word beside the number is in one of the tables of this package, or the number is
undecided: nothing is ignored. Nothing is evaluated either; the work grows linearly with the text, which is capped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from qwenlong_core.rewards.number.amounts import Amount, read_amount
from qwenlong_core.rewards.number.context import contrast, doubtful, period, reference, rounding
from qwenlong_core.rewards.number.quantity import Quantity, Reading
from qwenlong_core.rewards.number.restated import Stated, one_number
from qwenlong_core.rewards.number.tokens import Token, plain, tokens_of

MAX_NUMBER_CHARS = 1_000
"""Longer text is not read as a number, since answers are short."""

_CODE = re.compile(r"\(\)|\$\([A-Za-z]|[A-Za-z]\('|__")
"""Calls and commands: no reader finds a number here."""
_MEASURES = frozenset({"scale", "currency", "subunit", "letter", "before"})


@dataclass(slots=True)
class _Scan:
    """What a pass over the tokens has found."""

    stated: list[Stated] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    """Kind of a word that changes the number, with the first such word."""
    unknown: set[str] = field(default_factory=set)
    joins: list[str] = field(default_factory=list)
    """Keys since the last amount."""
    tail_tried: bool = False
    """Whether a reason or contrast was found that did not end the answer; only the first is tried."""
    periods: bool = False
    broken: bool = False


@lru_cache(maxsize=8)  # the extraction and the rule read the same answer one after the other
def read_quantity(text: str) -> Reading:
    """The one quantity that ``text`` states.

    Words of approximation, a unit, a period, a reference, a reason, the left side of an equation and the same number
    in another form may stand beside it. Ranges, alternatives, bounds and negations are not a quantity.
    """
    if len(text) > MAX_NUMBER_CHARS:
        return Reading(quantity=None, reason=f"{len(text):,} characters > {MAX_NUMBER_CHARS:,}: too long for a number")
    text = plain(text)
    left, right = _last_side(text)
    tokens = tokens_of(right)
    scan = _scan(tokens, periods=True)
    # A year may be the period of an amount or the answer itself; only if nothing else is there it is the answer.
    if scan.periods and (not scan.stated or _is_year(scan.stated[0])):
        scan = _scan(tokens, periods=False)
    return _reading(text, left, scan)


def _reading(text: str, left: str, scan: _Scan) -> Reading:
    code = _CODE.search(text)
    if not scan.stated:
        return Reading(quantity=None, reason="no number in the answer", decided=code is not None or scan.broken)
    if word := scan.flags.get("several"):
        return Reading(quantity=None, reason=f"{word!r} names an alternative", several=True)
    if scan.broken or any(one.amount.quantity is None for one in scan.stated):
        return Reading(quantity=None, reason="the digits do not form one number", decided=code is not None)
    quantity = one_number(scan.stated)
    if quantity is None or not _left_agrees(left, quantity, scan):
        return Reading(quantity=None, reason="several different numbers", several=True)
    if code:
        return Reading(quantity=None, reason=f"{code[0]!r} is code or a formula")
    if word := scan.flags.get("bound"):
        return Reading(quantity=None, reason=f"{word!r} makes it a bound or a negation")
    if word := scan.flags.get("arithmetic"):
        return Reading(quantity=None, reason=f"{word!r} would have to be computed", decided=False)
    if left and quantity.unit == "x":
        return Reading(quantity=None, reason="'x' may be a variable", decided=False)
    if (word := scan.flags.get("direction")) and not quantity.face.is_signed():
        return Reading(quantity=None, reason=f"{word!r} gives the sign in words", decided=False)
    if word := scan.flags.get("measure"):
        return Reading(quantity=None, reason=f"{word!r} stands apart from its number", decided=False)
    return Reading(quantity=quantity, unknown=frozenset(scan.unknown))


def _scan(tokens: Sequence[Token], periods: bool) -> _Scan:
    """Read the tokens from left to right, each as a part of an amount, of its context, or by its kind."""
    scan = _Scan()
    i = 0
    while i < len(tokens):
        if _ends_answer(tokens, i, scan):
            break
        end = periods and period(tokens, i)
        scan.periods = scan.periods or bool(end)
        end = end or reference(tokens, i) or rounding(tokens, i)
        if not end:
            end = _amount(tokens, i, scan) or _word(tokens, i, scan)
        i = end
    return scan


def _amount(tokens: Sequence[Token], i: int, scan: _Scan) -> int:
    """Take the amount at ``i``, if there is one; return the position after it."""
    token, after_number = tokens[i], bool(scan.stated) and scan.stated[-1].amount.end == i
    if after_number and token.glued and token.kind in ("dash", "plus"):
        return 0  # 30-35 is a range, not 30 and -35
    if token.kind in (
        "number",
        "numeral",
        "fill",
        "scale",
        "currency",
        "sign",
        "dash",
        "plus",
        "open",
        "before",
        "arithmetic",
    ):
        amount = read_amount(tokens, i, restated=bool(scan.stated))
        if amount is not None:
            if _glued_to_a_word(tokens, i):
                scan.broken = True
            amount, end = _with_noun(tokens, amount)
            scan.stated.append(Stated(amount, tuple(scan.joins)))
            scan.joins = []
            return end
    return 0


def _glued_to_a_word(tokens: Sequence[Token], i: int) -> bool:
    """``Q32`` and ``v1`` are names; ``USD32``, ``FY2021`` and ``约45`` are not."""
    before = tokens[i - 1] if i and tokens[i].glued else None
    return before is not None and before.key[-1:].isalpha() and before.key.isascii() and before.key != "fy"


def _with_noun(tokens: Sequence[Token], amount: Amount) -> tuple[Amount, int]:
    """The amount with the noun after it as its unit, if it has no unit: ``32 employees``."""
    at = amount.end
    noun = tokens[at] if at < len(tokens) else None
    if noun is None or noun.kind not in ("noun", "unknown") or not noun.key[0].isalpha() or amount.quantity is None:
        return amount, at
    if amount.quantity.unit is None and not (amount.quantity.currency or amount.quantity.scale):
        unit = noun.value or _singular(noun.key)
        amount = replace(amount, quantity=replace(amount.quantity, unit=unit, year_like=False))
    return amount, at


def _singular(word: str) -> str:
    # A short word such as "ms" keeps its last letter.
    return word.removesuffix("s") if len(word) > 2 else word


def _word(tokens: Sequence[Token], i: int, scan: _Scan) -> int:
    """Note what the word at ``i`` does to the number."""
    token = tokens[i]
    kind = token.kind
    if kind in ("several", "bound", "direction", "arithmetic"):
        scan.flags.setdefault(kind, token.key)
    elif kind == "or" and not (scan.stated and scan.stated[-1].amount.end <= i and _amount_follows(tokens, i + 1)):
        scan.flags.setdefault("several", token.key)
    elif kind == "unit" and _after_restatement(tokens, i, scan):
        scan.stated[-1] = scan.stated[-1].with_unit(token.value)
    elif kind in _MEASURES or (kind == "unit" and token.key not in ("x", "°")):
        scan.flags.setdefault("measure", token.key)
    elif kind == "unknown" or (kind == "fill" and _ends_a_number(tokens, i)):
        call = i + 1 < len(tokens) and tokens[i + 1].kind == "open" and tokens[i + 1].glued
        scan.flags.setdefault("bound", f"{token.key}(") if call and token.key.isascii() else scan.unknown.add(token.key)
    elif kind in ("power", "subscript", "slash", "times", "plus") or (kind == "dash" and not _hyphen(tokens, i)):
        _operator(tokens, i, scan)
    scan.joins.append(token.key)
    return i + 1


def _after_restatement(tokens: Sequence[Token], i: int, scan: _Scan) -> bool:
    """Whether the unit at ``i`` follows a number said twice: ``five (5) years``."""
    closes = i > 0 and tokens[i - 1].kind == "close" and len(scan.stated) > 1
    return closes and scan.stated[-1].amount.end == i - 1 and "(" in scan.stated[-1].joins


def _ends_a_number(tokens: Sequence[Token], i: int) -> bool:
    """``nd`` in ``32nd``: letters at a number that are no unit make another word of it."""
    return (
        i > 0
        and tokens[i].glued
        and tokens[i].key.isascii()
        and tokens[i].key.isalpha()
        and tokens[i - 1].kind == "number"
    )


def _operator(tokens: Sequence[Token], i: int, scan: _Scan) -> None:
    """An operator beside a number: a trailing plus is a bound, the rest a formula."""
    kind, ends = tokens[i].kind, i + 1 >= len(tokens)
    if kind in ("power", "subscript"):
        scan.broken = scan.broken or tokens[i].key != "**"
        scan.flags.setdefault("several" if tokens[i].key == "**" else "arithmetic", tokens[i].key)
    elif kind == "plus" and scan.stated and (ends or not _amount_follows(tokens, i + 1)):
        scan.flags.setdefault("bound", "+")
    elif kind != "dash" or _amount_follows(tokens, i + 1):
        scan.flags.setdefault("arithmetic", tokens[i].key)


def _hyphen(tokens: Sequence[Token], i: int) -> bool:
    """A dash between words or around them, as in ``net-income`` and ``32 - as expected``."""
    return not _amount_follows(tokens, i + 1)


def _amount_follows(tokens: Sequence[Token], i: int) -> bool:
    for at in range(i, min(i + 6, len(tokens))):
        if tokens[at].kind in ("number", "numeral"):
            return True
        if tokens[at].kind not in ("fill", "currency", "sign", "dash", "plus", "open", "before", "punct"):
            return False
    return False


def _ends_answer(tokens: Sequence[Token], i: int, scan: _Scan) -> bool:
    """Whether a reason or a contrast begins at ``i``; then nothing after it changes the number."""
    if scan.tail_tried or not scan.stated:
        return False
    denied = contrast(tokens, i)
    if denied is not None:
        rest = _scan_tail(tokens[denied.end :])
        scan.tail_tried = bool(rest.stated or rest.flags or rest.unknown)
    elif tokens[i].kind == "reason":
        scan.tail_tried = doubtful(tokens[i + 1 :])
    else:
        return False
    if not scan.tail_tried:
        _check_tail(tokens[i + 1 :], scan.stated[0].amount.quantity, scan)
    return not scan.tail_tried


def _check_tail(tail: Sequence[Token], first: Quantity | None, scan: _Scan) -> None:
    """A scale or currency in a reason may belong to the answer (``32, not 31 million``), which makes it undecided."""
    said = _scan_tail(tail)
    for one in said.stated:
        quantity = one.amount.quantity
        if first and quantity and first.scale is None and quantity.scale not in (None, "percent"):
            scan.flags.setdefault("measure", quantity.scale or "")
    if word := said.flags.get("measure"):
        scan.flags.setdefault("measure", word)


def _scan_tail(tail: Sequence[Token]) -> _Scan:
    said = _Scan()
    i = 0
    while i < len(tail):
        i = period(tail, i) or reference(tail, i) or _amount(tail, i, said) or _word(tail, i, said)
    return said


_WRAPPERS = re.compile(r"\A[\s}]*\$|\\(?:text|mathrm|textbf)\{|\\[ ,;:!]|\\(?=%)|[{}~]")
_MEASURED = 60
"""Characters after a box in which its scale and unit are looked for."""


def measures_after(text: str) -> int:
    """How many characters at the start of ``text``, which follows a number, are its scale, currency or unit."""
    # Blanks in the place of wrappers keep the positions.
    tokens = tokens_of(_WRAPPERS.sub(lambda match: " " * len(match[0]), text[:_MEASURED].partition("\n")[0]))
    end, opened = 0, False
    for token in tokens:
        if token.kind in (*_MEASURES, "unit") or (token.kind == "close" and opened):
            end = token.end
        elif token.key not in ("in", "of", "per", ".") and token.kind != "open":
            break
        opened = opened or token.kind == "open"
    return end


def _last_side(text: str) -> tuple[str, str]:
    """``("x", "32")`` for ``x = 32``: the end of a chain of equations is the answer."""
    left, sign, right = text.rpartition("≈" if text.rfind("≈") > text.rfind("=") else "=")
    return (left, right.strip()) if sign and left.strip() and any(c.isdigit() for c in right) else ("", text)


def _left_agrees(left: str, quantity: Quantity, scan: _Scan) -> bool:
    """Whether the left side of an equation fits: a number alone there is the same one, and no alternative is named."""
    if not left:
        return True
    for side in re.split("[=≈]", left):
        tokens = tokens_of(side)
        said = _scan_tail(tokens)
        if "several" in said.flags or "not" in (t.key for t in tokens) or re.search("[≠<>]", side):
            return False
        if (word := said.flags.get("measure")) and word in {t.key for t in tokens if t.kind in _MEASURES}:
            scan.flags.setdefault("measure", word)
        alone = len(said.stated) == 1 and said.stated[0].amount.end - said.stated[0].amount.start == len(tokens)
        same = [Stated(said.stated[0].amount, ()), Stated(Amount(quantity, 0, 0), ("=",))] if alone else []
        if same and one_number(same) is None:
            return False
    return True


def _is_year(one: Stated) -> bool:
    quantity = one.amount.quantity
    return quantity is not None and quantity.year_like and 1900 <= quantity.face < 2100
