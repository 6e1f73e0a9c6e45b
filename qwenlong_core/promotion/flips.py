"""The items that the challenger and the champion score differently: what stands behind the gate's gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.evaluation.pairs import Pairs
from qwenlong_core.evaluation.samples import Sample, by_example

_LONGEST = 60
"""Characters of an answer that are shown; the evaluations' logs have all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """An item with two scores, as the gate counts them: without a verdict 0 for the challenger, 1 for the champion."""

    item: str
    benchmark: str
    gain: float
    """The challenger's score less the champion's."""
    challenger: str
    """Its answers, shortened."""
    champion: str


def find_flips(challenger: Sequence[Sample], champion: Sequence[Sample], pairs: Pairs) -> tuple[Flip, ...]:
    """The flips behind ``pairs``, which were made from the same samples; the largest gain first."""
    old = dict(by_example(champion))
    found = [
        Flip(item=item, benchmark=name, gain=new_score - old_score, challenger=_said(new), champion=_said(old[item]))
        for (item, new), new_score, old_score, name in zip(
            by_example(challenger), pairs.challenger, pairs.champion, pairs.benchmarks, strict=True
        )
        if new_score != old_score
    ]
    return tuple(sorted(found, key=lambda flip: (-flip.gain, flip.item)))


def _said(samples: Sequence[Sample]) -> str:
    """The different answers of an item, the most frequent first."""
    answers = [_answer(sample) for sample in samples]
    return " / ".join(sorted(dict.fromkeys(answers), key=lambda answer: -answers.count(answer)))


def _answer(sample: Sample) -> str:
    if not sample.has_verdict:
        return "(no verdict)"
    words = " ".join((sample.score.extracted or "(no answer)").split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
