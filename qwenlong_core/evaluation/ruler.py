"""RULER's own numbers: a score for each task and length, their averages, and the effective length of the model.

A length's average is the mean of the thirteen tasks; where a task was not asked there is none. The effective length is
the longest whose average is over 85.6, the score of Llama-2-7B-chat at 4K (arXiv 2404.06654, section 4 and table 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from qwenlong_core.data.ruler.tasks import TASKS, is_ruler_source, label_of, tokens_of
from qwenlong_core.evaluation.samples import Sample, by_example
from qwenlong_core.settings.base import Block

THRESHOLD = 85.6
"""Percent."""


class RulerScores(Block):
    """The table of an evaluation; scores are percent."""

    tasks: dict[str, dict[str, float]]
    """By length (``4K``), ascending, and task."""
    averages: dict[str, float | None]
    """By length; ``None`` where a task is missing."""
    missing: tuple[str, ...]
    """Tasks that were not asked at every length."""
    effective: str | None
    """The longest length that passes; ``None`` where none does, or where there is no average."""
    weighted: tuple[float, float] | None
    """RULER's averages over lengths with weights that rise, and that fall, by one from length to length."""

    @property
    def words(self) -> str:
        """The effective length, or why there is none."""
        if self.missing:
            return (
                f"RULER: no average over the thirteen tasks and no effective length, because some were not asked"
                f" ({', '.join(self.missing)}): see docs/benchmarks.md for the copies that they are made from"
            )
        rule = f"the longest length whose average over the thirteen tasks is over {THRESHOLD}"
        if self.effective is None:
            return f"RULER: effective length below {next(iter(self.averages))}: no length passes ({rule})"
        last = list(self.averages)[-1]
        more = ", and no longer one was asked" if self.effective == last else ""
        return f"RULER: effective length {self.effective} ({rule}){more}"


def ruler_scores(samples: Iterable[Sample]) -> RulerScores | None:
    """The table, or ``None`` if the evaluation asked none of RULER's questions."""
    groups: dict[int, dict[str, list[Sample]]] = {}
    for sample in samples:
        if is_ruler_source(sample.source) and sample.parts:
            length = tokens_of(sample.source.removeprefix("ruler-"))
            groups.setdefault(length, {}).setdefault(sample.parts[0], []).append(sample)
    if not groups:
        return None
    lengths = {label_of(length): groups[length] for length in sorted(groups)}
    return table({label: {task: _percent(rows) for task, rows in found.items()} for label, found in lengths.items()})


def table(tasks: Mapping[str, Mapping[str, float]]) -> RulerScores:
    """The averages of a table of scores in percent, by length, ascending, and task."""
    ordered = {length: {name: found[name] for name in TASKS if name in found} for length, found in tasks.items()}
    missing = tuple(name for name in TASKS if any(name not in found for found in ordered.values()))
    averages = {
        length: fmean(found.values()) if len(found) == len(TASKS) else None for length, found in ordered.items()
    }
    known = [(length, average) for length, average in averages.items() if average is not None]
    whole = not missing
    return RulerScores(
        tasks=ordered,
        averages=averages,
        missing=missing,
        effective=effective_length(dict(known)) if whole else None,
        weighted=weighted_averages([average for _, average in known]) if whole else None,
    )


def effective_length(averages: Mapping[str, float]) -> str | None:
    """The last of the lengths, ascending, whose average passes."""
    return next((length for length, average in reversed(list(averages.items())) if average > THRESHOLD), None)


def weighted_averages(averages: Sequence[float]) -> tuple[float, float]:
    """With weights 1, 2, 3 ... and ... 3, 2, 1 over the lengths, ascending."""
    count = len(averages)
    total = count * (count + 1) / 2
    rising = sum(place * score for place, score in enumerate(averages, 1)) / total
    falling = sum((count + 1 - place) * score for place, score in enumerate(averages, 1)) / total
    return rising, falling


def _percent(samples: Iterable[Sample]) -> float:
    return 100 * fmean(fmean(sample.accuracy for sample in group) for _, group in by_example(samples))
