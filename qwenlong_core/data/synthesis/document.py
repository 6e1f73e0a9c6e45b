"""What a generator hands to the layout: blocks of text with the facts they state.

A generator writes a :class:`Draft`, and :func:`qwenlong_core.data.synthesis.layout.lay_out` brings it to the
length asked for. The facts of all blocks used are the document's structured twin: a solver can answer
``Draft.query`` from these facts without reading the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from qwenlong_core.records import AnswerType, Domain


class Fact(NamedTuple):
    """The ``value`` of an ``attribute`` of a ``subject``; ``qualifier`` names a condition, year or amendment."""

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
    """A question with its evidence, and a supply of text to place around the evidence."""

    domain: Domain
    answer_type: AnswerType
    kind: str
    """The form of question, for example ``percent_change``."""
    steps: int
    """Number of facts to combine."""
    title: str
    question: str
    answers: tuple[str, ...]
    solution: str
    query: dict[str, Any]
    """The question in structured form, over the facts."""
    evidence: tuple[Block, ...]
    """Blocks that the answer needs; they keep this order in the document."""
    distractors: tuple[Block, ...]
    """Blocks that look like evidence but are not; used in this order while there is room."""
    filler: Callable[[Random], Block]
    """Writes one more block about other subjects; its facts never contradict those of another block."""
    closers: tuple[str, ...]
    """Short sentences without facts and of various lengths, to fill the last few tokens."""
    choices: tuple[str, ...] = ()
    prefix: str = ""
    """Text before each block, with ``{n}`` for its number."""
    language: str = "en"
    entities: tuple[str, ...] = ()
    """Names that the facts lead through, where the domain has such."""


class Kind(NamedTuple):
    """A form of question."""

    steps: int
    """Number of facts to combine: the difficulty."""
    weight: int
    """Relative frequency among the forms drawn at random."""
    make: Callable[[Any], Draft]
    """Writes the draft from the domain's own state, such as a report or a contract."""
    min_tokens: int = 0
    """Shortest prompt for which the form is drawn at random."""


def choose_kind(kinds: dict[str, Kind], shape: Shape, rng: Random) -> Kind:
    """The form of question that the shape names, or one drawn by weight.

    Raises:
        ValueError: there is no such form, or none with that many steps.
    """
    if shape.kind is not None:
        if shape.kind not in kinds:
            raise ValueError(
                f"kind={shape.kind!r} is not a form of question of this domain: use one of {', '.join(kinds)}"
            )
        return kinds[shape.kind]
    steps = sorted({kind.steps for kind in kinds.values()})
    fitting = [kind for kind in kinds.values() if shape.steps in (None, kind.steps)]
    if not fitting:
        raise ValueError(f"steps={shape.steps}: the questions of this domain take {', '.join(map(str, steps))} steps")
    roomy = [kind for kind in fitting if kind.min_tokens <= shape.tokens] or fitting
    return rng.choices(roomy, [kind.weight for kind in roomy])[0]


class Shape(NamedTuple):
    """What the document should be like."""

    tokens: int
    """Target length of the prompt; short documents have short numbers and a single evidence block."""
    kind: str | None
    """Form of question, or ``None`` for any."""
    distractors: int
    """Number of near misses to offer."""
    steps: int | None = None
    """Number of steps of the question, or ``None`` for any."""

    @property
    def is_short(self) -> bool:
        return self.tokens < 448
