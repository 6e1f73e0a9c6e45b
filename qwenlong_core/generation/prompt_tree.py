"""The prefix tree of a call's prompts: beginnings that are long enough to share.

Questions on one document are prompts with a long common beginning. Each part of the tree is run once, and every prompt
below it attends to that part's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

MIN_SHARED_TOKENS = 64
"""Fewest tokens of a shared part. Every prompt begins with the same short instruction, and attending to one more part
costs more than running so few tokens again."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Consecutive tokens of every prompt below this part: ``token_ids``, preceded by ``start`` tokens."""

    start: int
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Path:
    """One prompt as the sequence of its parts, the first at position 0."""

    index: int
    """Position of the prompt in the call."""
    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """Number of tokens in the prompt."""
        return self.parts[-1].start + len(self.parts[-1].token_ids)


def paths(prompts: Sequence[Sequence[int]]) -> list[Path]:
    """The prompts' paths, ordered so that the prompts below any part are neighbours.

    The last part of a path belongs to its prompt alone and is never empty, even if prompts are equal: the completion
    starts at its last token.
    """
    # In sorted order prompts with a common beginning are neighbours, and a run's shared length is the smallest one
    # between neighbours.
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
    """Split sorted prompts into runs in which neighbours share at least ``enough`` tokens."""
    groups = [members[:1]]
    for before, member in pairwise(members):
        if _shared(prompts[before], prompts[member]) < enough:
            groups.append([])
        groups[-1].append(member)
    return groups


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens at the beginning of both, leaving each at least one token of its own."""
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))
    return min(alike, len(a) - 1, len(b) - 1)
