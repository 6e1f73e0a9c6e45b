"""A group as one row.

A group of completions a, b, ... on a prompt of P tokens is packed as::

    p_0 .. p_{P-2} | p_{P-1} a_1 .. a_{m-1} | p_{P-1} b_1 .. b_{n-1} | ...
       prefix             branch a                branch b

Positions of every branch continue at the prompt's end, and a branch sees the prefix and itself. The
last prompt token stands in every branch, so that each position predicts exactly one label. What the
model computes is what it computes for separate rows, but the prompt is run once and nothing is
padded: P - 1 tokens and the completions' in place of G * P and the completions'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a packed row's parts lie: ``prefix`` tokens, then a branch of each of ``lengths``."""

    prefix: int
    lengths: tuple[int, ...]

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Neighbouring branches of one length, as the row's tokens they take and how many they are."""
        start = self.prefix
        for length, run in groupby(self.lengths):
            branches = len(list(run))
            if length:
                yield slice(start, start + branches * length), branches
            start += branches * length


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed row of N tokens, each tensor ``[1, N]``."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    """The token each position predicts; -100 in the prefix."""
    layout: Layout


def pack(prompt: Tensor, completions: Tensor, mask: Tensor) -> Packed:
    """Pack a group.

    Args:
        prompt: ``[P]``, at least two tokens.
        completions: ``[G, C]``, padded on the right.
        mask: ``[G, C]``, 1 on tokens.
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
        layout=Layout(prefix, tuple(kept.sum(1).tolist())),
    )


def unpack(values: Tensor, layout: Layout) -> Tensor:
    """The branches' part of values ``[1, N]`` as ``[G, longest]``, zero after a branch's end."""
    return pad_sequence(list(torch.split(values[0, layout.prefix :], list(layout.lengths))), batch_first=True)
