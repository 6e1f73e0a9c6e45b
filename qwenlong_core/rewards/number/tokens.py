"""Cut an answer into tokens, each with the kind that a table gives it.

Linear in the length of the text: one pass of a regular expression, and a look into a dictionary for each token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from qwenlong_core.rewards.number import words
from qwenlong_core.rewards.number.chinese import CHINESE_DIGITS, chinese
from qwenlong_core.rewards.number.currencies import currency_words, subunit_words
from qwenlong_core.rewards.number.digits import DIGITS, parse_digits
from qwenlong_core.rewards.number.scales import BEFORE_NUMBER, BESIDE_CURRENCY, scale_words
from qwenlong_core.rewards.number.units import unit_words
from qwenlong_core.rewards.text import canonical, strip_wrappers

_CJK = "\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af"
_LETTER = "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u1fff"
_TOKEN = re.compile(
    rf"""(?P<number>{DIGITS})
    | (?P<cjk>[{_CJK}]+)
    | (?P<word>(?:[A-Za-z]\.){{2,}}(?![A-Za-z]) | (?i:co_?2e?)(?![{_LETTER}]) | [QqHh][1-4](?![0-9])
        | [A-Za-z]{{1,3}}\$ | [{_LETTER}]+)
    | (?P<symbol>\*\* | \.{{2,}} | \\[A-Za-z]+ | \S)""",
    re.VERBOSE,
)
_NUMERALS = {
    word: value
    for values, names in (
        (range(20), "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen"),
        (range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety"),
    )
    for value, word in zip(values, names.split())
}  # fmt: skip
_SYMBOLS = {
    "(": "open", ")": "close", "-": "dash", "+": "plus", "/": "slash", "^": "power", "**": "power", "*": "times",
    "×": "times", "·": "times", "\\times": "times", "\\cdot": "times", "~": "fill", "≈": "fill", "\\approx": "fill",
    "\\sim": "fill", "#": "fill", "=": "fill", "_": "subscript",
    **dict.fromkeys(",.:;!'\"[]{}…、。，；：！「」", "punct"),
}  # fmt: skip


@dataclass(slots=True)
class Token:
    """A number, a word or a sign, with what the tables say about it."""

    kind: str
    key: str
    """The text, folded and without dots."""
    value: Any
    start: int
    end: int
    glued: bool
    """Whether nothing stands between it and the token before."""


def plain(text: str) -> str:
    """The text without wrappers, LaTeX fractions as ``1/2``, and without the punctuation that ends it."""
    text = strip_wrappers(canonical(text))
    if "\\" in text or "{" in text:
        text = _OVER.sub(r" \1/\2 ", _FRACTION.sub(_as_fraction, text))
    return text.strip().rstrip(".。,;!！")


_PART = r"(?:\{\s*(-?[0-9.,]{1,30})\s*\}|\s*([0-9]))"
_FRACTION = re.compile(rf"\\(?:[dtcs]|nice|x)?frac\s*{_PART}\s*{_PART}")
_OVER = re.compile(r"\{\s*([0-9.,]{1,30})\s*\\over\s*([0-9.,]{1,30})\s*\}")


def _as_fraction(match: re.Match[str]) -> str:
    return f" {match[1] or match[2]}/{match[3] or match[4]} "


def tokens_of(text: str) -> list[Token]:
    """The tokens of a plain text, phrases of several words as one token."""
    found: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        group, part = match.lastgroup, match[0]
        glued = match.start() == end and end > 0
        if group == "number":
            found.append(_number(part, match.start(), glued))
        elif group == "cjk":
            _cut_cjk(part, match.start(), glued, found)
        else:
            found.append(_word(part, match.start(), glued))
        end = match.end()
    return _join_phrases(found)


def _number(part: str, start: int, glued: bool) -> Token:
    # ($000) and 000s are thousands; nobody writes zero so.
    if part == "000":
        return Token("scale", part, "thousand", start, start + 3, glued)
    return Token("number", part, parse_digits(part), start, start + len(part), glued)


def _word(part: str, start: int, glued: bool) -> Token:
    key = part.casefold()
    if len(key) > 2 and "." in key and key[0] != ".":
        key = key.replace(".", "")
    kind, value = _lexicon().get(part) or _lexicon().get(key) or _singular(key) or ("unknown", None)
    return Token(kind, key, value, start, start + len(part), glued)


def _singular(key: str) -> tuple[str, Any] | None:
    """``shares`` as the counted ``share``."""
    return _lexicon().get(key[:-1]) if key.endswith("s") and key[:-1] in words.COUNTED else None


def _cut_cjk(text: str, start: int, glued: bool, found: list[Token]) -> None:
    """Cut Chinese, Japanese or Korean, which have no blanks, into the longest words of the tables."""
    at = 0
    while at < len(text):
        after_number = bool(found) and found[-1].kind in ("number", "scale")
        run = _CHINESE_RUN.match(text, at)
        word = next((text[at : at + n] for n in range(_LONGEST_CJK, 0, -1) if text[at : at + n] in _lexicon()), None)
        kind, value = _lexicon()[word] if word else ("unknown", None)
        if run and not after_number and kind in ("scale", "unknown"):
            word, kind, value = run[0], "number", chinese(run[0])
        word = word or text[at]
        found.append(Token(kind, word, value, start + at, start + at + len(word), glued or at > 0))
        at += len(word)


_LONGEST_CJK = 6
_CHINESE_RUN = re.compile(f"[{CHINESE_DIGITS}]+")


def _join_phrases(found: list[Token]) -> list[Token]:
    """One token for each phrase of the tables (``per cent``, ``square feet``), the longest first."""
    joined: list[Token] = []
    i = 0
    while i < len(found):
        token = found[i]
        for length in _phrases().get(token.key, ()):
            part = found[i : i + length]
            entry = _lexicon().get(" ".join(t.key for t in part)) if len(part) == length else None
            if entry:
                token = Token(entry[0], " ".join(t.key for t in part), entry[1], token.start, part[-1].end, token.glued)
                i += length - 1
                break
        joined.append(token)
        i += 1
    return joined


@cache
def _phrases() -> dict[str, tuple[int, ...]]:
    """The lengths of the phrases that begin with a word, longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in _lexicon():
        if " " in phrase:
            lengths.setdefault(phrase.split(" ")[0], set()).add(phrase.count(" ") + 1)
    return {first: tuple(sorted(found, reverse=True)) for first, found in lengths.items()}


