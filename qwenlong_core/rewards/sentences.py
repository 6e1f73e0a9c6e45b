"""Where a committed answer's sentence ends.

A full stop ends nothing after an abbreviation (``St. Louis``, ``Ph.D. in law``), and an exclamation or question mark
nothing inside a name (``Yahoo! Inc.``). What follows must read as a new sentence; in doubt the answer goes on, so that
it equals no shorter gold.
"""

from __future__ import annotations

import re

_END = re.compile(r"""(?<!\.)[.!?](?!\.)["')\]*_`]*(?=\s)|[。！？]["'”’）)】*_`]*""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|st|ste|mr|mrs|ms|mx|dr|prof|jr|sr|inc|ltd|llc|plc|co|corp|pvt|pte|bhd|sdn|vs|v|mt|ft|gen|col|lt|"
    r"sgt|capt|cpt|cmdr|maj|adm|rev|fr|hon|gov|sen|rep|pres|supt|messrs|bros|ave|blvd|rd|hwy|dept|univ|inst|assn|est|"
    r"approx|ca|etc|al|cf|ed|eds|vol|vols|art|arts|sec|secs|ch|pp|op|fig|figs|eq|ex|para|pt|ser|rs|ph|min|max|avg|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun|(?:\w{1,3}\.)+\w{1,3}))$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\b(?:no|nos|nr|num|art|p|§)$", re.IGNORECASE)
"""Abbreviations only before a digit: "No. 7" goes on, "No. It fell" ends."""
_STARTER = re.compile(
    r"(?:it|this|that|these|those|the|he|she|they|we|i|you|as|in|on|at|by|so|therefore|thus|hence|because|since|"
    r"however|while|although|both|all|each|neither|none|no|yes|according|based|note|also|for|from|or|and|there|here|"
    r"its|his|her|their|our|my|but|if|when|to|a|an|explanation|reasons?|reasoning|source|evidence|alternatively|"
    r"perhaps|maybe|otherwise|options?|choices?|answer|thanks?|done|correct|see|let|wait|actually|sorry)(?![\w'])",
    re.IGNORECASE,
)
_SMALL_STARTER = re.compile(
    r"(?:it|this|that|these|those|he|she|they|we|i|so|therefore|because|however|note|there)(?![\w'])"
)
"""Words that begin a sentence even in small letters."""
_TURN = re.compile(
    r"(?:or|alternatively|maybe|perhaps|possibly|otherwise|either|wait|actually|sorry|correction|no,|yes[.,])(?!\w)",
    re.IGNORECASE,
)
"""A second thought always begins a sentence, so that it is seen as what follows the answer."""
_SMALL_WORDS = frozenset(
    ("&", "of", "the", "and", "in", "a", "an", "to", "for", "on", "at", "de", "la", "le", "van", "von")
)
_WORDS_SEEN = 100
"""Characters after a possible end in which the next sentence is looked at."""


def sentence_end(text: str, start: int, line_end: int) -> tuple[int, bool]:
    """Where the sentence that begins at ``start`` ends within its line, and whether anything ends it."""
    for match in _END.finditer(text, start, line_end):
        if _ends(text, start, match, line_end) and text[start : match.start()].strip():
            return match.end(), True
    ended = line_end < len(text) or bool(re.search(r"[.!?。！？]\W*$", text[start:line_end]))
    return line_end, ended


def _ends(text: str, start: int, match: re.Match[str], line_end: int) -> bool:
    sign, following = match[0][0], text[match.end() : min(line_end, match.end() + _WORDS_SEEN)].lstrip()
    if sign in "。！？" or not following:
        return True
    if _TURN.match(following):
        return True
    before = text[max(start, match.start() - 12) : match.start()]
    if sign == "." and _NUMBERED.search(before) and following[0].isdigit():
        return False
    starts = _STARTER.match(following) is not None
    if sign == "." and _ABBREVIATION.search(before):
        return starts and not following[0].islower()
    if following[0].islower():
        return sign == "." and _SMALL_STARTER.match(following) is not None
    return not _is_name(following)


def _is_name(following: str) -> bool:
    """Whether what follows, up to the next stop, is only words of a name (``Here We Go Again``): no sentence."""
    words = re.split(r"[.!?;:](?:\s|$)", following, maxsplit=1)[0].split()
    begins = following[0].isalnum() or following[0] in "<>≤≥≠=±+&/%$"
    return begins and all(word in _SMALL_WORDS or not _first_letter(word).islower() for word in words)


def _first_letter(word: str) -> str:
    return next((c for c in word if c.isalnum()), "")
