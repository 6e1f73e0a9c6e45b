"""Rows as a table on the console."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """One line a row, its keys as columns; there must be a row."""
    shown = Table(title=title, title_justify="left")
    for name in rows[0]:
        shown.add_column(name)
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown
