"""The benchmarks' own metrics, shown beside our score. No decision depends on them."""

from __future__ import annotations

import re

from qwenlong_core.records import Example
from qwenlong_core.rewards.docmath import docmath_accuracy
from qwenlong_core.rewards.extract import visible_text
from qwenlong_core.rewards.metrics import (
    exact_match,
    f1,
    hotpot_f1,
    is_chinese,
    musique_f1,
    numeric_accuracy,
    rouge_l,
    zh_f1,
)

_TOKEN_F1 = {"hotpotqa": hotpot_f1, "2wikimultihopqa": hotpot_f1, "musique": musique_f1}
"""Token F1 of the benchmarks whose own scorer differs from SQuAD's."""


_V2_ANSWERS = (re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])"))
"""LongBench v2's forms of an answer: the first pattern found anywhere counts, and in it the first place."""
_MRCR_BINS = tuple(4_096 << power for power in range(9))
"""Bounds of MRCR's bins of lengths, 4K to 1M; the upper one belongs to a bin."""


def official_metrics(
    example: Example, extracted: str | None, number_tolerance: float, completion: str = ""
) -> dict[str, float]:
    """Metrics by name for one extracted answer; no answer scores 0 in each.

    Numbers have ``numeric_accuracy``, and DocMath's also ``docmath_accuracy``, its scorer's own, which accepts more.
    Texts have ``em``, ``f1`` (SQuAD's, or the benchmark's own; over characters if a gold is Chinese) and ``rouge_l``
    (NarrativeQA). Aliases of a gold count as golds here. A choice has none, since its metric is plain accuracy, but for
    LongBench v2's, whose scorer reads the ``completion`` in its own way. A published scorer's value is the score.
    """
    prediction, golds = extracted or "", example.answers
    if example.source == "longbench-v2":
        return {"longbench_v2_accuracy": float(_v2_choice(completion) == golds[0])}
    if example.answer_type in ("choice", "published"):
        return {}
    if example.answer_type == "number":
        scale = example.metadata.get("answer_scale")
        metrics = {"numeric_accuracy": numeric_accuracy(prediction, golds, number_tolerance, scale)}
        if example.source == "docmath":
            metrics["docmath_accuracy"] = docmath_accuracy(prediction, golds)
        return metrics
    golds = (*golds, *example.metadata.get("aliases", ()))
    token_f1 = zh_f1 if any(map(is_chinese, golds)) else _TOKEN_F1.get(example.source, f1)
    return {
        "em": exact_match(prediction, golds),
        "f1": token_f1(prediction, golds),
        "rouge_l": rouge_l(prediction, golds),
    }


def _v2_choice(completion: str) -> str | None:
    """The letter that LongBench v2's scorer reads: bold signs are dropped, and the case of the words counts."""
    text = (visible_text(completion) or "").replace("*", "")
    return next((match[1] for pattern in _V2_ANSWERS if (match := pattern.search(text))), None)


def mrcr_bin(tokens: int) -> str:
    """MRCR's bin of a prompt, such as ``8K–16K``."""
    if tokens < _MRCR_BINS[0]:
        return "below 4K"
    upper = next((bound for bound in _MRCR_BINS[1:] if tokens <= bound), None)
    return "over 1M" if upper is None else f"{_kilo(upper // 2)}–{_kilo(upper)}"


def _kilo(tokens: int) -> str:
    return "1M" if tokens == 1 << 20 else f"{tokens // 1024}K"
