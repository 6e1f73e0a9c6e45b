"""Pack the groups of a forward into one row, so that the model runs a prompt, and what prompts share, once.

A group of completions a, b, ... on a prompt of P tokens is packed as::

    p_0 .. p_{P-2} | p_{P-1} a_1 .. a_{m-1} | p_{P-1} b_1 .. b_{n-1} | ...
       prefix             branch a                branch b

The positions of every branch continue at the end of the prompt, and a branch sees the prefix and itself. The last
prompt token is repeated in every branch, so that each position predicts exactly one label. The model computes the same
as for separate rows, but the prompt is run once and nothing is padded: with G completions, the row has P - 1 prompt
tokens besides the completions instead of G * P.

Groups whose prompts begin alike, as questions on one document do, are branches themselves::

    document | question 1 | branch a | branch b | question 2 | branch c | branch d | ...

Groups that share nothing are the branches of a prefix without tokens, so a forward is always one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qwenlong_core.generation.prompt_tree import Path, paths

IGNORED = -100
"""Label of a position without loss."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A packed row as a tree: ``prefix`` tokens, then the branches, whose tokens see the prefix and their own branch.

    A completion, or a row of one text, has no branches; a row of several texts has no prefix.
    """

    prefix: int
    branches: tuple[Layout, ...] = ()

    @staticmethod
    def group(prefix: int, lengths: Sequence[int]) -> Layout:
        """A prompt of ``prefix`` tokens and completions of these lengths."""
        return Layout(prefix, tuple(map(Layout, lengths)))

    @property
    def tokens(self) -> int:
        """Tokens of the whole row, N."""
        return self.prefix + sum(branch.tokens for branch in self.branches)

    def parts(self, start: int = 0) -> Iterator[tuple[int, Layout]]:
        """Every part of the tree and where its prefix starts, in the order of the row; the prefixes tile the row."""
        yield start, self
        start += self.prefix
        for branch in self.branches:
            yield from branch.parts(start)
            start += branch.tokens

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Runs of neighbouring prefixes of equal length: the run's slice of the row, and how many they are."""
        start = 0
        for length, run in groupby(part.prefix for _, part in self.parts()):
            count = len(list(run))
            if length:
                yield slice(start, start + count * length), count
            start += count * length

    def shared(self) -> Iterator[tuple[slice, slice]]:
        """Prefixes that branches see: the prefix's slice of the row, and that of all tokens below it."""
        for start, part in self.parts():
            own, stop = start + part.prefix, start + part.tokens
            if start < own < stop:
                yield slice(start, own), slice(own, stop)


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed row of N tokens; each tensor is ``[1, N]``."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    """The token that each position predicts; -100 in prompts."""
    layout: Layout


def pack(prompt: Tensor, completions: Tensor, mask: Tensor) -> Packed:
    """Pack a group.

    Args:
        prompt: Token ids, ``[P]``; at least one.
        completions: Token ids, ``[G, C]``, padded on the right.
        mask: 1 on tokens and 0 on padding, ``[G, C]``.
    """
    kept = mask.bool()
    prefix = len(prompt) - 1
    inputs = torch.cat([prompt[-1:].expand(len(completions), 1), completions[:, :-1]], dim=1)
    positions = torch.arange(prefix, prefix + completions.size(1), device=prompt.device)
    labels = torch.cat([prompt.new_full((prefix,), IGNORED), completions[kept]])
    return Packed(
        input_ids=torch.cat([prompt[:-1], inputs[kept]])[None],
        position_ids=torch.cat([torch.arange(prefix, device=prompt.device), positions.expand_as(kept)[kept]])[None],
        labels=labels[None],
        layout=Layout.group(prefix, kept.sum(1).tolist()),
    )


def join(rows: Sequence[Packed], shared: int) -> Packed:
    """One row of several. The first ``shared`` tokens of their prompts are the same, and are run once."""

    def joined(values: list[Tensor]) -> Tensor:
        return torch.cat([values[0][:, :shared], *(value[:, shared:] for value in values)], dim=1)

    layouts = [row.layout for row in rows]
    return Packed(
        input_ids=joined([row.input_ids for row in rows]),
        position_ids=joined([row.position_ids for row in rows]),
        labels=joined([row.labels for row in rows]),
        layout=Layout(shared, tuple(replace(layout, prefix=layout.prefix - shared) for layout in layouts)),
    )


def pack_groups(groups: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Packed, list[int]]:
    """One row of a forward's groups, each given as the arguments of :func:`pack`.

    What prompts share is found as in rollouts.

    Returns:
        The row, and the number of the group at each place of it.
    """
    tree = paths([prompt.tolist() for prompt, _, _ in groups])
    return _joined([pack(*group) for group in groups], tree), [path.index for path in tree]


def _joined(rows: Sequence[Packed], tree: Sequence[Path], depth: int = 0) -> Packed:
    """The rows of these paths, which share their first ``depth`` parts, as one row."""
    below = [list(run) for _, run in groupby(tree, key=lambda path: path.parts[depth])]
    found = [rows[run[0].index] if len(run) == 1 else _joined(rows, run, depth + 1) for run in below]
    return found[0] if len(found) == 1 else join(found, tree[0].parts[depth].start)


def unpack(values: Tensor, layout: Layout) -> Tensor:
    """The completions of values ``[1, N]`` as ``[rows, longest]``, with zeros after the end of each."""
    ends = [values[0, start : start + part.prefix] for start, part in layout.parts() if not part.branches]
    return pad_sequence(ends, batch_first=True)
