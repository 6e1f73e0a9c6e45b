"""SFT without padding: the rows of a forward stand one behind another, each seeing only itself.

The packs are made within an optimizer step, so a step takes the rows it takes without packing and has
the same gradient. TRL's padding-free collator starts the positions of each row anew and gives no
attention mask; from that flash-attention takes the rows' boundaries, and transformers builds the
block-diagonal mask for SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwenlong_core.settings.training import SFTSettings

Row = Mapping[str, Sequence[int]]


def balanced(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Spread row numbers over packs of nearly equal length: the longest row first, each to the pack that
    is shortest so far. Every pack gets a row if there are as many.

    A pack is at most 4/3 of the best possible one (Graham's bound for this rule).
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
    """Rows in training order as packs, ``batch_size / micro_batch_size`` to an optimizer step.

    Returns:
        Rows of TRL's packed form: ``input_ids`` and ``labels`` of all rows of a pack, and their
        ``seq_lengths``.
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
    """Share of the tokens run through the model that are data: 1 packed, less where rows are padded to the
    longest of their forward."""
    if settings.packing:
        return 1.0
    lengths = [len(row["input_ids"]) for row in rows]
    size = settings.micro_batch_size
    computed = sum(max(lengths[i : i + size]) * len(lengths[i : i + size]) for i in range(0, len(lengths), size))
    return sum(lengths) / computed
