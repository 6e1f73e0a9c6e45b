"""Reading and comparing numbers as people write them in answers.

In: a short committed answer such as ``approximately $(1,234.5) million``. Out: a :class:`Reading`
that holds exactly one :class:`Quantity`, or says why there is none. Nothing is evaluated: the
grammar below is regular, digits and exponents are capped, so no input can hang or blow up memory.

Equality (:func:`same_quantity`) respects sign and magnitude. Units are read this way:

- A scale that the answer writes counts: ``$32.4 million`` is 32,400,000, and 25% is 0.25.
- A gold whose scale stands apart (TAT-QA's ``answer_scale``) or is percent is also met by the bare
  number in that unit: gold ``25%`` is met by ``25%``, ``25`` and ``0.25``, never by ``0.25%``.
- A gold that spells its scale out (``$32.4 million``) is not met by a bare ``32.4``.
- A gold without scale is met by an answer in the unit that the question asks for: ``25.3%`` meets
  gold ``25.3`` only if the question speaks of percent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Literal, get_args

from qwenlong_core.rewards.text import canonical, strip_wrappers

Scale = Literal["basis_point", "percent", "hundred", "thousand", "million", "billion", "trillion"]
"""A unit of size an answer can be written in."""

MAX_NUMBER_CHARS = 1_000
"""Longer text is not read as a number: an answer is a short thing."""
_MAX_DIGITS = 400
_MAX_EXPONENT = 400
_MATH = Context(prec=60, Emax=10_000, Emin=-10_000)
"""Enough digits to print and read back any float exactly enough, and bounded work per operation."""

_FACTOR: dict[str, Decimal] = {
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
_SCALE_WORDS = {
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
    "us$": "usd", "u.s.$": "usd", "usd": "usd", "us dollar": "usd", "u.s. dollar": "usd", "美元": "usd",
    "dollar": "dollar", "$": "$", "€": "€", "eur": "€", "euro": "€", "欧元": "€", "£": "£", "gbp": "£",
    "pound": "£", "英镑": "£", "¥": "¥", "jpy": "jpy", "yen": "jpy", "日元": "jpy", "円": "jpy", "cny": "cny",
    "rmb": "cny", "yuan": "cny", "元": "cny", "人民币": "cny", "₹": "₹", "inr": "₹", "rupee": "₹", "₩": "₩",
    "krw": "₩", "chf": "chf",
}  # fmt: skip
_CURRENCY = (
    r"(?:(?i:u\.?s\.?\s?\$|u\.?s\.?\s+dollars?|usd|dollars?|eur(?:os?)?|gbp|pounds?|jpy|yen|cny|rmb|yuan|inr|"
    r"rupees?|krw|chf)(?![a-zA-Z])|[$€£¥₹₩]|美元|欧元|英镑|日元|人民币|元|円)"
)
_DIGITS = (
    r"(?:[0-9]{1,3}(?:[ '][0-9]{3})+(?![0-9])(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]{1,4}(?![0-9]))?"
)
_SCALE = "|".join(f"(?P<{name}>{words})" for name, words in _SCALE_WORDS.items())
_QUANTITY = re.compile(
    rf"""(?<![\w.,^])
    (?P<sign1>[-+]\s?|(?i:negative|minus)\s|负)? (?:(?P<currency1>{_CURRENCY})\s?)?
    (?P<open>\(\s?)? (?P<sign2>[-+]\s?)? (?:(?P<currency2>{_CURRENCY})\s?)?
    (?P<number>{_DIGITS})
    (?:\s?/\s?(?P<denominator>{_DIGITS}) | \s(?P<part>[0-9]{{1,6}})\s?/\s?(?P<whole>[0-9]{{1,6}}))?
    (?:\s?(?:×|\\times|\\cdot|·|x|\*)\s?10\s?\^\s?[{{(]?\s?(?P<exponent>[-+]?[0-9]{{1,4}})\s?[}})]?)?
    (?P<close1>\s?\))?
    (?:[\s-]?(?:{_SCALE}))?
    (?P<close2>\s?\))?
    (?:\s?(?P<currency3>{_CURRENCY}))?
    (?P<close3>\s?\))?
    (?![\w^]|[.,][0-9])""",
    re.VERBOSE,
)
_BARE_YEAR = re.compile(r"[12][0-9]{3}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{\s*([0-9.,]{1,30})\s*\}\s*\{\s*([0-9.,]{1,30})\s*\}")
_BRACED_EXPONENT = re.compile(r"\^\s*\{\s*([-+]?[0-9]{1,4})\s*\}")
_SEVERAL = re.compile(
    r"\b(?:or|either|neither|nor|versus|vs|oder|ou|eleven|twelve|\w{3,5}teen|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety)\b|±|或",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"\b(?:not|no|than|least|most|over|under|above|below|less|more|greater|fewer|up\s+to|except|excluding|without|but|never|"
    r"anything|isn't|exceeds?|within)\b|不|非|以上|以下|超过|不足|\w\(|\(\)|\$\(|[^\w\s~≈()\[\]{}:.,!'\"$=#°%/&。，：-]",
    re.IGNORECASE,
)
"""Words, calls and symbols beside a number that make it something else than that number."""
_HEDGED_LEFT = re.compile(r"\b(?:or|either|not|neither)\b|[≠<>]|或|不", re.IGNORECASE)
"""What may not stand left of an equals sign; operators may."""
_DIRECTION = re.compile(
    r"\b(?:de(?:creas|clin)\w*|drop\w*|f[ae]ll\w*|loss(?:es)?|lost|reduc\w+|lower\w*|down|short\w*)\b|下降|减少|亏损",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\b(?:approximately|approx|about|almost|nearly|around|roughly|circa|ca|some|a|an|the|total|sum|of|equals?|is|it|its|was|"
    r"are|were|exactly|in|i\.e|that|which|so|therefore|thus|value|amount|answer)\b|[~≈()\[\]{}:.,!'\"$=_#-]|约|大约|为|是|。|，|：",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"[,;:(]?\s(?:which|because|since|calculated|computed|based\s+on|representing|resulting|derived|obtained|compared|"
    r"according|given\s+that|as\s+(?:stated|shown|reported|given|per|the|calculated|disclosed|can))\b",
    re.IGNORECASE,
)
"""Where the answer ends and its reason begins: ``25%, which is 30 over 120``."""
_DOUBT = re.compile(
    r"\b(?:or|either|could|might|may|maybe|perhaps|possibly|alternatively|unless|not)\b|或|也许",
    re.IGNORECASE,
)
_YEAR = (
    r"(?:the\s)?(?:(?:fiscal|calendar)\s)?(?:years?\s)?(?:ended\s)?"
    r"(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?\s[0-9]{1,2},?\s)?(?:fy\s?)?(?:19|20)[0-9]{2}\b"
)
_YEARS = re.compile(
    rf"\b(?:in|for|during|by|since|of|through|as\sof|at|over|ended)\s{_YEAR}(?:\s?(?:and|to|-|/|through|over)\s?{_YEAR})?"
    rf"|\b(?:from|between)\s{_YEAR}\s?(?:to|and|through|-)\s?{_YEAR}",
    re.IGNORECASE,
)
"""The time an amount belongs to: ``25% from 2021 to 2022`` holds one number."""
_RESTATEMENT_TOLERANCE = Decimal("0.01")
"""How far ``0.2533 (25.3%)`` may differ from itself: rounding, not a second answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One number with its unit."""

    face: Decimal
    """The signed number as written, before scale or percent."""
    value: Decimal
    """The signed number it stands for: 25% is 0.25, $3 million is 3,000,000."""
    scale: str | None = None
    currency: frozenset[str] | None = None
    """The currencies the sign may mean; ``$`` is several."""
    unit: str | None = None
    """First other word after the number, singular: ``month``, ``share``."""
    year_like: bool = False
    """A bare four-digit integer in 1000..2999: compared exactly, since a tolerance would blur years."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a text says as a number."""

    quantity: Quantity | None
    reason: str = ""
    """Why there is no quantity."""
    decided: bool = True
    """False where a reader who knows the language could still see a number (no digits, or a
    direction in words such as "a decrease of 31"); only then may the judge be asked."""
    several: bool = False
    """The text names several different numbers or a range: it commits to none."""


