"""Parse digits with separators into exact decimals, with bounded work.

A token such as ``1.234,5`` or ``12e6`` (:data:`DIGITS` is its pattern) becomes a ``Decimal``, or ``None`` if its
separators are not those of a number or it exceeds the caps on size.
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
"""Precise enough to print any float and read it back, while the work per operation stays bounded."""


def parse_digits(token: str) -> Decimal | None:
    """Digits with separators as a ``Decimal``; ``None`` if they do not form a number or exceed the caps."""
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
    """Rewrite ``1,234.5``, ``1.234,5``, ``1,23,456`` and ``12,5`` as plain digits with a decimal point."""
    commas, dots = digits.count(","), digits.count(".")
    if commas and dots:
        # The mark that comes last separates the decimals; the other one must group the digits before it.
        decimal_mark = "," if digits.rfind(",") > digits.rfind(".") else "."
        whole, _, fraction = digits.rpartition(decimal_mark)
        group = "." if decimal_mark == "," else ","
        return f"{whole.replace(group, '')}.{fraction}" if _grouped(whole, group) else None
    # One comma is a decimal comma (12,5) unless it groups three digits: 1,234 is 1234, but 0,123 is a fraction.
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
