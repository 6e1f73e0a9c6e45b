"""Scales: the words and signs that multiply a number. One table, also printed in ``docs/rewards.md``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal, get_args

Scale = Literal["basis_point", "percent", "hundred", "thousand", "million", "billion", "trillion"]
"""A unit of magnitude in which an answer can be written (``answer_scale``)."""

_TABLE: dict[str, tuple[str, str]] = {
    "millionth": ("1e-6", "millionth, millionths, 百万分之"),
    "basis_point": ("1e-4", "basis point, basis points, bp, bps, 基点, 个基点, ‱, 万分之, ten-thousandths"),
    "thousandth": ("1e-3", "thousandth, thousandths, ‰, per mille, per mil, permille, promille, 千分之"),
    "percent": (
        "1e-2",
        "%, percent, percents, percentage, percentage point, percentage points, per cent, per centum, pct, pp, ppt,"
        "ppts, Prozent, pour cent, por ciento, por cento, per cento, 百分之, 百分点, 个百分点, パーセント, 퍼센트",
    ),
    "hundredth": ("1e-2", "hundredth, hundredths"),
    "cent": ("1e-2", "cent, cents, ¢, penny, pence, centime, centimes, 美分, 센트, セント"),
    "tenth": ("1e-1", "tenth, tenths"),
    "dozen": ("12", "dozen, dozens, Dutzend, douzaine, docena"),
    "hundred": ("1e2", "hundred, hundreds, hundert, 百, 백"),
    "thousand": (
        "1e3",
        "thousand, thousands, k, K, thsd, thou, tsd, Tausend, mille, mila, 000s, '000, 千, 仟, 천, тыс, тысяч",
    ),
    "万": ("1e4", "万, 萬, 만"),
    "lakh": ("1e5", "lakh, lakhs, lac, lacs"),
    "million": (
        "1e6",
        "million, millions, mn, mio, mln, M, MM, Million, Millionen, millón, millones, milhão, milhões, milione,"
        "milioni, miljoen, 百万, 百萬, 백만, млн, миллион, миллиона, миллионов, $ m",
    ),
    "crore": ("1e7", "crore, crores, 千万, 千萬, 천만, $ cr"),
    "亿": ("1e8", "亿, 億, 억"),
    "billion": (
        "1e9",
        "billion, billions, bn, bln, B, mrd, mrds, mld, mlrd, md, mds, Milliarde, Milliarden, milliard, milliards,"
        "miliardo, miliardi, miljard, mil millones, 十亿, 十億, 십억, млрд, миллиард, миллиарда, миллиардов, $ b",
    ),
    "百亿": ("1e10", "百亿, 百億, 백억"),
    "千亿": ("1e11", "千亿, 千億, 천억"),
    "trillion": (
        "1e12",
        "trillion, trillions, tn, trn, T, Billionen, billón, billones, 万亿, 萬億, 兆, 조, трлн, $ t",
    ),
    "quadrillion": ("1e15", "quadrillion, quadrillions"),
    "quintillion": ("1e18", "quintillion, quintillions"),
}
"""Name, factor, and every way to write it. ``$ m`` means: a single m, but only beside a currency."""

# A penny and a cent are a hundredth of a currency, so they carry one; see currencies.SUBUNITS.
FACTORS = {name: Decimal(factor) for name, (factor, _) in _TABLE.items()}
WORDS = {name: tuple(word.strip() for word in words.split(",")) for name, (_, words) in _TABLE.items()}

BESIDE_CURRENCY = {word[2:]: name for name, words in WORDS.items() for word in words if word.startswith("$ ")}
"""Letters that are a scale only beside a currency: £32.4m is millions, 32.4 m may be metres."""
BEFORE_NUMBER = frozenset({"百分之", "千分之", "万分之", "百万分之"})
"""Scales that stand before their number: 百分之25."""
_CASE_MATTERS = frozenset({"K", "M", "MM", "B", "T", "k"})


def scale_words() -> dict[str, str]:
    """Every way to write a scale, folded but for single letters, with its name."""
    return {
        word if word in _CASE_MATTERS else word.casefold(): name
        for name, words in WORDS.items()
        for word in words
        if not word.startswith("$ ")
    }


_ASKED = re.compile(r"\bin\b[^.?!]{0,20}?\b(thousand|million|billion|trillion|lakh|crore)s?\b")
_ASKED_AFTERWARDS = re.compile(r"\((?:[^()]{0,20}\b)?(thousand|million|billion|trillion)s?\)")


def scales_asked(question: str) -> frozenset[str]:
    """Scales in which a question asks for its answer: percent, or "in millions" and the like."""
    # A long prompt ends with its question, so only the end is searched.
    lowered = question[-4_000:].lower()
    scales = {match[1] for pattern in (_ASKED, _ASKED_AFTERWARDS) for match in pattern.finditer(lowered)}
    if re.search(r"%|\bpercent|\bper cent\b|百分", lowered):
        scales.add("percent")
    if re.search(r"\bbasis points?\b|\bbps\b", lowered):
        scales.add("basis_point")
    if re.search(r"\bcents\b|\bpence\b", lowered):
        scales.add("cent")
    return frozenset(scales)


def known_scale(name: object) -> str | None:
    """Validate an ``answer_scale`` value; ``None`` and an empty text mean that there is none.

    Raises:
        ValueError: the name is not a scale.
    """
    if name is None or name == "":
        return None
    if name not in get_args(Scale):
        raise ValueError(f"answer_scale={name!r} is unknown; use one of {', '.join(get_args(Scale))} or leave it out")
    return str(name)
