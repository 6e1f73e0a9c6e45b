"""The benchmarks' own metrics, shown beside our score. No decision depends on them."""

from __future__ import annotations

from qwenlong_core.records import Example
from qwenlong_core.rewards.docmath import docmath_accuracy
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


def official_metrics(example: Example, extracted: str | None, number_tolerance: float) -> dict[str, float]:
    """Metrics by name for one extracted answer; no answer scores 0 in each.

    Numbers have ``numeric_accuracy``, and DocMath's also ``docmath_accuracy``, its scorer's own, which accepts more.
    Texts have ``em``, ``f1`` (SQuAD's, or the benchmark's own; over characters if a gold is Chinese) and ``rouge_l``
    (NarrativeQA). Aliases of a gold count as golds here. A choice has none, since its metric is plain accuracy.
    """
    prediction, golds = extracted or "", example.answers
    if example.answer_type == "choice":
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
