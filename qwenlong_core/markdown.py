"""The one writer of markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Mapping[str, Any]], *, numbers: bool = False) -> str:
    """Rows with equal keys as a markdown table; the keys are its head. No rows give an empty string.

    Args:
        numbers: All columns but the first hold numbers and are aligned right.
    """
    if not rows:
        return ""
    # A bar would begin a new cell, and a line break a new row.
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row.values()] for row in rows]
    lines = [list(rows[0]), ["---", *(["---:" if numbers else "---"] * (len(rows[0]) - 1))], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
