"""Which prompts of a call begin alike: the parts of a prefix tree that are worth sharing.

Questions on one document are prompts with a long common beginning. Each part of the tree is run
once, and every prompt below it attends to its keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

MIN_SHARED_TOKENS = 64
"""Tokens that a shared part must have: attending to one more part costs more than running a few tokens
again, and every prompt begins with the same short instruction."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Tokens that follow one another in every prompt below: ``token_ids`` after ``start`` earlier ones."""

    start: int
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Path:
    """One prompt as the parts it is made of, the first at position 0."""

    index: int
    """Of the prompt in the call."""
    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.parts[-1].start + len(self.parts[-1].token_ids)


def paths(prompts: Sequence[Sequence[int]]) -> list[Path]:
    """The prompts' paths, ordered so that those below any part are neighbours.

    The last part of a path is the prompt's own and never empty, even for equal prompts: its last token
    is where the completion starts.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    return list(_branches(prompts, order, 0, ()))


def _branches(
    prompts: Sequence[Sequence[int]], members: list[int], start: int, above: tuple[Part, ...]
) -> Iterator[Path]:
    for group in _alike(prompts, members, start + MIN_SHARED_TOKENS):
        first = prompts[group[0]]
        if len(group) == 1:
            yield Path(group[0], (*above, Part(start, first[start:])))
            continue
        stop = min(_shared(prompts[a], prompts[b]) for a, b in pairwise(group))
        yield from _branches(prompts, group, stop, (*above, Part(start, first[start:stop])))


def _alike(prompts: Sequence[Sequence[int]], members: list[int], enough: int) -> list[list[int]]:
    """Cut sorted prompts into runs in which neighbours share at least ``enough`` tokens."""
    groups = [members[:1]]
    for before, member in pairwise(members):
        if _shared(prompts[before], prompts[member]) < enough:
            groups.append([])
        groups[-1].append(member)
    return groups


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens at the beginning of both, leaving each at least one of its own."""
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))
    return min(alike, len(a) - 1, len(b) - 1)
