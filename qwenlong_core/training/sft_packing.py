"""SFT without padding: the rows of a forward are concatenated, and each row sees only itself.

Rows are packed within an optimizer step, so a step trains on the same rows as without packing and has the same
gradient. TRL's padding-free collator restarts the positions for each row and passes no attention mask. From these
positions flash-attention finds the rows' boundaries, and transformers builds the block-diagonal mask for SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
