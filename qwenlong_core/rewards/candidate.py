"""Is a committed text an answer at all? Only then may the judge see it.

A judge that reads a list, a hedge, or words addressed to itself can be talked into a reward. So text of these kinds,
in every language in which answers are read, keeps the 0 that the rule gave it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong_core.rewards.judge_words import ALTERNATIVE, ELSEWHERE, INSTRUCTION, JOINED, LISTED, REFERENCE
from qwenlong_core.rewards.text import canonical, normalize_span

MAX_GOLD_CHARS = 2_000
_LIST_ITEM_WORDS, _LIST_ITEM_SIGNS = 4, 6
"""Longest item of a list, in words or in signs of a script without spaces: a longer part belongs to a sentence."""
_KINDS = (
    (INSTRUCTION, "addresses the judge"),
    (REFERENCE, "names the reference instead of an answer"),
    (ELSEWHERE, "points elsewhere instead of an answer"),
    (ALTERNATIVE, "offers an alternative"),
)
_BRACKETED_LIST = re.compile(r"\s*[\[{(][^,，、;]*[,，、;].*[\]})]\s*", re.DOTALL)
_MIXED_SCRIPTS = re.compile(r"(?:[a-z][а-яё]|[а-яё][a-z])", re.IGNORECASE)
_BLANKS = re.compile(r"[^\S\n]+")
_SPACED_LETTERS = re.compile(r"(?:\b\w[\s._*-]+){6,}\w\b")


def max_candidate_chars(golds: tuple[str, ...]) -> int:
    """Longest candidate the judge is shown, given the golds: a long text can hide a hedge."""
    return 120 + 4 * min(max(len(gold) for gold in golds), MAX_GOLD_CHARS)


def refusal_reason(answer: str, golds: tuple[str, ...]) -> str:
    """The reason why a text may not be shown to the judge; empty if it is an answer.

    Words that stand in a gold too are part of the matter: "or" beside gold "heart or lung" offers no alternative.
    """
    limit = max_candidate_chars(golds)
    if len(answer) > limit:
        return f"{len(answer):,} characters > {limit:,}: too long for the judge beside its gold"
    said, wanted = _plain(answer), [_plain(gold[:MAX_GOLD_CHARS]) for gold in golds]
    for pattern, kind in _KINDS:
        if found := _beyond(pattern, said, wanted):
            return f"{found[:40]!r} {kind}"
    if _MIXED_SCRIPTS.search(said) or _SPACED_LETTERS.search(said):
        return "its letters are disguised"
    return "a list is no answer" if _is_list(said, wanted) else ""


def _plain(text: str) -> str:
    return _BLANKS.sub(" ", canonical(text))


def _beyond(pattern: re.Pattern[str], said: str, golds: Sequence[str]) -> str:
    """What the pattern finds in the text and in no gold."""
    known = {match[0].casefold() for gold in golds for match in pattern.finditer(gold)}
    return next((match[0] for match in pattern.finditer(said) if match[0].casefold() not in known), "")


def _is_list(said: str, golds: Sequence[str]) -> bool:
    """Whether the text lists two items more than each gold, or joins a gold to something else."""
    most = max(len(_items(gold)) for gold in golds)
    items = _items(said)
    if len(items) > 2 and len(items) > most + 1 and all(_is_short(item) for item in items):
        return True
    if most == 1 and _BRACKETED_LIST.fullmatch(said) and len(items) > 1:
        return True
    joined = [normalize_span(part) for part in JOINED.split(said)]
    whole = {normalize_span(gold) for gold in golds}
    return len(joined) > 1 and not whole.isdisjoint(joined)


def _items(text: str) -> list[str]:
    return [item for item in LISTED.split(text) if any(c.isalnum() for c in item)]


def _is_short(item: str) -> bool:
    words = item.split()
    return len(words) <= _LIST_ITEM_WORDS and (len(words) > 1 or item.isascii() or _few_signs(item))


def _few_signs(item: str) -> bool:
    spaceless = sum(c >= "\u2e80" for c in item)
    return spaceless <= _LIST_ITEM_SIGNS