def read_quantity(text: str) -> Reading:
    """The one quantity that ``text`` states.

    Accepted around it are words of approximation, a unit, an equation's left side and an equal
    restatement in parentheses. Ranges, alternatives, bounds and negations are no quantity.
    """
    if len(text) > MAX_NUMBER_CHARS:
        return Reading(
            quantity=None, reason=f"{len(text):,} characters > {MAX_NUMBER_CHARS:,}: too long for a number"
        )
    text = _plain(text)
    if not any(c.isdigit() for c in text):
        return Reading(quantity=None, reason="no digits in the answer", decided=False)
    left, text = _last_side(_without_context(text))
    read = [(match, _quantity(match)) for match in _QUANTITY.finditer(text)]
    found = [(match, quantity) for match, quantity in read if quantity is not None]
    if not found or len(found) < len(read):
        return Reading(quantity=None, reason="the digits do not form one number")
    around = _QUANTITY.sub(" ", text)
    if any(c.isdigit() for c in around):
        return Reading(quantity=None, reason="digits are left over beside the number")
    if word := _SEVERAL.search(around) or _HEDGED_LEFT.search(left):
        return Reading(quantity=None, reason=f"{word[0]!r} names an alternative", several=True)
    if not _restatements(text, found) or not _equation_agrees(left, found[0][1]):
        return Reading(quantity=None, reason="several different numbers", several=True)
    if word := _BOUND.search(around):
        return Reading(quantity=None, reason=f"{word[0]!r} makes it a bound, a negation or a formula")
    first, quantity = found[0]
    if (word := _DIRECTION.search(around)) and not quantity.face.is_signed():
        return Reading(quantity=None, reason=f"{word[0]!r} gives the sign in words", decided=False)
    return Reading(quantity=_with_unit(quantity, _QUANTITY.sub(" ", text[first.end() :])))


