"""Needles in a haystack: keys with values hidden in noise, in essays, or among other needles."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from random import Random

from qwenlong_core.data.ruler.draft import Draft, Maker
from qwenlong_core.data.ruler.tasks import NOISE, WORDINGS, Task, Values, Wording

_NEEDLE = "One of the special magic {values} for {key} is: {value}."
_DEPTHS = tuple(round(100 * place / 39) for place in range(40))
"""Percent of the essay before a needle: forty places, evenly spread."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def needle_maker(task: Task, words: Sequence[str], essay: Sequence[str]) -> Maker:
    """Drafts of a task; a size is a number of sentences, or of the essay's words.

    Args:
        words: Nouns and adjectives; keys are pairs of them.
        essay: Words of the essays; repeated from the start where they are too few. Empty unless the task needs them.
    """
    draw = _drawer(words)

    def make(random: Random, size: int, index: int) -> Draft:
        keys = [draw(random, task.keys) for _ in range(task.num_keys)]
        values = [[draw(random, task.values) for _ in range(task.num_values)] for _ in keys]
        needles = [_needle(task, key, value) for key, found in zip(keys, values) for value in found]
        random.shuffle(needles)
        if task.haystack == "essay":
            context = _in_essay(random, list(islice(cycle(essay), size)), needles)
        else:
            context = _among_lines(random, _lines(random, task, size, draw), needles)
        asked = random.sample(range(task.num_keys), task.num_queries)
        answers = tuple(value for place in asked for value in values[place])
        return Draft(_wording(task, [keys[place] for place in asked]), context, answers)

    return Maker(make=make, least=task.num_keys * task.num_values)


def _drawer(words: Sequence[str]) -> Callable[[Random, Values], str]:
    def draw(random: Random, kind: Values) -> str:
        if kind == "numbers":
            return str(random.randint(10**6, 10**7 - 1))
        if kind == "uuids":
            return str(uuid.UUID(int=random.getrandbits(128), version=4))
        return f"{random.choice(words)}-{random.choice(words)}"

    return draw


def _needle(task: Task, key: str, value: str) -> str:
    return _NEEDLE.format(values=task.values, key=key, value=value)


def _lines(random: Random, task: Task, size: int, draw: Callable[[Random, Values], str]) -> list[str]:
    if task.haystack == "noise":
        return [NOISE] * size
    return [_needle(task, draw(random, task.keys), draw(random, task.values)) for _ in range(size)]


def _among_lines(random: Random, lines: list[str], needles: Sequence[str]) -> str:
    for place, needle in zip(sorted(random.sample(range(len(lines)), len(needles)), reverse=True), needles):
        lines.insert(place, needle)
    return "\n".join(lines)


def _in_essay(random: Random, words: Sequence[str], needles: Sequence[str]) -> str:
    sentences = _SENTENCE_END.split(" ".join(words).strip())
    places = sorted(len(sentences) * depth // 100 for depth in random.sample(_DEPTHS, len(needles)))
    parts = []
    for start, end, needle in zip([0, *places], places, needles):
        parts += [*sentences[start:end], needle]
    return " ".join([*parts, *sentences[places[-1] :]])


def _wording(task: Task, keys: Sequence[str]) -> Wording:
    """The wording filled in, in the singular where one value is asked for."""
    words, values = WORDINGS["niah"], str(task.values)
    query = f"{', '.join(keys[:-1])}, and {keys[-1]}" if len(keys) > 1 else keys[0]
    one = task.num_queries * task.num_values == 1
    if one:
        values = values.removesuffix("s")

    def filled(text: str) -> str:
        for many, single in (("Some", "A"), ("are all", "is"), ("are", "is")) if one else ():
            text = text.replace(many, single)
        return text.format(values=values, query=query)

    return replace(
        words, before=filled(words.before), after=filled(words.after), answer_start=filled(words.answer_start)
    )
