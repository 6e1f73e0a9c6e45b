"""Digits with separators as exact decimals, in bounded work.

In: a token such as ``1.234,5`` or ``12e6`` (:data:`DIGITS` is its pattern). Out: a ``Decimal``, or
``None`` where the separators make no number or the size is beyond the caps.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation

DIGITS = (
    r"(?:[0-9]{1,3}(?:[ '][0-9]{3})+(?![0-9])(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]{1,4}(?![0-9]))?"
)

_MAX_DIGITS = 400
MAX_EXPONENT = 400
MATH = Context(prec=60, Emax=10_000, Emin=-10_000)
"""Enough digits to print and read back any float exactly enough, and bounded work per operation."""


def parse_digits(token: str) -> Decimal | None:
    """Digits with separators as a Decimal; ``None`` where the separators make no number."""
    if len(token) > _MAX_DIGITS:
        return None
    mantissa, _, exponent = token.lower().replace(" ", "").replace("'", "").partition("e")
    digits = _without_separators(mantissa)
    if digits is None or abs(int(exponent or 0)) > MAX_EXPONENT:
        return None
    try:
        return MATH.scaleb(Decimal(digits), int(exponent or 0))
    except InvalidOperation:
        return None


def _without_separators(digits: str) -> str | None:
    """``1,234.5``, ``1.234,5``, ``1,23,456`` and ``12,5`` in plain digits with a decimal point."""
    commas, dots = digits.count(","), digits.count(".")
    if commas and dots:
        decimal_mark = "," if digits.rfind(",") > digits.rfind(".") else "."
        whole, _, fraction = digits.rpartition(decimal_mark)
        group = "." if decimal_mark == "," else ","
        return f"{whole.replace(group, '')}.{fraction}" if _grouped(whole, group) else None
    if commas == 1 and (not _grouped(digits, ",") or digits.startswith("0,")):
        return digits.replace(",", ".")
    if commas:
        return digits.replace(",", "") if _grouped(digits, ",") else None
    if dots > 1:
        return digits.replace(".", "") if _grouped(digits, ".") else None
    return digits


def _grouped(digits: str, mark: str) -> bool:
    mark = re.escape(mark)
    western, indian = (
        rf"[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+",
        rf"[0-9]{{1,2}}(?:{mark}[0-9]{{2}})+{mark}[0-9]{{3}}",
    )
    return re.fullmatch(f"{western}|{indian}", digits) is not None