def same_quantity(
    answer: Quantity,
    gold: Quantity,
    tolerance: float,
    gold_scale: str | None = None,
    asked: frozenset[str] = frozenset(),
) -> bool:
    """Whether ``answer`` states ``gold`` within the relative ``tolerance``; sign and magnitude count.

    Args:
        gold_scale: scale that belongs to ``gold`` but is not in its text (TAT-QA's ``answer_scale``).
        asked: scales that the question names (:func:`scales_asked`).
    """
    if not _compatible(answer, gold):
        return False
    tolerance = 0.0 if gold.year_like and gold_scale is None else tolerance
    detached = gold_scale if gold.scale is None else None
    value = gold.face * _FACTOR[detached] if detached else gold.value
    if _close(answer.value, value, tolerance):
        return True
    bare_in_gold_unit = answer.scale is None and (detached is not None or gold.scale == "percent")
    if bare_in_gold_unit and ((detached != "percent" and gold.scale != "percent") or answer.currency is None):
        return _close(answer.face, gold.face, tolerance)
    in_asked_unit = gold.scale is None and gold_scale is None and answer.scale in asked
    return in_asked_unit and _close(answer.face, gold.face, tolerance)


def scales_asked(question: str) -> frozenset[str]:
    """Scales that a question names as the unit of its answer: percent, or "in millions" and the like."""
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
    """Check an ``answer_scale`` value; empty means none.

    Raises:
        ValueError: for a name that is no scale.
    """
    if name is None or name == "":
        return None
    if name not in get_args(Scale):
        raise ValueError(
            f"answer_scale={name!r} is unknown; use one of {', '.join(get_args(Scale))} or leave it out"
        )
    return str(name)


def _plain(text: str) -> str:
    text = strip_wrappers(canonical(text))
    return (
        _BRACED_EXPONENT.sub(r"^\1", _FRACTION.sub(r" \1/\2 ", text))
        .replace("\\approx", "≈")
        .strip()
        .rstrip(".。,;!！")
    )


def _without_context(text: str) -> str:
    """The answer without the reason that follows it and the years its amount belongs to."""
    if (reason := _EXPLANATION.search(text)) and any(c.isdigit() for c in text[: reason.start()]):
        text = text if _DOUBT.search(text, reason.start()) else text[: reason.start()]
    first = _QUANTITY.search(text)
    if first is None or _BARE_YEAR.fullmatch(first[0].strip()):
        return text
    return text[: first.end()] + _YEARS.sub(" ", text[first.end() :])


def _last_side(text: str) -> tuple[str, str]:
    """``("x", "32")`` for ``x = 32``: in a chain of equations the end is what is claimed."""
    left, sign, right = text.rpartition("≈" if text.rfind("≈") > text.rfind("=") else "=")
    return (left, right.strip()) if sign and left.strip() and any(c.isdigit() for c in right) else ("", text)


