"""SFT without padding: the rows of a forward are concatenated, and each row sees only itself.

Rows are packed within an optimizer step, so a step trains on the same rows as without packing and has the same
gradient. TRL's padding-free collator restarts the positions for each row and passes no attention mask. From these
positions flash-attention finds the rows' boundaries, and transformers builds the block-diagonal mask for SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.settings.training import SFTSettings

Row = Mapping[str, Sequence[int]]


def balanced(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Spread rows over packs of nearly equal length: longest row first, each to the pack that is shortest so far.

    Every pack gets a row if there are enough rows. The longest pack is at most 4/3 of the best possible one (Graham's
    bound for this rule, 1969).

    Returns:
        The row numbers of each pack.
    """
    members: list[list[int]] = [[] for _ in range(packs)]
    totals = [0] * packs
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        pack = min(range(packs), key=lambda k: totals[k])
        members[pack].append(row)
        totals[pack] += lengths[row]
    return members


def _steps(rows: Sequence[Row], batch_size: int) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def packed(rows: Sequence[Row], settings: SFTSettings) -> list[dict[str, Any]]:
    """Pack rows, given in training order, into ``batch_size / micro_batch_size`` packs per optimizer step.

    Returns:
        TRL's packed rows: ``input_ids`` and ``labels`` of all rows of a pack, and their ``seq_lengths``.
    """
    packs = []
    for step in _steps(rows, settings.batch_size):
        lengths = [len(row["input_ids"]) for row in step]
        for members in balanced(lengths, settings.batch_size // settings.micro_batch_size):
            packs.append(
                {
                    "input_ids": [token for i in members for token in step[i]["input_ids"]],
                    "labels": [label for i in members for label in step[i]["labels"]],
                    "seq_lengths": [lengths[i] for i in members],
                }
            )
    return packs


def data_share(rows: Sequence[Row], settings: SFTSettings) -> float:
    """Share of the computed tokens that are data: 1 if packed, less if rows are padded to their forward's longest."""
    if settings.packing:
        return 1.0
    lengths = [len(row["input_ids"]) for row in rows]
    size = settings.micro_batch_size
    computed = sum(max(lengths[i : i + size]) * len(lengths[i : i + size]) for i in range(0, len(lengths), size))
    return sum(lengths) / computed


def row_weights(label_mask: Tensor, position_ids: Tensor | None) -> Tensor:
    """The weight of each label in its row's mean: 1 / number of the row's labels, and 0 where there is no label.

    Args:
        label_mask: which positions predict a label, ``[B, T]``.
        position_ids: of packed rows, ``[B, T]`` or longer: they restart at 0 with each row. ``None``: not packed.
    """
    rows = torch.arange(len(label_mask), device=label_mask.device)[:, None].expand_as(label_mask)
    if position_ids is not None:
        starts = (position_ids[:, : label_mask.shape[1]] == 0).cumsum(1)
        rows = rows * (label_mask.shape[1] + 1) + starts
    counts = torch.zeros(int(rows.max()) + 1, device=label_mask.device).index_add_(
        0, rows.flatten(), label_mask.flatten().float()
    )
    return label_mask / counts[rows].clamp(min=1)
