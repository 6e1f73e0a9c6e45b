"""The words around numbers: scales, currencies, hedges, reasons and years.

This module holds patterns and tables only; :mod:`~qwenlong_core.rewards.numbers` applies them.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal, get_args

Scale = Literal["basis_point", "percent", "hundred", "thousand", "million", "billion", "trillion"]
"""A unit of magnitude in which an answer can be written."""

FACTORS: dict[str, Decimal] = {
    "basis_point": Decimal("1e-4"),
    "percent": Decimal("0.01"),
    "hundred": Decimal(100),
    "thousand": Decimal(10**3),
    "million": Decimal(10**6),
    "billion": Decimal(10**9),
    "trillion": Decimal(10**12),
    "万": Decimal(10**4),
    "亿": Decimal(10**8),
}
SCALE_WORDS = {
    "basis_point": r"(?i:basis\s+points?|bps?\b)|个?基点",
    "percent": r"%|(?i:percentage\s+points?|percent(?:age)?|per\s+cent|pct\b\.?|pp\b)|个?百分点",
    "hundred": r"(?i:hundred\b)|百(?!万)",
    "thousand": r"(?i:thousands?\b)|[kK]\b|千",
    "million": r"(?i:millions?\b|mn\b|mio\b|mln\b)|MM?\b|百万",
    "billion": r"(?i:billions?\b|bn\b|bln\b)|B\b|十亿",
    "trillion": r"(?i:trillions?\b|tn\b|trn\b)|T\b|万亿|兆",
    "万": r"万(?!亿)",
    "亿": r"亿",
}
_CURRENCIES: dict[str, frozenset[str]] = {
    "$": frozenset({"usd", "other dollar"}),
    "usd": frozenset({"usd"}),
    "dollar": frozenset({"usd", "other dollar"}),
    "€": frozenset({"eur"}),
    "£": frozenset({"gbp"}),
    "¥": frozenset({"jpy", "cny"}),
    "jpy": frozenset({"jpy"}),
    "cny": frozenset({"cny"}),
    "₹": frozenset({"inr"}),
    "₩": frozenset({"krw"}),
    "chf": frozenset({"chf"}),
}
_CURRENCY_NAMES = {
    "us$": "usd", "usd": "usd", "usdollar": "usd", "美元": "usd",
    "dollar": "dollar", "$": "$", "€": "€", "eur": "€", "euro": "€", "欧元": "€", "£": "£", "gbp": "£",
    "pound": "£", "英镑": "£", "¥": "¥", "jpy": "jpy", "yen": "jpy", "日元": "jpy", "円": "jpy", "cny": "cny",
    "rmb": "cny", "yuan": "cny", "元": "cny", "人民币": "cny", "₹": "₹", "inr": "₹", "rupee": "₹", "₩": "₩",
    "krw": "₩", "chf": "chf",
}  # fmt: skip
CURRENCY = (
    r"(?:(?i:u\.?s\.?\s?\$|u\.?s\.?\s+dollars?|usd|dollars?|eur(?:os?)?|gbp|pounds?|jpy|yen|cny|rmb|yuan|inr|"
    r"rupees?|krw|chf)(?![a-zA-Z])|[$€£¥₹₩]|美元|欧元|英镑|日元|人民币|元|円)"
)
SEVERAL = re.compile(
    r"\b(?:or|either|neither|nor|versus|vs|oder|ou|eleven|twelve|\w{3,5}teen|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety)\b|±|或",
    re.IGNORECASE,
)
BOUND = re.compile(
    r"\b(?:not|no|than|least|most|over|under|above|below|less|more|greater|fewer|up\s+to|except|excluding|without|but|never|"
    r"anything|isn't|exceeds?|within)\b|不|非|以上|以下|超过|不足|\w\(|\(\)|\$\(|[^\w\s~≈()\[\]{}:.,!'\"$=#°%/&。，：-]",
    re.IGNORECASE,
)
"""Words, calls and symbols beside a number that turn it into a bound, a negation or a formula."""
HEDGED_LEFT = re.compile(r"\b(?:or|either|not|neither)\b|[≠<>]|或|不", re.IGNORECASE)
"""What must not appear left of an equals sign; operators may."""
# The sign is given in words ("a decrease of 31"), which only a reader who knows the language can resolve.
DIRECTION = re.compile(
    r"\b(?:de(?:creas|clin)\w*|drop\w*|f[ae]ll\w*|loss(?:es)?|lost|reduc\w+|lower\w*|down|short\w*)\b|下降|减少|亏损",
    re.IGNORECASE,
)
FILLER = re.compile(
    r"\b(?:approximately|approx|about|almost|nearly|around|roughly|circa|ca|some|a|an|the|total|sum|of|equals?|is|it|its|was|"
    r"are|were|exactly|in|i\.e|that|which|so|therefore|thus|value|amount|answer)\b|[~≈()\[\]{}:.,!'\"$=_#-]|约|大约|为|是|。|，|：",
    re.IGNORECASE,
)
EXPLANATION = re.compile(
    r"[,;:(]?\s(?:which|because|since|calculated|computed|based\s+on|representing|resulting|derived|obtained|compared|"
    r"according|given\s+that|as\s+(?:stated|shown|reported|given|per|the|calculated|disclosed|can))\b",
    re.IGNORECASE,
)
"""Where the answer ends and its reason begins: ``25%, which is 30 over 120``."""
DOUBT = re.compile(
    r"\b(?:or|either|could|might|may|maybe|perhaps|possibly|alternatively|unless|not)\b|或|也许",
    re.IGNORECASE,
)
_YEAR = (
    r"(?:the\s)?(?:(?:fiscal|calendar)\s)?(?:years?\s)?(?:ended\s)?"
    r"(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?\s[0-9]{1,2},?\s)?(?:fy\s?)?(?:19|20)[0-9]{2}\b"
)
YEARS = re.compile(
    rf"\b(?:in|for|during|by|since|of|through|as\sof|at|over|ended)\s{_YEAR}(?:\s?(?:and|to|-|/|through|over)\s?{_YEAR})?"
    rf"|\b(?:from|between)\s{_YEAR}\s?(?:to|and|through|-)\s?{_YEAR}",
    re.IGNORECASE,
)
"""The period an amount refers to: ``25% from 2021 to 2022`` states one number."""


def scales_asked(question: str) -> frozenset[str]:
    """Scales in which a question asks for its answer: percent, or "in millions" and the like."""
    # A long prompt ends with its question, so only the end is searched.
    lowered = question[-4_000:].lower()
    scales = {
        s
        for s in ("thousand", "million", "billion", "trillion")
        if re.search(rf"\bin\b[^.?!]{{0,20}}\b{s}s?\b", lowered)
    }
    if re.search(r"%|\bpercent|\bper cent\b|百分", lowered):
        scales.add("percent")
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


def currency_of(text: str | None) -> frozenset[str] | None:
    """The currencies that a sign or name may mean; ``None`` if it is not known."""
    if not text:
        return None
    name = re.sub(r"[.\s]", "", text.lower()).removesuffix("s")
    known = _CURRENCY_NAMES.get(name)
    return _CURRENCIES[known] if known else None
