"""The two counting tasks: common words of a list, and the most frequent words of a coded text."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from qwenlong_core.data.ruler.draft import Draft, Maker
from qwenlong_core.data.ruler.tasks import WORDINGS

_COMMON = 10
"""Common words, all asked for."""
_SHORT = 4_096
"""Below this prompt length the words of a list repeat less often."""
_ALPHA_2 = math.pi**2 / 6
"""Riemann's zeta of RULER's exponent, 2: the sum of 1/k² over all ranks."""
_NOISE = "..."
"""Stands in the coded text in place of its most frequent word, and is no answer."""
_CODE_LETTERS = 6


def common_words_maker(words: Sequence[str], length: int) -> Maker:
    """Drafts of ``cwe``; a size is a number of different words.

    Args:
        length: Of the whole prompt, in tokens, which decides how often words repeat.
    """
    example = (20, 3, 1) if length < _SHORT else (40, 10, 3)
    often, seldom = (6, 1) if length < _SHORT else (30, 3)

    def make(random: Random, size: int, index: int) -> Draft:
        wording = WORDINGS["common_words"]
        shown, known = _word_list(random, words, *example)
        solved = f"{wording.before}{shown}{wording.after}{wording.answer_start} {_numbered(known)}\n"
        context, answers = _word_list(random, words, size, often, seldom)
        return Draft(replace(wording, before=f"{solved}{wording.before}"), context, tuple(answers))

    return Maker(make=make, least=_COMMON + 1, most=len(words))


def _word_list(random: Random, words: Sequence[str], size: int, often: int, seldom: int) -> tuple[str, Sequence[str]]:
    """A numbered list of ``size`` different words, and those that stand in it most often."""
    chosen = random.sample(words, size)
    common, others = chosen[:_COMMON], chosen[_COMMON:]
    listed = common * often + others * seldom
    random.shuffle(listed)
    return _numbered(listed), common


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{place}. {word}" for place, word in enumerate(words, 1))


def frequent_words_maker(length: int) -> Maker:
    """Drafts of ``fwe``; a size is the number of words that a zeta distribution spreads over the coded vocabulary.

    Args:
        length: Of the whole prompt, in tokens, which decides the size of the vocabulary.
    """
    vocabulary = max((length - WORDINGS["frequent_words"].new_tokens) // 50, 4)

    def make(random: Random, size: int, index: int) -> Draft:
        coded: dict[str, None] = {}
        while len(coded) < vocabulary:
            coded["".join(random.choices(string.ascii_lowercase, k=_CODE_LETTERS))] = None
        ranked = [_NOISE, *list(coded)[1:]]
        text = [word for rank, word in enumerate(ranked, 1) for _ in range(int(size / (rank**2 * _ALPHA_2)))]
        random.shuffle(text)
        return Draft(WORDINGS["frequent_words"], " ".join(text), tuple(ranked[1:4]))

    return Maker(make=make, least=_least_frequent())


def _least_frequent() -> int:
    """The smallest size at which the words of ranks 2 to 5 have different counts, so that the answer is one."""
    size = 1
    while True:
        counts = [int(size / (rank**2 * _ALPHA_2)) for rank in (2, 3, 4, 5)]
        if len(set(counts)) == len(counts):
            return size
        size += 1
