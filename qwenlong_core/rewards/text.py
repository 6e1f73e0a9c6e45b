"""Text normalisation for comparing answers: unicode, LaTeX and markdown wrappers, SQuAD-style spans.

Two spellings of the same thing become equal, and two different things stay different. Every function runs in linear
time and executes nothing.
"""

from __future__ import annotations

import re
import sys
import unicodedata

_BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_VARIATION_SELECTORS = "".join(chr(c) for c in [*range(0xFE00, 0xFE10), *range(0x180B, 0x180E)])
_FORMAT_CHARACTERS = (chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) == "Cf")
_INVISIBLE = dict.fromkeys(map(ord, [*_BLANK_LETTERS, *_VARIATION_SELECTORS, *_FORMAT_CHARACTERS]))
"""Characters that are not displayed (zero-width characters, bidi marks, tags, fillers)."""

_SCRIPTS = {
    # NFKC would turn 10² into 102 and 3½ into 31/2, so exponents and fractions are spelled out first.
    **{ord(c): f"_{d}" for d, c in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{ord(c): " " + unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
    ord("\u2044"): "/",
    ord("\u066a"): "%",
    ord("\u066b"): ".",
    ord("\u066c"): ",",
}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹘﹣－"), "-")
_QUOTES = {**dict.fromkeys(map(ord, "‘’‚‛′＇"), "'"), **dict.fromkeys(map(ord, "“”„‟″＂«»"), '"')}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_CHARACTERS = {**_INVISIBLE, **_SCRIPTS, **_DASHES, **_QUOTES}

_LATEX_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|tt|sf)?|math(?:rm|bf|it|sf|tt)|mbox|bm|operatorname)\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|left\b|right\b|displaystyle\b|big\b|Big\b)")
_LATEX_DELIMITER = re.compile(r"\\[()\[\]]")
_MATH_DOLLARS = re.compile(r"\$\$?(?!\$)([^$]*)\$\$?(?!\d)")
_EMPHASIS = re.compile(r"(?<!\w)(?:\*\*|__|~~|`)|(?:\*\*|__|~~|`)(?!\w)")
"""Markers inside a word are not emphasis: ``9**9`` must not become 99."""


def strip_invisible(text: str) -> str:
    """Remove characters that are not displayed; ``"Pa\\u200bris"`` becomes ``"Paris"``."""
    return text if text.isascii() else text.translate(_INVISIBLE)


def canonical(text: str) -> str:
    """Give equivalent notations one spelling: NFKC, ASCII digits, dashes and quotes, ``10²`` as ``10^2``.

    Letters of different scripts stay different: a Cyrillic ``а`` never equals a Latin ``a``.
    """
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: "^" + match[0].translate(_LOWERED), text)
    # Translated again after NFKC, which itself produces some of these characters.
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    return _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)


def strip_wrappers(text: str) -> str:
    """Remove markdown emphasis, LaTeX text commands and math delimiters.

    A dollar sign counts as a delimiter only if it is closed by another one that no digit follows; ``\\$`` and ``$5``
    stay dollars.
    """
    if "\\" in text:
        # An escaped dollar is hidden behind a NUL while dollar delimiters are removed.
        text = text.replace("\\$", "\x00").replace("\\%", "%").replace("\\&", "&")
        text = _LATEX_SPACE.sub(" ", _LATEX_DELIMITER.sub(" ", text))
        for _ in range(3):  # \text{\textbf{...}}; nobody nests an answer deeper than this
            text = _LATEX_TEXT.sub(r"\1", text)
    text = _MATH_DOLLARS.sub(r"\1", text.replace("{,}", ",")).replace("\x00", "$")
    text = _EMPHASIS.sub("", text).strip()
    return text.strip("*_ \t") if text[:1] in "*_" or text[-1:] in "*_" else text


