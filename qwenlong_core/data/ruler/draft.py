"""What a family of tasks makes: a text with its question and its answers, at a given size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from qwenlong_core.data.ruler.tasks import Wording


class Draft(NamedTuple):
    """One question. The wording is filled in."""

    wording: Wording
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes drafts of one task; a larger size gives a longer text."""

    make: Callable[[Random, int, int], Draft]
    """``make(random, size, index)``: ``index`` is the row's number, by which data sets choose the question."""
    least: int
    """The smallest size that holds the question's own parts."""
    most: int | None = None
    """The largest size there is material for; ``None`` without a limit."""
