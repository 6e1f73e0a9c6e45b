"""The parts of a gain, on tables of answers whose parts are known."""

from dataclasses import replace

import pytest
from evaluation_tables import BOOTSTRAP, SCORES

from qwenlong_core.evaluation.statistics import paired_difference
from qwenlong_core.records import Score
from qwenlong_core.report.gain import gain_rows

UNREADABLE = Score(value=0.0, rule=0.0, extracted=None, status="no_answer", reason="no answer")
FORMS = [("math", "figure", False)] * 6 + [("math", "year_of", True)] * 3 + [("logical", "order_of", True)] * 3


def evaluation(make_evaluation, values, digest):
    """``None`` is an answer that cannot be read; the last six items have forms that were never trained on."""
    made = make_evaluation([value or 0 for value in values], digest)
    samples = [
        replace(
            sample, domain=domain, kind=kind, untrained=untrained, score=UNREADABLE if value is None else SCORES[value]
        )
        for sample, value, (domain, kind, untrained) in zip(made.samples, values, FORMS, strict=True)
    ]
    return replace(made, samples=tuple(samples))


@pytest.fixture
def rows(make_evaluation):
    base = [None, None, None, 0, 0, 1, None, 0, 0, 0, 1, None]
    sft = [1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, None]
    last = [1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, None]
    stages = {"base": base, "sft": sft, "grpo-1": last}
    found = gain_rows({name: evaluation(make_evaluation, table, name) for name, table in stages.items()}, BOOTSTRAP)
    return {row["part"]: row for row in found}


def test_each_part_has_its_items_shares_and_scores(rows):
    numbers = {
        part: (row["items"], row["readable before"], row["readable after"], row["score before"], row["score after"])
        for part, row in rows.items()
    }
    assert numbers == {
        "grpo-1 over base: all items": (12, 7 / 12, 11 / 12, 2 / 12, 9 / 12),
        "grpo-1 over base: the answer was readable before": (7, 1, 1, 2 / 7, 6 / 7),
        "grpo-1 over base: forms of question trained on": (6, 3 / 6, 1, 1 / 6, 5 / 6),
        "grpo-1 over base: logical, never trained on: order_of": (3, 2 / 3, 2 / 3, 1 / 3, 2 / 3),
        "grpo-1 over base: math, never trained on: year_of": (3, 2 / 3, 1, 0, 2 / 3),
        "grpo-1 over sft: all items": (12, 11 / 12, 11 / 12, 5 / 12, 9 / 12),
    }


def test_gains_are_paired_and_have_the_gates_interval(rows):
    row = rows["grpo-1 over base: the answer was readable before"]
    expected = paired_difference(
        [1, 0, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 0, 1],
        ["doc-q0003", "doc-q0004", "doc-q0005", "doc-q0007", "doc-q0008", "doc-q0009", "doc-q0010"],
        **BOOTSTRAP.model_dump(),
    )
    assert row["gain"].estimate == expected and float(row["gain"]) == pytest.approx(4 / 7)


def test_a_single_evaluation_has_no_gain(make_evaluation):
    assert gain_rows({"base": make_evaluation([0, 1], "a")}) == []
