"""Two evaluations beside each other: gain, verdict, flips, and how many items would decide."""

from __future__ import annotations

import math

import pytest
from evaluation_tables import BOOTSTRAP

from qwenlong_core.evaluation.compare import compare


def test_the_gain_is_paired_and_decided_where_its_interval_leaves_0(make_evaluation) -> None:
    worse, better = make_evaluation([0] * 30 + [1] * 10), make_evaluation([1] * 20 + [0] * 10 + [1] * 10)
    found = compare(worse, better, BOOTSTRAP)
    assert (found.overall.a, found.overall.b, found.overall.gain.mean) == (0.25, 0.75, 0.5)
    assert found.overall.verdict == "B is better" and found.items_to_decide is None
    assert len(found.flips) == 20 and {flip.gain for flip in found.flips} == {1.0}
    back = compare(better, worse, BOOTSTRAP)
    assert back.overall.verdict == "A is better" and back.overall.gain.mean == -0.5


def test_few_flips_are_inconclusive_and_the_items_that_would_decide_are_named(make_evaluation) -> None:
    """3 gained, 1 lost of 40: gain 0.05, standard error by hand; t(0.975) + t(0.8) of 39 documents is 2.873."""
    a = make_evaluation([0, 0, 0, 1] + [1, 0] * 18)
    b = make_evaluation([1, 1, 1, 0] + [1, 0] * 18)
    found = compare(a, b, BOOTSTRAP)
    assert found.overall.verdict == "INCONCLUSIVE"
    assert [flip.item for flip in found.flips] == ["q0000", "q0001", "q0002", "q0003"]
    variance = (4 - 40 * 0.05**2) / 40 / 39  # of the mean, over documents of one item each
    assert found.overall.gain.standard_error == pytest.approx(math.sqrt(variance))
    assert found.items_to_decide == math.ceil(40 * (2.873 * math.sqrt(variance) / 0.05) ** 2)


def test_equal_answers_have_no_number_that_decides(make_evaluation) -> None:
    found = compare(make_evaluation([1, 0, 1]), make_evaluation([1, 0, 1]), BOOTSTRAP)
    assert (found.overall.verdict, found.items_to_decide, found.flips) == ("INCONCLUSIVE", None, [])


def test_an_item_without_a_verdict_is_in_no_number_and_counted(make_evaluation) -> None:
    found = compare(make_evaluation([1, None, 0, 0]), make_evaluation([1, 1, None, 1]), BOOTSTRAP)
    assert (found.overall.items, found.left_out, found.overall.a, found.overall.b) == (2, 2, 0.5, 1.0)
    with pytest.raises(ValueError, match="no item has a verdict in both"):
        compare(make_evaluation([None, 1]), make_evaluation([1, None]), BOOTSTRAP)


def test_benchmarks_have_rows_of_their_own(make_evaluation) -> None:
    domains = ["math", "logical"] * 3
    found = compare(
        make_evaluation([0, 0, 1, 0, 1, 0], domains=domains),
        make_evaluation([1, 0, 1, 1, 0, 0], domains=domains),
        BOOTSTRAP,
    )
    assert {part.name.partition("-")[2]: (part.items, part.gain.mean) for part in found.benchmarks} == {
        "logical": (3, pytest.approx(1 / 3)),
        "math": (3, 0.0),
    }
    assert [(flip.item, flip.gain) for flip in found.flips] == [("q0000", 1.0), ("q0003", 1.0), ("q0004", -1.0)]


def test_other_items_are_refused(make_evaluation) -> None:
    with pytest.raises(ValueError, match=r"different items \(1 are in one alone\)"):
        compare(make_evaluation([1, 0]), make_evaluation([1, 0, 1]), BOOTSTRAP)
