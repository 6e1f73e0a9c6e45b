"""Scorers that benchmarks published with their data, for rows of the answer type ``published``.

The row names its scorer in ``metadata["scorer"]``. Each takes the whole answer without its thinking. They are for
evaluation alone: a substring match is paid for naming everything, so none of them may be a reward.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from difflib import SequenceMatcher

from qwenlong_core.plugged import plugged, refused
from qwenlong_core.records import Example

JUDGED = ("aa-lcr", "corpusqa")
"""Benchmarks whose every answer goes to a judge, asked in their own words."""
Scorer = Callable[[str, Example], float]
_CONTROL = re.compile(r"[\x00-\x1f]")


def published_score(answer: str, example: Example) -> float | None:
    """The score in [0, 1] by the row's scorer; ``None`` where the benchmark has a judge decide.

    Raises:
        ValueError: the row names no scorer that there is, or lacks what its scorer needs.
    """
    name = example.metadata.get("scorer")
    if name in JUDGED:
        return None
    if name not in scorers():
        raise ValueError(
            f"example {example.id!r} has answer_type 'published' and the scorer {name!r}: name one of "
            f"{', '.join((*scorers(), *JUDGED))}, or give the row another answer_type"
        )
    score = scorers()[name](answer, example)
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise refused("scorers", name, f"gave {score!r} for example {example.id!r}, not a number from 0 to 1")
    return float(score)


@functools.cache
def scorers() -> dict[str, Scorer]:
    """All scorers by name: the tree's own, then those of other distributions (entry points ``qwenlong.scorers``).

    Raises:
        ValueError: one of another distribution cannot be used.
    """
    return _SCORERS | plugged("scorers", Callable, (*_SCORERS, *JUDGED))  # type: ignore[arg-type]


def _all_named(answer: str, example: Example) -> float:
    """RULER's ``string_match_all``: the share of the golds that occur in the answer, whatever their case."""
    text = _plain(answer)
    return sum(gold.lower() in text for gold in example.answers) / len(example.answers)


def _any_named(answer: str, example: Example) -> float:
    """RULER's ``string_match_part``: whether any gold occurs in the answer, whatever its case."""
    text = _plain(answer)
    return float(any(gold.lower() in text for gold in example.answers))


def _plain(answer: str) -> str:
    """As RULER's evaluation reads a prediction: control characters are line breaks, and the ends are stripped."""
    return _CONTROL.sub("\n", answer.strip()).strip().lower()


def _repeated(answer: str, example: Example) -> float:
    """MRCR's grade: how much of the wanted message is repeated, if the answer begins with the asked-for string.

    ``difflib``'s ratio of matching characters with its default heuristics, as the data set's card computes it; without
    the string at the very beginning it is 0.
    """
    prefix = example.metadata.get("prefix")
    gold = example.answers[0]
    if not isinstance(prefix, str) or not prefix or not gold.startswith(prefix):
        raise ValueError(f"example {example.id!r}: an MRCR row needs the prefix that its gold begins with")
    if not answer.startswith(prefix):
        return 0.0
    return SequenceMatcher(None, answer.removeprefix(prefix), gold.removeprefix(prefix)).ratio()


_SCORERS: dict[str, Scorer] = {
    "ruler-all": _all_named,
    "ruler-any": _any_named,
    "mrcr": _repeated,
}
