"""Pack a group into one row, so that the model runs the prompt once.

A group of completions a, b, ... on a prompt of P tokens is packed as::

    p_0 .. p_{P-2} | p_{P-1} a_1 .. a_{m-1} | p_{P-1} b_1 .. b_{n-1} | ...
       prefix             branch a                branch b

The positions of every branch continue at the end of the prompt, and a branch sees the prefix and itself. The last
prompt token is repeated in every branch, so that each position predicts exactly one label. The model computes the same
as for separate rows, but the prompt is run once and nothing is padded: with G completions, the row has P - 1 prompt
tokens besides the completions instead of G * P.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100
"""Label of a position without loss."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a packed row lie: ``prefix`` tokens, then one branch for each of ``lengths``.

    A row of one text has no branches.
    """

    prefix: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole row, N."""
        return self.prefix + sum(self.lengths)

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Runs of neighbouring branches of equal length: the run's slice of the row, and its number of branches."""
        start = self.prefix
        for length, run in groupby(self.lengths):
            branches = len(list(run))
            if length:
                yield slice(start, start + branches * length), branches
            start += branches * length


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed row of N tokens; each tensor is ``[1, N]``."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    """The token that each position predicts; -100 in the prefix."""
    layout: Layout


def pack(prompt: Tensor, completions: Tensor, mask: Tensor) -> Packed:
    """Pack a group.

    Args:
        prompt: Token ids, ``[P]``; at least two.
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
        layout=Layout(prefix, tuple(kept.sum(1).tolist())),
    )


def unpack(values: Tensor, layout: Layout) -> Tensor:
    """The branches of values ``[1, N]`` as ``[G, longest]``, with zeros after the end of a branch."""
    return pad_sequence(list(torch.split(values[0, layout.prefix :], list(layout.lengths))), batch_first=True)
