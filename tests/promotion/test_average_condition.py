"""The gate on the average over the paper's seven, beside the mean over items."""

from dataclasses import replace

import pytest
from evaluation_tables import BOOTSTRAP, make_sample

from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.scores import compute_scores
from qwenlong_core.promotion.gate import decide
from qwenlong_core.settings.evaluation import PromotionSettings

CONDITION = "no loss in the average of the seven"


def evaluation(make_evaluation, model, values):
    """An evaluation with these values by benchmark, each item on a document of its own."""
    plain = make_evaluation([0] * sum(map(len, values.values())), model=model)
    items = [(source, value) for source, part in values.items() for value in part]
    samples = tuple(
        make_sample(item, value, source=source) for item, (source, value) in zip(plain.plan.items, items, strict=True)
    )
    return replace(plain, samples=samples, scores=compute_scores(samples, BOOTSTRAP))


def decision(make_evaluation, new, old):
    models = (evaluation(make_evaluation, name, values) for name, values in (("b", new), ("a", old)))
    found = decide(*models, PromotionSettings(), BOOTSTRAP)
    return found, {condition.name: condition for condition in found.conditions}


def test_a_gain_of_the_largest_alone_does_not_hide_a_loss_of_the_average(make_evaluation):
    old = dict.fromkeys(BENCHMARKS, (1, 0) * 10) | {"frames": (0, 1) * 100}
    new = {name: (0, 0, *part[2:]) for name, part in old.items()} | {"frames": (1, 1, 0, 1) * 50}
    found, conditions = decision(make_evaluation, new, old)
    assert conditions["gain"].passed and found.gain.mean > 0
    assert found.average.mean == pytest.approx((0.25 - 6 * 0.05) / 7)
    assert not conditions[CONDITION].passed and not found.promote
    assert "-0.007" in conditions[CONDITION].detail


def test_a_missing_benchmark_is_told_and_other_sets_are_not_asked(make_evaluation):
    six = {name: (0, 1) * 10 for name in BENCHMARKS if name != "frames"}
    found, conditions = decision(make_evaluation, six, six)
    assert found.average is None and conditions[CONDITION].passed
    assert conditions[CONDITION].detail == "there is none: frames not evaluated"
    _, conditions = decision(make_evaluation, {"generated": (0, 1) * 10}, {"generated": (0, 1) * 10})
    assert CONDITION not in conditions
