"""Variable tracking: a chain of assignments hidden in noise, after one solved example."""

from __future__ import annotations

import string
from dataclasses import replace
from itertools import pairwise
from random import Random

from qwenlong_core.data.ruler.draft import Draft, Maker
from qwenlong_core.data.ruler.tasks import NOISE, WORDINGS, Wording

_HOPS = 4
_LETTERS, _EXAMPLE_LETTERS = 5, 3
"""Of a variable's name; the example's are shorter, so that they are none of the question's."""


def tracking_maker(example_size: int) -> Maker:
    """Drafts of variable tracking; a size is a number of paragraphs of noise.

    Args:
        example_size: Paragraphs of noise of the solved example. RULER gives it 500 tokens.
    """

    def make(random: Random, size: int, index: int) -> Draft:
        solved = solved_example(random, example_size)
        wording, context, answers = _question(random, size, _LETTERS)
        return Draft(replace(wording, before=f"{solved}{wording.before}"), context, answers)

    return Maker(make=make, least=1)


def solved_example(random: Random, size: int) -> str:
    """A question with its answer, as it stands before the one that is asked."""
    wording, context, answers = _question(random, size, _EXAMPLE_LETTERS)
    asked = f"{wording.before}{context}{wording.after}{wording.answer_start}"
    return f"{asked} {' '.join(answers)}\n\n\n\n"


def _question(random: Random, size: int, letters: int) -> Draft:
    names = _names(random, letters)
    value = str(random.randint(10_000, 99_998))
    chain = [f"VAR {names[0]} = {value}", *(f"VAR {b} = VAR {a} " for a, b in pairwise(names))]
    sentences = [f"{NOISE}\n"] * size
    if len(sentences) <= len(chain):  # too few paragraphs to hide the chain among: their sentences
        sentences = [f"{text.strip()}." for text in NOISE.rstrip(".").split(".")] * size
    for moved, place in enumerate(sorted(random.sample(range(len(sentences)), len(chain)))):
        sentences.insert(place + moved, chain[moved])
    context = " ".join(sentences).replace(". \n", ".\n")
    return Draft(_filled(WORDINGS["variable_tracking"], value), context, tuple(names))


def _names(random: Random, letters: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) <= _HOPS:
        names["".join(random.choices(string.ascii_uppercase, k=letters))] = None
    return list(names)


def _filled(words: Wording, value: str) -> Wording:
    return replace(
        words,
        after=words.after.format(query=value),
        answer_start=words.answer_start.format(query=value, count=_HOPS + 1),
    )