def _equation_agrees(left: str, quantity: Quantity) -> bool:
    """A lone number left of the equals sign must be the same number: ``25 = 30`` claims both."""
    for side in re.split("[=≈]", left):
        match = _QUANTITY.fullmatch(side.strip())
        stated = _quantity(match) if match else None
        if stated is not None and not _close(stated.value, quantity.value, float(_RESTATEMENT_TOLERANCE)):
            return False
    return True


def _restatements(text: str, found: list[tuple[re.Match[str], Quantity]]) -> bool:
    """Every quantity after the first stands in parentheses and says the same, at most without its sign."""
    first_match, first = found[0]
    for match, quantity in found[1:]:
        opened = "(" in text[first_match.end() : match.start("number")]
        same = _close(abs(quantity.value), abs(first.value), float(_RESTATEMENT_TOLERANCE))
        written = bool(match["sign1"] or match["sign2"])
        if not opened or not same or (written and quantity.face.is_signed() != first.face.is_signed()):
            return False
    return True


def _quantity(match: re.Match[str]) -> Quantity | None:
    number = _decimal(match["number"])
    closed = bool(match["close1"] or match["close2"] or match["close3"])
    if number is None or (bool(match["sign1"]) and bool(match["sign2"])):
        return None
    if match["part"]:
        number = (
            None
            if int(match["whole"]) == 0
            else _MATH.add(number, _MATH.divide(Decimal(match["part"]), Decimal(match["whole"])))
        )
    elif match["denominator"]:
        denominator = _decimal(match["denominator"])
        number = _MATH.divide(number, denominator) if denominator else None
    if number is None or abs(int(match["exponent"] or 0)) > _MAX_EXPONENT:
        return None
    number = _MATH.scaleb(number, int(match["exponent"] or 0))
    sign = (match["sign1"] or match["sign2"] or "+").strip().lower()
    negative = sign in ("-", "negative", "minus", "负") or (
        bool(match["open"]) and closed and not match["sign1"]
    )
    face = _MATH.minus(number) if negative else number
    scale = next((name for name in _SCALE_WORDS if match[name]), None)
    return Quantity(
        face=face,
        value=_MATH.multiply(face, _FACTOR[scale]) if scale else face,
        scale=scale,
        currency=_currency(match["currency1"] or match["currency2"] or match["currency3"]),
        year_like=_BARE_YEAR.fullmatch(match[0].strip()) is not None,
    )


def _currency(text: str | None) -> frozenset[str] | None:
    if not text:
        return None
    name = " ".join(text.lower().split()).replace("u.s.", "us").replace("us $", "us$").removesuffix("s")
    return _CURRENCIES[_CURRENCY_NAMES[name]]


def _with_unit(quantity: Quantity, after: str) -> Quantity:
    words = _FILLER.sub(" ", after).split()
    unit = words[0].casefold() if words else None
    if unit and len(unit) > 2:
        unit = unit.removesuffix("s")
    return Quantity(
        face=quantity.face, value=quantity.value, scale=quantity.scale, currency=quantity.currency, unit=unit,
        year_like=quantity.year_like and unit is None,
    )  # fmt: skip


def _decimal(token: str) -> Decimal | None:
    """Digits with separators as a Decimal; ``None`` where the separators make no number."""
    if len(token) > _MAX_DIGITS:
        return None
    mantissa, _, exponent = token.lower().replace(" ", "").replace("'", "").partition("e")
    digits = _without_separators(mantissa)
    if digits is None or abs(int(exponent or 0)) > _MAX_EXPONENT:
        return None
    try:
        return _MATH.scaleb(Decimal(digits), int(exponent or 0))
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


def _compatible(answer: Quantity, gold: Quantity) -> bool:
    if answer.currency and gold.currency and not answer.currency & gold.currency:
        return False
    return not (answer.unit and gold.unit and answer.unit != gold.unit)


def _close(a: Decimal, b: Decimal, tolerance: float) -> bool:
    if a == b:
        return True
    return _MATH.abs(_MATH.subtract(a, b)) <= _MATH.multiply(Decimal(repr(tolerance)), _MATH.abs(b))
