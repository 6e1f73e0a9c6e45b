"""Which numbers of processes can compute a row together, by their model's heads: one rule for plans and for training.

Each process of a span attends with its share of the query heads and with the key heads that they belong to. Where there
are too few key heads for the processes, they are repeated.
"""

from __future__ import annotations

import math


def key_heads_in(size: int, key_heads: int) -> int:
    """Key heads that a span of ``size`` processes deals out: the least multiple of ``key_heads`` that it divides."""
    return math.lcm(key_heads, size)


def possible_spans(heads: int, key_heads: int) -> list[int]:
    """Sizes of span to which all heads can be dealt evenly."""
    return [size for size in range(1, heads + 1) if heads % key_heads_in(size, key_heads) == 0]


def heads_reason(heads: int, key_heads: int, size: int) -> str | None:
    """Why the heads cannot be dealt to ``size`` processes, or ``None``."""
    fit = possible_spans(heads, key_heads)
    if size in fit:
        return None
    listed = ", ".join(map(str, fit))
    return f"{heads} query and {key_heads} key heads cannot be dealt to {size} ranks: possible are {listed}"