_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_LATEX_SIGNS = {
    "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠", "lt": "<",
    "gt": ">", "pm": "±", "times": "×", "cdot": "·", "div": "÷", "approx": "≈", "sim": "~", "to": "→", "infty": "∞",
    "rightarrow": "→", "prime": "\ue000",
}  # fmt: skip
_LATEX_SIGN = re.compile(rf"\\({'|'.join(sorted(_LATEX_SIGNS, key=len, reverse=True))})(?![a-zA-Z])")
_SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠", "=<": "≤", "≦": "≤", "≧": "≥", "⩽": "≤", "⩾": "≥", "==": "="}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_PRIMES = {ord("′"): "\ue000", ord("″"): "\ue001", ord("‴"): "\ue000\ue001"}
"""Minutes and seconds, feet and inches are hidden from the folding of quotes behind characters of private use."""
_FEET = re.compile(r"(?<=[0-9])'(?=\s?[0-9]{1,2}(?:\.[0-9]+)?\s?(?:\"|''|\ue001|\W*$))")
_INCHES = re.compile(r"(?<=[0-9])(?:\"|''|\ue000\ue000)")
_TAG = re.compile(
    r"</?(?:b|i|u|em|strong|sub|sup|span|p|br|code|answer)\s?/?>|<([a-z][^<>0-9]*)>|^>\s(?=[^\W\d]{2})", re.IGNORECASE
)
"""A tag, brackets around a word, and a quoted line's mark are no comparison."""
_SYMBOL = re.compile(
    r"""( (?<=[0-9]) [.,/:\-] (?=[0-9])          # 3.5, 1,5, 1/2, 10:30, 1914-1918 are not 35, 15, 12, 1030, 19141918
        | (?<![\w.)]) (?:-\.?|\.) (?=[0-9])    # -5 is not 5, .5 is not 5
        | (?<![\w.)]) - (?=[^\W\d_]\b)         # -x is not x
        | (?<=[\w+]) - (?![\w-])               # BBB- is not BBB
        | - (?=[$€£¥₹₩][0-9])
        | (?<=\w) \s? [%‰°] | [%‰]
        | (?<=\w) [+#♯♭]+                       # C++, C#
        | \# (?=\w)
        | (?<=\w) \*+ (?=\w)                   # 9**9 is not 99
        | [$€£¥₹₩] (?=\s?-?\.?[0-9]) | (?<=[0-9]) \s? [$€£¥₹₩] | (?<=\w) [$€£¥₹₩]
        | (?<=\w) \^ (?=[\w-])
        | \s* (?: [<=>~|¬±×÷≤≥≠≈≡→←↔⇒∈∞√∑∏∂∆∇∪∩⊂⊆∧∨] | (?<=\s)\+(?=\s) )+ \s*
        ) | [^\w\s\ue000\ue001] | _""",
    re.VERBOSE,
)
"""The signs that carry meaning (first group), and all others."""
_ARTICLE = re.compile(r"\b(?:a|an|the)\b(?=\s+\S)")
"""Unlike SQuAD's, an article at the end stays: ``Vitamin A`` is not ``Vitamin``."""


def _drop_symbol(match: re.Match[str]) -> str:
    if match[1] is not None:
        return match[1].strip()
    # Combining vowel signs do not match \w but are letters to a reader: drop only punctuation (P*) and symbols (S*).
    return "" if match[0] == "_" or unicodedata.category(match[0])[0] in "PS" else match[0]


def normalize_span(text: str) -> str:
    """SQuAD v1.1 normalisation (lower case, no punctuation, no articles, single spaces), made stricter.

    Each difference closes a hole that a policy could exploit: unicode is normalised first; signs that carry meaning
    (decimal point, minus, percent, currency, comparisons, the sign of a rating, feet and inches) stay; an article is
    dropped only before another word; and text that would become empty or a bare article stays as it was.
    """
    # One space between words before any pattern looks: a sign takes the blanks around it, and would read a long run
    # of blanks anew from each of them.
    folded = " ".join(_fold_signs(text).casefold().split())
    plain = " ".join(_SYMBOL.sub(_drop_symbol, _THOUSANDS.sub("", folded)).split())
    without_articles = " ".join(_ARTICLE.sub(" ", plain).split())
    if not without_articles or without_articles in ("a", "an", "the"):
        return plain or folded
    return without_articles


def _fold_signs(text: str) -> str:
    """:func:`canonical`, with one spelling for each comparison and for feet and inches."""
    if "\\" in text:
        text = _LATEX_SIGN.sub(lambda match: _LATEX_SIGNS[match[1]], text)
    text = canonical(text if text.isascii() else text.translate(_PRIMES))
    if '"' in text or "'" in text or "\ue000" in text:
        text = _FEET.sub("\ue000", text)
        # A quotation mark after a digit closes a quotation unless no other opens it: "Catch 22".
        if text.count('"') != 2:
            text = _INCHES.sub("\ue001", text)
    if "<" in text or ">" in text or "=" in text or not text.isascii():
        text = _SIGN.sub(lambda match: _SIGNS[match[0]], text)
        text = _TAG.sub(lambda match: match[1] or "", text)
    return text
