"""What an answer shows of where it comes from: the paragraphs that it cites, or the entities of the chain it names.

Both are read from the visible text, outside ``<think>``, and compared with what the row knows. A row that does not
know, or whose document is so small that naming nearly all of it would be half right, gives ``None``: no bonus can be
earned on it. An answer that names more wrong ones than right ones has shown nothing, so a list of all paragraphs or all
names earns nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from qwenlong_core.data.paragraphs import PARAGRAPHS
from qwenlong_core.records import Example
from qwenlong_core.rewards.extract import MAX_VISIBLE_CHARS, visible_text
from qwenlong_core.settings.rewards import EvidenceBonus

ENTITIES = "entities"
"""In a row's metadata: the names of the chain of facts that leads to its answer."""
_LINE = re.compile(r"^[ \t>*_#-]{0,20}evidence[ \t*_]{0,5}[:：](.*)$", re.IGNORECASE | re.MULTILINE)
_END_OF_LIST = re.compile(r"(?<=[\]0-9*_])[.;。](?=\s|$)")
_NUMBERS = re.compile(r"(?:[\[\],&*_ \t]|;|and\b|paragraphs?\b|(?<![0-9])[0-9]{1,6}(?![0-9]))+", re.IGNORECASE)
_MORE = re.compile(r"[\[【(]\s*[0-9]")
_MAX_LINE_CHARS = 2_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Shown:
    """How much of the evidence an answer shows."""

    share: float
    """0 to 1: F-beta of the cited paragraphs, or the recall of the entities."""
    reason: str


def shown(example: Example, text: str, bonus: EvidenceBonus) -> Shown | None:
    """What a completion shows; ``None`` for a row without known evidence.

    Args:
        example: A row whose evidence may be known.
        text: The completion, with its thinking.
        bonus: Which evidence, and the beta of F-beta.
    """
    visible = (visible_text(text) or "")[-MAX_VISIBLE_CHARS:]
    if bonus.of == "paragraphs":
        return _paragraphs(example, visible, bonus.f_beta)
    return _entities(example, visible)


def f_beta(right: int, named: int, known: int, beta: float) -> float:
    """F-beta of ``right`` among ``named``, of ``known`` in all; recall counts ``beta`` times as much as precision."""
    return (1 + beta**2) * right / (beta**2 * known + named) if right else 0.0


def _can_tell(known: int, others: int) -> bool:
    """Whether naming all that there is but one is more wrong than right."""
    return 0 < known < others - 1


def _paragraphs(example: Example, visible: str, beta: float) -> Shown | None:
    numbers = example.metadata.get(PARAGRAPHS, {})
    known = set(numbers.get("evidence", ()))
    if not _can_tell(len(known), numbers.get("count", 0) - len(known)):
        return None
    cited = cited_paragraphs(visible)
    if cited is None:
        return Shown(0.0, "the line of evidence is no list of paragraphs")
    right = len(cited & known)
    said = f"{right} of {len(known)} paragraphs, {len(cited) - right} others"
    return Shown(0.0 if right < len(cited) - right else f_beta(right, len(cited), len(known), beta), said)


def cited_paragraphs(visible: str) -> set[int] | None:
    """The numbers on all lines that begin with "Evidence:"; ``None`` if such a line says something else.

    In doubt there is no list: a range, a decimal, or more numbers after the end of the list.
    """
    cited: set[int] = set()
    for line in _LINE.finditer(visible):
        if len(line[1]) > _MAX_LINE_CHARS:
            return None
        text, *rest = _END_OF_LIST.split(line[1], maxsplit=1)
        if not _NUMBERS.fullmatch(text) or any(_MORE.search(more) for more in rest):
            return None
        cited |= {int(number) for number in re.findall("[0-9]+", text)}
    return cited


def _entities(example: Example, visible: str) -> Shown | None:
    chain = chain_entities(example)
    of_chain = {word for name in chain for word in _WORD.findall(name)}
    given = set(_WORD.findall(" ".join((example.question, *example.answers, *example.choices))))
    others = {word.casefold() for word in name_words(example.context) - of_chain - given}
    if not chain or not _can_tell(len(of_chain), len(others)):
        return None
    named = [name for name in chain if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", visible)]
    right = {word for name in named for word in _WORD.findall(name)}
    wrong = others & {word.casefold() for word in _WORD.findall(visible)}
    said = f"{len(named)} of {len(chain)} entities, {len(wrong)} words of other names"
    return Shown(0.0 if len(right) < len(wrong) else len(named) / len(chain), said)


def chain_entities(example: Example) -> tuple[str, ...]:
    """The names of the chain that neither question nor answer gives away."""
    given = "\n".join((example.question, *example.answers, *example.choices))
    found = (str(name) for name in example.metadata.get(ENTITIES, ()))
    return tuple(dict.fromkeys(name for name in found if name in example.context and name not in given))


@lru_cache(maxsize=32)
def name_words(context: str) -> frozenset[str]:
    """Words that the document always writes with a capital: its names, and some that only begin a sentence."""
    words = set(_WORD.findall(context))
    return frozenset(word for word in words if word[:1].isupper() and word.lower() not in words)
