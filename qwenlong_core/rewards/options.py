"""Read a choice letter or yes/no from a committed answer, which must name exactly one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwenlong_core.rewards.text import canonical, strip_wrappers

_LETTER = re.compile(
    r"""[\s"']*(?:(?:option|choice|answer|letter)\s*|选项?\s*)?[\s"'(\[【]*
        (?P<letter>[A-Za-z])
        (?:(?P<delimiter>\s*[)\]】.:：,、;"']|\s+-\s) | (?P<end>\s*$)
            | (?=\s+(?:because|since|as|which|is|for|given)\b))
        (?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_ANOTHER_LETTER = re.compile(
    r"""(?:^|(?<![\w'])) (?: \(\s?(?P<bracketed>[A-Z])\s?\)
        | (?: (?<=^) | (?<=[^\w\s]\s) | (?<=[^\w\s(])
            | (?P<word>(?i:or|and|nor|not|both|also|either|maybe|perhaps|possibly|otherwise|alternatively|else|vs|
              unless|aka|then|option|choice)\s) )
          (?P<bare>[A-Z]) (?=\W*$|[,;/.&)?!]|\s+(?:and|or)\b) )""",
    re.VERBOSE,
)
"""The letter of an option on its own; ``Class A shares`` and ``Vitamin C`` name no option."""
_REASON = re.compile(
    r"\b(?:because|since|as|which|while|whereas|unlike|rather\s+than|instead\s+of)\b|(?:^|[,(])\s*(?:and\s+)?not\b",
    re.IGNORECASE,
)
"""After these words other options may be named, as reasons for the choice."""
_HEDGE_FIRST = re.compile(
    r"\W*(?:(?:or|but)\s+)?(?:maybe|perhaps|possibly|otherwise|alternatively|if\s+not|or)\b", re.IGNORECASE
)
_NEGATION = re.compile(r"\W*(?:not|neither|none|isn't|nor)\b|\W*不", re.IGNORECASE)
_LISTED = re.compile(
    r"\W*(?:(?:both|either|all|any|options?|choices?)\b\W*)?(?:\b)([A-Za-z])\b\)?\s*(?:[,/&+、"
    r";|\s]|\band\b|\bor\b|[和或与])"
    r"\s*(?:(?:and|or|option)\b\s*)*\(?([A-Z])\)?(?![\w'])"
)
_GLUED = re.compile(r"\W*([A-Z]{2,26})\W*")

_YES_NO = re.compile(
    r"\W*(?:(?P<yes>yes|是的?|oui|sí|ja)|(?P<no>no|不是|否|non|nein))(?![\w'])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_REASON_FOLLOWS = re.compile(
    r"[\s)\]'\"]*(?:$|[,.:;!。，"
    r"；：！(-]|\s(?:because|since|as|it|they|he|she|we|this|that|there|the|in|according|based)\b)",
    re.IGNORECASE,
)
"""``no, it did not`` says no; ``no company`` and ``no vs yes`` do not."""
_TAKEN_BACK = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|unless|if|else|otherwise|alternatively|depends?|unknown|unclear|uncertain|unsure|vs|aka|"
    r"neither|both|either|could|might|may|partly|in\s+part)\b|[/|&\\?]|[或和]",
    re.IGNORECASE,
)
_OTHER_WORD = re.compile(
    r"\W*(?:(?:and|but|also|not)\W+)*(?:yes|no|true|false|correct|incorrect|是|否)\W*(?:$|[,.;])",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a text says as a choice."""

    letter: str | None = None
    """Upper-case letter, or ``None`` if the text names no letter (it may still be the text of an option)."""
    rest: str = ""
    """Text after the letter: ``Paris`` in ``B) Paris``."""
    problem: str = ""
    """Why the text commits to no single option."""


@dataclass(frozen=True, kw_only=True, slots=True)
class YesNo:
    """What a text says as yes or no."""

    word: str | None = None
    """``yes`` or ``no``; ``None`` if the text says neither."""
    problem: str = ""


def read_choice(text: str, num_choices: int = 0) -> Choice:
    """The one letter that ``text`` names. ``num_choices=0`` means that the number of options is not known."""
    text = strip_wrappers(canonical(text)).strip()
    # Negations and lists first: "not B" and "A, B" would otherwise be read as one letter.
    if _NEGATION.match(text):
        return Choice(problem="the commitment negates an option instead of naming one")
    if _lists_options(text, num_choices):
        return Choice(problem="several options are named")
    match = _LETTER.fullmatch(text)
    if match is None:
        return Choice()
    letter = match["letter"].upper()
    rest = match["rest"].strip(" )]】.:：,、;\"'-")
    if not _is_option(letter, num_choices):
        return Choice(problem=f"option {letter} does not exist: there are {num_choices}")
    if _HEDGE_FIRST.match(match["rest"]) or _names_another(letter, match["rest"], num_choices):
        return Choice(problem="several options are named")
    return Choice(letter=letter, rest=rest)


def read_yes_no(text: str) -> YesNo:
    """``yes`` or ``no`` if the text begins with that word and does not take it back."""
    match = _YES_NO.match(strip_wrappers(canonical(text)))
    # "no company" is another answer that begins with the same letters; "yes, unless" does name yes, with doubt.
    if match is None or not (_REASON_FOLLOWS.match(match["rest"]) or _TAKEN_BACK.search(match["rest"])):
        return YesNo()
    if _TAKEN_BACK.search(match["rest"]) or _OTHER_WORD.match(match["rest"]):
        return YesNo(problem="yes or no is named beside an alternative")
    return YesNo(word="yes" if match["yes"] else "no")


def _lists_options(text: str, num_choices: int) -> bool:
    """Whether the text lists options: ``A, B``, ``both (A) and (C)`` and, if their number is known, ``ABCD``."""
    listed = _LISTED.match(text)
    if listed and listed[1] != listed[2]:
        return all(letter.isupper() and _is_option(letter, num_choices) for letter in listed.groups())
    # If the number of options is not known, any word in capitals (USA) would look like a list.
    glued = _GLUED.fullmatch(text)
    letters = set(glued[1]) if glued and num_choices else set()
    return len(letters) > 1 and all(_is_option(letter, num_choices) for letter in letters)


def _is_option(letter: str, num_choices: int) -> bool:
    return not num_choices or ord(letter.upper()) - ord("A") < num_choices


def before_reason(text: str) -> str:
    """The part of an answer before its reason: ``London`` in ``London, not Paris``."""
    reason = _REASON.search(text)
    return text[: reason.start()] if reason else text


def _names_another(letter: str, rest: str, num_choices: int) -> bool:
    """Whether the rest names another option's letter before it gives a reason."""
    others = (match["bracketed"] or match["bare"] for match in _ANOTHER_LETTER.finditer(before_reason(rest)))
    return any(other != letter and _is_option(other, num_choices) for other in others)
