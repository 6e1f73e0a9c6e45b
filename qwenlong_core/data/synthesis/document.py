"""What a generator hands to the layout: pieces of text with the facts they state.

A generator writes a :class:`Draft`; :func:`qwenlong_core.data.synthesis.layout.lay_out` makes it as
long as asked. The facts of all blocks that were used are the document's structured twin: an
independent solver can answer ``Draft.query`` from them without reading the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from qwenlong_core.records import AnswerType, Domain


class Fact(NamedTuple):
    """``subject`` has ``value`` for ``attribute``; ``qualifier`` names a condition or an amendment."""

    subject: str
    attribute: str
    value: str | float
    qualifier: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph or table, with the facts it states."""

    text: str
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A question with its evidence, and a supply of text to stand around it."""

    domain: Domain
    answer_type: AnswerType
    kind: str
    """The form of question, for example ``percent_change``."""
    steps: int
    """Facts that have to be combined."""
    title: str
    question: str
    answers: tuple[str, ...]
    solution: str
    query: dict[str, Any]
    """The question in structured form, over the facts."""
    evidence: tuple[Block, ...]
    """Blocks without which the question has no answer; they keep this order in the document."""
    distractors: tuple[Block, ...]
    """Blocks that look like evidence and are not; used in this order while there is room."""
    filler: Callable[[Random], Block]
    """Draws one more block about other subjects; facts never collide with those of another."""
    closers: tuple[str, ...]
    """Short sentences without facts, of many lengths, for the last few tokens."""
    choices: tuple[str, ...] = ()
    prefix: str = ""
    """Numbering before each block, with ``{n}``."""
    language: str = "en"


class Kind(NamedTuple):
    """A form of question."""

    steps: int
    """Facts that have to be combined: the difficulty."""
    weight: int
    """Share among the forms drawn at random."""
    make: Callable[[Any], Draft]
    """Writes the draft from the domain's own state."""
    min_tokens: int = 0
    """Shortest prompt in which it is drawn at random."""


def choose_kind(kinds: dict[str, Kind], shape: Shape, rng: Random) -> Kind:
    """The form of question named by the shape, or one drawn by weight.

    Raises:
        ValueError: no such form, or none with so many steps.
    """
    if shape.kind is not None:
        if shape.kind not in kinds:
            raise ValueError(
                f"kind={shape.kind!r} is no form of question of this domain: use one of {', '.join(kinds)}"
            )
        return kinds[shape.kind]
    steps = sorted({kind.steps for kind in kinds.values()})
    fitting = [kind for kind in kinds.values() if shape.steps in (None, kind.steps)]
    if not fitting:
        raise ValueError(f"steps={shape.steps}: the questions of this domain take {', '.join(map(str, steps))} steps")
    roomy = [kind for kind in fitting if kind.min_tokens <= shape.tokens] or fitting
    return rng.choices(roomy, [kind.weight for kind in roomy])[0]


class Shape(NamedTuple):
    """What a generator is told about the document to come."""

    tokens: int
    """Prompt length aimed at; short documents have short numbers and one evidence block."""
    kind: str | None
    """Form of question, or ``None`` for any."""
    distractors: int
    """Near misses to offer."""
    steps: int | None = None
    """Number of steps of the question, or ``None`` for any."""

    @property
    def is_short(self) -> bool:
        return self.tokens < 448
