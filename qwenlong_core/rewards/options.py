"""Read a choice: one letter, the text of exactly one option, or both of the same option, then perhaps a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from qwenlong_core.rewards.text import canonical, normalize_span, strip_wrappers

# A possessive quantifier (*+) gives nothing back, so that a long run of blanks or quotes is read once.
_NAMED = r"(?:(?:option|choice|answer|letter)\s*+|[选選][项項]?\s*+)?"
_BETWEEN = " )]】.:：,、;\"'-"
_LETTER_ALONE = re.compile(
    rf"[\s\"'(\[【「『]*+{_NAMED}[\s\"'(\[【]*+(?P<letter>[A-Za-z])[\s\"')\]】」』.:：,、;]*(?:[选選]?[项項])?",
    re.IGNORECASE,
)
_LETTER = re.compile(
    rf"""[\s"'(\[【「『]*+{_NAMED}[\s"'(\[【]*+
        (?P<letter>[A-Za-z])
        (?:(?P<delimiter>\s*[)\]】.:：,、;"']|\s+-\s) | (?P<end>\s*$)
            | (?=\s+(?:because|since|as|which|is|for|given)\b) | (?=\s*[选選]?[项項]|因[为為]))
        (?P<rest>.*)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_AFTER_TEXT = re.compile(
    rf"""[\s,:;.-]*(?:which\s+is\s+|is\s+|=\s*)?(?:\(\s*+{_NAMED}[(\[]?(?P<bracketed>[A-Z])[)\]]?\s*\)
        |\[\s*+{_NAMED}(?P<square>[A-Z])\s*\]|(?:option|choice|answer|letter)\s+\(?(?P<named>[A-Z])\)?)\W*""",
    re.VERBOSE | re.IGNORECASE,
)
"""The letter after an option's text: ``London (B)``, ``London, which is option B``."""
_ANOTHER_LETTER = re.compile(
    r"""(?:^|(?<![\w'])) (?: \(\s?(?P<bracketed>[A-Z])\s?\)
        | (?: (?<=^) | (?<=[^\w\s]\s) | (?<=[^\w\s(])
            | (?P<word>(?i:or|and|nor|not|both|also|either|maybe|perhaps|possibly|otherwise|alternatively|else|vs|
              unless|aka|then|options?|choices?)\s) )
          (?P<bare>[A-Z]) (?=\W*$|[,;/.&)?!]|\s+(?:and|or|is|are|would|could|may|might)\b) )""",
    re.VERBOSE,
)
"""The letter of an option on its own; ``Class A shares`` and ``Vitamin C`` name no option."""
_REASON = re.compile(
    r"\b(?:because|since|as|which|while|whereas|unlike|rather\s+than|instead\s+of)\b|因[为為]"
    r"|(?:^|[,(])\s*(?:and\s+)?not\b",
    re.IGNORECASE,
)
"""After these words other options may be named, as reasons for the choice."""
_CLAUSES = re.compile(r"(?<=[.;!?])\s+")
_DISMISSED = re.compile(
    r"\b(?:incorrect|wrong|false|not|distractors?|irrelevant|unsupported|contradict\w*|misstates?|overstates?|"
    r"rules?\s+out|ruled\s+out|eliminat\w+|exclud\w+|reject\w*)\b|n't\b",
    re.IGNORECASE,
)
_GRANTED = re.compile(
    r"\b(?:also|either|too|equally|likewise|might|may|could|maybe|perhaps|possibly|or|alternatively|"
    r"not\s+(?:\w+\s+)?(?:wrong|incorrect|false|ruled|excluded|eliminated))\b|n't\s+(?:wrong|incorrect|false)\b",
    re.IGNORECASE,
)
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
_JOINING = re.compile(
    r"(?:(?:or|and|but|also|maybe|perhaps|possibly|otherwise|alternatively|either|both|if|not|vs|unless)\b\s*)*"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a text says as a choice."""

    letter: str | None = None
    """Upper-case letter, or ``None`` if the text names no single option."""
    problem: str = ""
    """Why the text commits to no single option."""
    clash: str = ""
    """The letter and the other option's text that the text names together."""


def read_choice(text: str, choices: tuple[str, ...] = ()) -> Choice:
    """The one option that ``text`` names. Without ``choices`` only letters can be read."""
    if letter := exact_choice(text, choices):
        return Choice(letter=letter)
    text = _plain(text)
    # Negations and lists first: "not B" and "A, B" would otherwise be read as one letter.
    if _NEGATION.match(text):
        return Choice(problem="the commitment negates an option instead of naming one")
    match = _LETTER.fullmatch(text)
    letter = match["letter"].upper() if match else ""
    rest = match["rest"].strip(_BETWEEN) if match else ""
    own = _longest_text(rest, choices) if match else None
    if own is None and (_lists_options(text, len(choices)) or (match and _HEDGE_FIRST.match(match["rest"]))):
        return Choice(problem="several options are named")
    if match is None:
        return _by_text(text, choices)
    if not _is_option(letter, len(choices)):
        return Choice(problem=f"option {letter} does not exist: there are {len(choices)}")
    if own and letter not in own[0]:
        return Choice(clash=f"letter {letter} with the text of option {own[0]}")
    return _with_rest(letter, own[1] if own else match["rest"], choices)


def exact_choice(text: str, choices: tuple[str, ...]) -> str | None:
    """The letter of the option that ``text`` names by its letter, its text, or both, and nothing else."""
    text = _plain(text)
    if alone := _LETTER_ALONE.fullmatch(text):
        return alone["letter"].upper() if _is_option(alone["letter"], len(choices)) else None
    match = _LETTER.fullmatch(text)
    if match and match["letter"].upper() in _letters_of_text(match["rest"], choices):
        return match["letter"].upper()
    # After a letter only the whole text counts: in "(A) London" the letter is no article.
    named = _letters_of_text(text, choices) if match is None else _letters_word_for_word(text, choices)
    # Two options may have the same text; then the text does not name exactly one.
    return named if len(named) == 1 else _letter_after_text(text, choices)


def _plain(text: str) -> str:
    """Without wrappers and with one space between words: patterns below would read a long run of blanks many times."""
    return " ".join(strip_wrappers(canonical(text)).split())


def _letter_after_text(text: str, choices: tuple[str, ...]) -> str | None:
    letters, rest = _longest_text(text, choices) or ("", "")
    after = _AFTER_TEXT.fullmatch(rest) if letters else None
    said = after[after.lastgroup or 0].upper() if after else ""
    return said if said and said in letters else None


def whole_option(text: str, line: str, choices: tuple[str, ...]) -> str:
    """``text``, or the longer beginning of its line that holds all of an option's text: options may be sentences."""
    line = _plain(line)
    match, cut = _LETTER.fullmatch(line), _LETTER.fullmatch(text)
    if cut and not any(c.isalnum() for c in cut["rest"]):
        return text  # the letter alone; what follows is another sentence
    named = _longest_text(match["rest"].lstrip(_BETWEEN) if match else line, choices)
    whole = line[: len(line) - len(named[1])] if named else ""
    return whole if len(whole) > len(text) else text


def _letters_word_for_word(text: str, choices: tuple[str, ...]) -> str:
    letters, rest = _longest_text(text, choices) or ("", "")
    return "" if any(c.isalnum() for c in rest) else letters


def _letters_of_text(text: str, choices: tuple[str, ...]) -> str:
    """The letters of all options whose text is ``text``."""
    wanted = normalize_span(text) if choices else ""
    return "".join(_letter(i) for i, option in enumerate(choices) if wanted and _normalized(option) == wanted)


def _by_text(text: str, choices: tuple[str, ...]) -> Choice:
    """The option whose text begins ``text``, before its letter or a reason."""
    named = _longest_text(text, choices)
    if named is None:
        return Choice()
    letters, rest = named
    if after := _AFTER_TEXT.fullmatch(rest):
        return Choice(clash=f"letter {after[after.lastgroup or 0].upper()} with the text of option {letters}")
    if len(letters) == 1 and not any(c.isalnum() for c in before_reason(rest)):
        return _with_rest(letters, rest, choices)
    return Choice()


def _with_rest(letter: str, rest: str, choices: tuple[str, ...]) -> Choice:
    """The choice of ``letter``, unless what follows names another option."""
    if other := _other_text(letter, rest, choices):
        return Choice(clash=f"letter {letter} with the text of option {other}")
    if _HEDGE_FIRST.match(rest) or _names_another(letter, rest, len(choices)):
        return Choice(problem="several options are named")
    return Choice(letter=letter)


def _longest_text(text: str, choices: tuple[str, ...]) -> tuple[str, str] | None:
    """The letters of the option whose text begins ``text``, and what follows it.

    One option's text may begin with another's ("Paris", "Paris and London"): the longest match is meant.
    """
    ends = {_letter(i): _end_of(text, option) for i, option in enumerate(choices)}
    longest = max(ends.values(), default=0)
    return ("".join(key for key, end in ends.items() if end == longest), text[longest:]) if longest else None


def _end_of(text: str, option: str) -> int:
    pattern = _pattern(option)
    match = pattern.match(text) if pattern else None
    return match.end() if match else 0


@lru_cache(maxsize=4096)
def _pattern(option: str) -> re.Pattern[str] | None:
    """An option's text word for word; blanks, case and closing punctuation do not matter."""
    words = strip_wrappers(canonical(option)).rstrip(" .,;:!?").split()
    if not words:
        return None
    return re.compile(r"[\s\"'(「『]*" + r"\s+".join(map(re.escape, words)) + r"(?!\w)[\"'.]*", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _normalized(option: str) -> str:
    return normalize_span(strip_wrappers(option))


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _other_text(letter: str, rest: str, choices: tuple[str, ...]) -> str:
    """The letter of another option whose text follows, alone or joined to the right text."""
    left = normalize_span(before_reason(rest))
    while left:
        left = left[_JOINING.match(left).end() :]  # type: ignore[union-attr]
        texts = {_letter(i): _normalized(option) for i, option in enumerate(choices)}
        found = [key for key, text in texts.items() if text and re.match(rf"{re.escape(text)}(?!\w)", left)]
        if not found:
            return ""
        longest = max(len(texts[key]) for key in found)
        found = [key for key in found if len(texts[key]) == longest]
        if letter not in found:
            return found[0]
        left = left[longest:].lstrip()
    return ""


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
    """Whether the rest names another option's letter, other than in a reason or to dismiss it."""
    granted = [
        clause
        for clause in _CLAUSES.split(before_reason(rest).strip())
        if _GRANTED.search(clause) or not _DISMISSED.search(clause)
    ]
    others = (match["bracketed"] or match["bare"] for match in _ANOTHER_LETTER.finditer(" ".join(granted)))
    return any(other != letter and _is_option(other, num_choices) for other in others)
