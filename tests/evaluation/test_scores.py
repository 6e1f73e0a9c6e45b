"""Numbers of an evaluation against values worked out by hand."""

import pytest
from evaluation_tables import BOOTSTRAP, make_sample

from qwenlong_core.evaluation.evidence import evidence_depth, occurrences
from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.evaluation.scores import compute_scores, summarise
from qwenlong_core.records import Example, Score


def samples_of(table):
    return [make_sample(item, value, sample=i) for item, row in table.items() for i, value in enumerate(row)]


def test_unscored_stays_in_the_denominator():
    result = summarise(samples_of({"a": [1], "b": [0], "c": [None], "d": [None]}), BOOTSTRAP)
    assert result.accuracy.mean == 0.25 and result.accuracy.items == 4
    assert result.accuracy_without_unscored.mean == 0.5 and result.accuracy_without_unscored.items == 2
    assert result.outcomes == {"right": 1, "wrong": 1, "no answer": 0, "truncated": 0, "unscored": 2, "error": 0}


def test_every_outcome_is_counted_apart_and_an_error_is_never_the_models():
    gone = dict(completion="", finish_reason="error")
    statuses = ("no_answer", "truncated", "unscored", "error")
    samples = [make_sample("right", 1), make_sample("wrong", 0)]
    samples += [make_sample(status, score=Score(value=None, status=status), **gone) for status in statuses]
    result = summarise(samples, BOOTSTRAP)
    assert result.outcomes == dict.fromkeys(("right", "wrong", "no answer", "truncated", "unscored", "error"), 1)
    assert result.accuracy.mean == pytest.approx(1 / 6) and result.accuracy.items == result.samples == 6
    assert result.accuracy_without_unscored.mean == 0.25 and result.accuracy_without_unscored.items == 4


def test_nothing_scored_has_no_score_without_unscored():
    assert summarise(samples_of({"a": [None]}), BOOTSTRAP).accuracy_without_unscored is None


def test_items_weigh_the_same_whatever_they_lost():
    # b has one scored sample of two: mean over items (1 + 0) / 2, not over samples (2 + 0) / 3
    result = summarise(samples_of({"a": [1, 1], "b": [0, None]}), BOOTSTRAP)
    assert result.accuracy_without_unscored.mean == 0.5


def test_pass_at_k_of_powers_of_two():
    # a: 1 of 4 right, b: 0 of 4; pass@2 of a: 1 - C(3,2)/C(4,2) = 1/2
    result = summarise(samples_of({"a": [1, 0, 0, 0], "b": [0, 0, 0, 0]}), BOOTSTRAP)
    assert result.pass_at_k == pytest.approx({1: 0.125, 2: 0.25, 4: 0.5})
    assert result.samples == 8 and result.items == 2


def test_slices_by_domain_source_length_and_depth():
    samples = [
        make_sample("a", 1, prompt_tokens=200, lost_tokens=56, depth=0.0),
        make_sample("b", 0, prompt_tokens=257, depth=1.0, domain="reading", source="qasper"),
        make_sample("c", 1, prompt_tokens=300_000, depth=0.19),
    ]
    scores = compute_scores(samples, BOOTSTRAP)
    assert {name: part.accuracy.mean for name, part in scores.domains.items()} == {"math": 1.0, "reading": 0.0}
    assert {name: part.items for name, part in scores.sources.items()} == {"generated": 2, "qasper": 1}
    assert {name: part.items for name, part in scores.lengths.items()} == {"0–256": 1, "256–512": 1, "over 128K": 1}
    assert {name: part.items for name, part in scores.depths.items()} == {"0%–20%": 2, "80%–100%": 1}
    assert scores.overall.truncated_prompts == 1


def test_own_metrics_are_means_over_the_samples_that_have_them():
    samples = [make_sample("a", metrics={"f1": 0.5}), make_sample("b", metrics={"f1": 0.0}), make_sample("c")]
    assert summarise(samples, BOOTSTRAP).metrics == {"f1": 0.25}


@pytest.mark.parametrize(
    ("changes", "extracted", "metrics"),
    [
        ({"answers": ("the Eiffel Tower",)}, "Eiffel tower!", {"em": 1.0, "f1": 1.0, "rouge_l": 0.8}),
        ({"answers": ("yes",), "source": "hotpotqa"}, "yes it is", {"em": 0.0, "f1": 0.0, "rouge_l": 0.5}),
        ({"answers": ("yes",)}, "yes it is", {"em": 0.0, "f1": 0.5, "rouge_l": 0.5}),
        ({"answer_type": "number", "answers": ("1,200",)}, "1200", {"numeric_accuracy": 1.0}),
        ({"answer_type": "number", "answers": ("1,200",)}, "-1200", {"numeric_accuracy": 0.0}),
        ({"answer_type": "choice", "answers": ("A",), "choices": ("x", "y")}, "A", {}),
        ({}, None, {"em": 0.0, "f1": 0.0, "rouge_l": 0.0}),
    ],
)
def test_official_metrics_by_answer_type(changes, extracted, metrics):
    # rouge_l by hand: "eiffel tower" in "the eiffel tower" P 1, R 2/3, F 0.8; "yes" in "yes it is" P 1/3, R 1, F 0.5
    assert official_metrics(example(**changes), extracted, 0.0015) == pytest.approx(metrics)


def test_no_samples_are_no_scores():
    with pytest.raises(ValueError, match="without samples"):
        compute_scores([], BOOTSTRAP)


def example(**changes):
    fields = dict(
        id="q",
        source="s",
        domain="reading",
        answer_type="span",
        question="?",
        answers=("Paris",),
        context="x" * 49 + " Paris " + "y" * 44,
    )
    return Example(**fields | changes)


def test_occurrences_are_whole_words_in_order_and_merged():
    text = "Parisian paris, New York City and York"
    assert occurrences(text, ("Paris", "New York", "York City")) == [(9, 14), (16, 29)]
    assert occurrences(text, ("", " ")) == []


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({}, 0.5),
        ({"metadata": {"evidence_depth": [0.1, 0.4]}}, 0.25),
        ({"context": "Paris and Paris"}, None),
        ({"answers": ("Rome",)}, None),
        ({"answer_type": "yes_no", "answers": ("Paris",)}, None),
        ({"answer_type": "choice", "answers": ("B",), "choices": ("Rome", "Paris")}, 0.5),
    ],
)
def test_evidence_depth(changes, depth):
    assert evidence_depth(example(**changes)) == depth