@cache
def _lexicon() -> dict[str, tuple[str, Any]]:
    """Kind and value of every word, phrase and sign; of two tables that hold a word, the later one counts."""
    entries: dict[str, tuple[str, Any]] = {}
    for kind, table in _TABLES:
        for word in table:
            parts = [m[0].casefold() for m in _TOKEN.finditer(word)]
            key = word if word in _CASED or len(parts) == 1 or _is_cjk(word) else " ".join(parts)
            key = key.replace(".", "") if len(key) > 2 and " " not in key else key
            entries[key] = (kind, table[word] if isinstance(table, dict) else None)
    return entries


def _is_cjk(word: str) -> bool:
    return re.fullmatch(f"[{_CJK}]+", word) is not None


_SCALES, _UNITS, _SUBUNITS = scale_words(), unit_words(), subunit_words()
_CASED = frozenset(word for table in (_SCALES, _UNITS) for word in table if word != word.casefold())
_TABLES: tuple[tuple[str, Any], ...] = (
    ("fill", words.REFERENCE | words.DATE | words.PERIOD | words.ROUNDED | words.DENOMINATION),
    ("noun", {word: word for word in words.COUNTED}),
    ("fill", words.ABOUT | words.LEADING),
    ("reason", words.REASON),
    ("arithmetic", words.ARITHMETIC),
    ("direction", words.DIRECTION),
    ("bound", words.BOUND),
    ("bound", words.CONTRAST),
    ("several", words.SEVERAL),
    ("or", words.OR),
    ("sign", words.SIGNS),
    ("unit", _UNITS),
    ("currency", currency_words()),
    ("letter", BESIDE_CURRENCY),
    ("scale", {word: name for word, name in _SCALES.items() if word not in _SUBUNITS}),
    ("before", {word: _SCALES[word] for word in BEFORE_NUMBER}),
    ("subunit", _SUBUNITS),
    ("numeral", _NUMERALS),
    *((kind, {sign}) for sign, kind in _SYMBOLS.items()),
)
