"""Read yes or no: the first word decides, the rest is its reason, unless it takes the word back or hedges."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwenlong_core.rewards.text import canonical, strip_wrappers

_WORD = re.compile(
    r"\W*(?:(?P<yes>yes|是的?|对的?|oui|sí|sì|ja|да|はい|예|네)"
    r"|(?P<no>no|不是的?|不对|否|non|nein|нет|いいえ|아니[요오]))(?![\w'])(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBERED = re.compile(r"\s*\.?\s*[#(]?[0-9]")
"""``No. 7`` and ``no 7`` are numbers, ``No, 7 of them did`` is a reason."""
_REASON_FOLLOWS = re.compile(
    r"[\s)\]'\"]*(?:$|[,.:;!?。，、；：！？(—/|&\\-]|\s(?:because|since|as|it|they|he|she|we|i|you|this|that|there|the|"
    r"in|according|based|both|neither|all|each|none|given|per|under)\b|\s(?:or|and|but|maybe|perhaps|possibly|if|"
    r"unless|vs|aka)\b)",
    re.IGNORECASE,
)
"""``no, it did not`` says no; ``no company`` does not."""
_HEDGE = re.compile(
    r"""^[\s)\]'"]*[/|&\\?]                               # yes/no, yes?
      | ^\W*(?:(?:and|but|or|only|also|so|well)\W+){0,3}
        (?:or|and|maybe|perhaps|possibly|probably\s+not|vs|aka|if|provided|depending|assuming|either\s+(?:yes|no|way)|either\W*$|else|both\s+yes
          |not\s+(?:sure|entirely|really|quite|exactly|always|necessarily)|in\s+part(?!\s+(?:because|due))
          |partly|partially|sometimes|to\s+(?:some|an?|a\s+certain)\s+extent)\b
      | ^\W*or\b | \b(?:or|and/or)\s+(?:perhaps|maybe|possibly|not\b|yes|no)\b
      | \b(?:maybe|perhaps|possibly|unless|otherwise|alternatively|depends?|unclear|uncertain|unsure|not\s+sure
          |unknown|unanswerable|undetermined)\b
      | (?<!as\s)(?<!even\s)\bif\b
      | \b(?:could|might)(?!\s+(?:not\b|have\s+not|never))(?:\s+be)?\W*$ | \bmay(?:\s+(?:be|or\s+may\s+not\b.*))?\W*$
      | \b(?:could|might)\s+(?:also\s+)?be\b | \bmay\s+or\s+may\s+not\b | \?\W*$ | [或] | 和否 | 也许|可能""",
    re.IGNORECASE | re.VERBOSE,
)
_RETRACTION = re.compile(
    r"(?:^|[-,.;:!—…])\W*(?:(?:or|but|oh|hmm|um)\W+)?(?:wait|hold\s+on|hang\s+on|scratch\s+that|correction|sorry|oops"
    r"|my\s+mistake|on\s+second\s+thoughts?|i\s+mean|let\s+me\s+(?:correct|rethink|reconsider)|i\s+take\s+(?:that|it)"
    r"\s+back|不对|等等|更正)\b|(?:^|[-,.;:!—…])\W*actually\b\W+(?:yes|no|it\s+(?:is|does|did|was)\s+not)\b",
    re.IGNORECASE,
)
_OTHER = {
    # A clause may begin with "no": "Yes, no other company did". Alone, or before a pronoun, it takes the yes back.
    "yes": re.compile(
        r"(?:^|[-,.;:!?—…]|\b(?:and|but|or|not|also|then|so|now|say|is|rather|instead|versus|vs))\W*"
        r"(?:no|nope|false|incorrect|否)\b\W*(?:$|[-,.;:!?—]|(?:it|they|he|she|this|that)\b)",
        re.IGNORECASE,
    ),
    "no": re.compile(
        r"(?:^|[-,.;:!?—…]|\b(?:and|but|or|not|also|then|so|now|say|is|rather|instead|versus|vs))\W*"
        r"(?:yes|yeah|yep|true|correct|是)\b",
        re.IGNORECASE,
    ),
}
_SAME = re.compile(r"\W*(?:yes|no|true|false|correct|incorrect)\b\W*(?:$|[,.;])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class YesNo:
    """What a text says as yes or no."""

    word: str | None = None
    """``yes`` or ``no``; ``None`` if the text says neither."""
    problem: str = ""


def read_yes_no(text: str) -> YesNo:
    """``yes`` or ``no`` if the text begins with that word, followed by nothing or its reason."""
    match = _WORD.match(strip_wrappers(canonical(text)))
    if match is None or _NUMBERED.match(match["rest"]) or not _REASON_FOLLOWS.match(match["rest"]):
        return YesNo()
    word, rest = "yes" if match["yes"] else "no", match["rest"]
    if _HEDGE.search(rest):
        return YesNo(problem="yes or no is named beside an alternative")
    if _RETRACTION.search(rest) or _OTHER[word].search(rest) or _SAME.match(rest):
        return YesNo(problem=f"{word} is taken back")
    return YesNo(word=word)
